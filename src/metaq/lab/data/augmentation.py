"""Random distortions, crops and mirror images, for a whole batch at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from metaq.config import Config, require
from metaq.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augmentation(Config):
    """How far images are distorted; raises :class:`ConfigError` if a field is outside its range.

    An image is rotated about its centre by up to `rotation_degrees` in [0, 180], each axis is scaled by a factor in
    ``[1 - scale, 1 + scale]`` and shifted by up to `shift_pixels`, and a pixel moves sideways by up to `shear` pixels
    per pixel of height, all of it uniform. At the points of a coarse grid, `elastic_cells` along each axis from 2 to
    64, the outer ones on the border of the image, displacements are normal with a standard deviation of
    `elastic_pixels`; between them they are interpolated cubically. The share `clean_fraction` of a batch, rounded to
    whole images, is left as it is.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.08
    shear: float = 0.1
    shift_pixels: float = 1.5
    elastic_pixels: float = 1.0
    elastic_cells: int = 5
    clean_fraction: float = 0.3

    def __post_init__(self) -> None:
        require(0 <= self.rotation_degrees <= 180, f"rotation: {self.rotation_degrees} degrees is not in [0, 180].")
        require(0 <= self.scale < 1, f"scale: {self.scale} is not in [0, 1).")
        for name in ("shear", "shift_pixels", "elastic_pixels"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name}: {value} is not a finite number from 0 upwards.")
        require(2 <= self.elastic_cells <= 64, f"elastic_cells: {self.elastic_cells} is not between 2 and 64.")
        require(0 <= self.clean_fraction <= 1, f"clean_fraction: {self.clean_fraction} is not between 0 and 1.")


def augment(
    images: Tensor, augmentation: Augmentation, *, clean_fraction: float | None = None, generator: torch.Generator
) -> Tensor:
    """Distort a random part of `images` and leave the rest bit-identical; gives a new tensor.

    A distorted image takes, at every pixel, the bilinear interpolation of the original at another place: that pixel's
    place under a random affine map, plus a smooth random displacement. Outside the image everything is zero. The share
    `clean_fraction` that is left as it is takes the place of the one in `augmentation`. On one machine the same state
    of the generator gives the same images. Raises :class:`DataError` if `images` are not floating point of shape (N,
    channels, height, width).
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise DataError(
            f"images: {images.dtype} of shape {tuple(images.shape)} given; floating point of shape "
            "(N, channels, height, width) is needed."
        )
    fraction = augmentation.clean_fraction if clean_fraction is None else clean_fraction
    order = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)
    distorted = order[round(fraction * len(images)) :]
    result = images.clone()
    if distorted.numel() and images.numel():
        grid = _sampling_grid(len(distorted), images, augmentation, generator)
        result[distorted] = functional.grid_sample(
            images[distorted], grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
    return result


def _sampling_grid(count: int, images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Where each pixel of `count` images comes from, (count, height, width, 2), in grid_sample's coordinates.

    Both the affine map and the interpolated displacement are sums of products of a function of the row and one of the
    column. Joining these functions in one basis gives the whole grid with two small matrix products.
    """
    height, width = images.shape[2:]
    rows, columns = (_basis(size, augmentation.elastic_cells, images) for size in (height, width))
    coefficients = _coefficients(count, augmentation, generator).to(images)
    # grid_sample's coordinates run from -1 to 1 over each axis, ours are pixels from the centre.
    coefficients *= images.new_tensor([2 / width, 2 / height])[:, None, None]
    grid = rows @ coefficients @ columns.T  # (count, 2, height, width)
    return grid.permute(0, 2, 3, 1)


def _basis(size: int, cells: int, like: Tensor) -> Tensor:
    """Functions of the pixel along one axis: `cells` cubic interpolation weights, one, and pixels from the centre."""
    identity = torch.eye(cells, dtype=like.dtype, device=like.device)
    weights = functional.interpolate(identity[None, :, :, None], size=(size, 1), mode="bicubic", align_corners=True)
    pixels = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    return torch.cat((weights[0, :, :, 0].T, torch.ones_like(pixels)[:, None], pixels[:, None]), dim=1)


def _coefficients(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Random coefficients of the two source coordinates in the products of :func:`_basis`'s functions."""
    cells, constant, linear = augmentation.elastic_cells, augmentation.elastic_cells, augmentation.elastic_cells + 1
    uniform = torch.rand(6, count, generator=generator, device=generator.device).mul_(2).sub_(1)
    angle = uniform[0] * math.radians(augmentation.rotation_degrees)
    scale_x, scale_y = 1 + augmentation.scale * uniform[1:3]
    shear = augmentation.shear * uniform[3]
    cosine, sine = angle.cos(), angle.sin()
    result = angle.new_zeros(count, 2, cells + 2, cells + 2)
    result[:, :, :cells, :cells].normal_(std=augmentation.elastic_pixels, generator=generator)
    # (x, y) comes from rotation · scale · (x + shear y, y) + shift.
    result[:, 0, constant, linear] = cosine * scale_x
    result[:, 0, linear, constant] = cosine * scale_x * shear - sine * scale_y
    result[:, 1, constant, linear] = sine * scale_x
    result[:, 1, linear, constant] = sine * scale_x * shear + cosine * scale_y
    result[:, :, constant, constant] = augmentation.shift_pixels * uniform[4:6].T
    return result


MAX_PADDING = 64


@dataclass(frozen=True, kw_only=True)
class CropAndFlip(Config):
    """How photographs are varied (He et al. 2016 for CIFAR-10).

    Every image is padded with `padding_pixels` zeros on each side, from 0 to 64, and a part of its own size is cut out
    at a random place. With `flips`, a random half of the images is mirrored, left to right.
    """

    padding_pixels: int = 4
    flips: bool = True

    def __post_init__(self) -> None:
        padding = self.padding_pixels
        require(0 <= padding <= MAX_PADDING, f"padding_pixels: {padding} is not between 0 and {MAX_PADDING}.")


def crop_and_flip(images: Tensor, config: CropAndFlip, *, generator: torch.Generator) -> Tensor:
    """Cut a random part out of every image, (N, channels, height, width) of any dtype, and mirror some; a new tensor.

    The generator is on the CPU: the same state gives the same images on every device.

    Examples
    --------
    >>> images = torch.tensor([[[[1, 2, 3]]]])
    >>> crop_and_flip(images, CropAndFlip(padding_pixels=0), generator=torch.Generator().manual_seed(0))
    tensor([[[[3, 2, 1]]]])
    """
    if images.dim() != 4:
        raise DataError(f"images: of shape {tuple(images.shape)}; (N, channels, height, width) is needed.")
    count, channels, height, width = images.shape
    padding, device = config.padding_pixels, images.device
    offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < (0.5 if config.flips else 0.0)
    rows = offsets[0] + torch.arange(height)
    columns = offsets[1] + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    padded = functional.pad(images, (padding,) * 4)
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows.to(device)[:, None, :, None],
        columns.to(device)[:, None, None, :],
    ]
