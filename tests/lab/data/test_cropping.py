"""Crops and mirror images: where pixels come from, and that they can be repeated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metaq.errors import ConfigError, DataError
from metaq.lab.data import CropAndFlip, crop_and_flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int = 6, width: int = 5, channels: int = 2) -> Tensor:
    """Images in which no two pixels are alike, and none is zero."""
    return torch.arange(1, 1 + count * channels * height * width).reshape(count, channels, height, width)


def variants(image: Tensor, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of an image, and of its mirror image, by its bytes."""
    _, height, width = image.shape
    padded = functional.pad(image, (padding,) * 4)
    found = {}
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[:, row : row + height, column : column + width]
            found[crop.contiguous().numpy().tobytes()] = (row, column, False)
            found[crop.flip(2).contiguous().numpy().tobytes()] = (row, column, True)
    return found


def test_every_image_becomes_one_of_its_crops_and_all_of_them_occur() -> None:
    images = numbered(1).expand(2000, 2, 6, 5)
    known = variants(images[0], 2)
    varied = crop_and_flip(images, CropAndFlip(padding_pixels=2), generator=generator())
    seen = [known[image.contiguous().numpy().tobytes()] for image in varied]
    assert len(set(seen)) == 5 * 5 * 2
    mirrored = sum(is_mirrored for _, _, is_mirrored in seen) / len(seen)
    assert abs(mirrored - 0.5) < 0.05


def test_images_of_a_batch_vary_independently_and_stay_in_their_places() -> None:
    images = numbered(12)
    varied = crop_and_flip(images, CropAndFlip(), generator=generator())
    places = [
        variants(image, 4)[crop.contiguous().numpy().tobytes()] for image, crop in zip(images, varied, strict=True)
    ]
    assert len(set(places)) > 6


def test_nothing_is_mirrored_or_moved_unless_asked_for() -> None:
    images = numbered(20)
    assert torch.equal(crop_and_flip(images, CropAndFlip(padding_pixels=0, flips=False), generator=generator()), images)
    shifted = crop_and_flip(images, CropAndFlip(padding_pixels=1, flips=False), generator=generator())
    for image, crop in zip(images, shifted, strict=True):
        assert not variants(image, 1)[crop.contiguous().numpy().tobytes()][2]


def test_the_same_seed_gives_the_same_images_and_leaves_all_else_alone() -> None:
    images = numbered(16)
    before, state = images.clone(), torch.get_rng_state()
    first = crop_and_flip(images, CropAndFlip(), generator=generator(3))
    assert torch.equal(first, crop_and_flip(images, CropAndFlip(), generator=generator(3)))
    assert not torch.equal(first, crop_and_flip(images, CropAndFlip(), generator=generator(4)))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 1, 1, 1), (3, 2, 1, 9)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_dtype_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    result = crop_and_flip(torch.ones(shape, dtype=dtype), CropAndFlip(padding_pixels=64), generator=generator())
    assert result.shape == shape
    assert result.dtype == dtype


def test_values_and_shapes_that_do_not_fit_are_refused() -> None:
    for padding in (-1, 65):
        with pytest.raises(ConfigError, match="padding_pixels"):
            CropAndFlip(padding_pixels=padding)
    with pytest.raises(DataError, match=r"shape \(2, 6, 5\)"):
        crop_and_flip(numbered(1)[0], CropAndFlip(), generator=generator())
