"""Random crops and mirror images, the usual augmentation of photographs, for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from metaq.config import Config, require
from metaq.errors import DataError

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
