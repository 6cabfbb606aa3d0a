"""Distortions: how far they go, what they leave alone, and that they can be repeated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metaq.errors import ConfigError, DataError
from metaq.lab.data import Augmentation, augment

NONE = Augmentation(rotation_degrees=0, scale=0, shear=0, shift_pixels=0, elastic_pixels=0, clean_fraction=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, channels: int = 1, height: int = 28, width: int = 28) -> Tensor:
    return torch.rand(count, channels, height, width, generator=generator(9))


def blob(count: int, *, x: float, y: float, size: int = 41) -> Tensor:
    """Images of a Gaussian blob, `x` pixels right of the centre and `y` below it."""
    pixels = torch.arange(size) - (size - 1) / 2
    image = torch.exp(-((pixels - x) ** 2)[None, :] / 4 - ((pixels - y) ** 2)[:, None] / 4)
    return image.expand(count, 1, size, size)


def centres(images: Tensor) -> Tensor:
    """Centre of mass, (N, 2) of x and y in pixels from the centre."""
    pixels = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    mass = images.sum(dim=(1, 2, 3))
    x = (images * pixels).sum(dim=(1, 2, 3)) / mass
    y = (images * pixels[:, None]).sum(dim=(1, 2, 3)) / mass
    return torch.stack((x, y), dim=1)


def test_the_same_seed_gives_the_same_images() -> None:
    images = noise(16)
    first = augment(images, Augmentation(), generator=generator(3))
    assert torch.equal(first, augment(images, Augmentation(), generator=generator(3)))
    assert not torch.equal(first, augment(images, Augmentation(), generator=generator(4)))


def test_the_global_generator_and_the_input_are_left_alone() -> None:
    images = noise(4)
    before, state = images.clone(), torch.get_rng_state()
    augment(images, Augmentation(), generator=generator())
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("fraction", "clean"), [(0.0, 0), (0.3, 12), (0.75, 30), (1.0, 40)])
def test_the_clean_share_is_bit_identical(fraction: float, clean: int) -> None:
    images = noise(40)
    for result in (
        augment(images, Augmentation(), clean_fraction=fraction, generator=generator()),
        augment(images, Augmentation(clean_fraction=fraction), generator=generator()),
    ):
        assert int((result == images).flatten(1).all(dim=1).sum()) == clean


def test_which_images_stay_clean_is_random() -> None:
    images = noise(10)
    source = generator()
    seen = {
        tuple((augment(images, Augmentation(), generator=source) == images).flatten(1).all(1).tolist())
        for _ in range(20)
    }
    assert len(seen) > 10


def test_without_distortion_images_stay_as_they_are() -> None:
    images = noise(3, channels=2, height=6, width=11)
    torch.testing.assert_close(augment(images, NONE, generator=generator()), images)


def test_shifts_are_uniform_within_the_limit() -> None:
    moved = centres(augment(blob(400, x=0, y=0), replace(NONE, shift_pixels=3.0), generator=generator()))
    assert float(moved.abs().max()) <= 3.01
    torch.testing.assert_close(moved.std(dim=0), torch.full((2,), 3**0.5), rtol=0.1, atol=0)


def test_rotation_keeps_the_distance_from_the_centre_within_the_angle() -> None:
    moved = centres(augment(blob(200, x=10, y=0), replace(NONE, rotation_degrees=30.0), generator=generator()))
    torch.testing.assert_close(moved.norm(dim=1), torch.full((200,), 10.0), rtol=0.02, atol=0)
    angles = torch.rad2deg(torch.atan2(moved[:, 1], moved[:, 0]))
    assert 25 < float(angles.abs().max()) <= 30.5
    assert abs(float(angles.mean())) < 4


def test_rotation_is_rigid_on_oblong_images() -> None:
    square = blob(50, x=8, y=0)
    turned = replace(NONE, rotation_degrees=20.0)
    whole = augment(square, turned, generator=generator())
    # The rows left out are far from the blob, so that nothing but the shape of the image changes.
    oblong = augment(square[:, :, 8:-8], turned, generator=generator())
    torch.testing.assert_close(oblong, whole[:, :, 8:-8], rtol=0, atol=1e-4)


def test_scale_moves_along_each_axis() -> None:
    moved = centres(augment(blob(200, x=10, y=-10), replace(NONE, scale=0.2), generator=generator()))
    assert float(moved.abs().min()) > 10 / 1.2 - 0.2
    assert float(moved.abs().max()) < 10 / 0.8 + 0.2


def test_shear_moves_in_proportion_to_the_height() -> None:
    moved = centres(augment(blob(200, x=0, y=10), replace(NONE, shear=0.3), generator=generator()))
    assert 2.5 < float(moved[:, 0].abs().max()) < 3.2
    torch.testing.assert_close(moved[:, 1], torch.full((200,), 10.0), rtol=0.02, atol=0)


def test_elastic_displacements_have_the_stated_size_at_grid_points() -> None:
    # With five points over 41 pixels, the middle point is the centre of the image.
    moved = centres(
        augment(blob(600, x=0, y=0), replace(NONE, elastic_pixels=1.5, elastic_cells=3), generator=generator())
    )
    torch.testing.assert_close(moved.std(dim=0), torch.full((2,), 1.5), rtol=0.15, atol=0)


def test_what_comes_from_outside_is_zero() -> None:
    result = augment(torch.ones(50, 1, 9, 9), replace(NONE, shift_pixels=30.0), generator=generator())
    assert bool((result.flatten(1).amax(dim=1) == 0).any())
    assert float(result.min()) >= 0
    assert float(result.max()) <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 1, 1, 1), (3, 3, 1, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    result = augment(torch.ones(shape, dtype=dtype), Augmentation(clean_fraction=0), generator=generator())
    assert result.shape == shape
    assert result.dtype == dtype
    assert bool(result.isfinite().all())


@pytest.mark.parametrize(
    "fields",
    [
        {"rotation_degrees": -1.0},
        {"rotation_degrees": 181.0},
        {"scale": 1.0},
        {"shear": float("inf")},
        {"shift_pixels": float("nan")},
        {"elastic_pixels": -0.1},
        {"elastic_cells": 1},
        {"elastic_cells": 65},
        {"clean_fraction": 1.01},
        {"clean_fraction": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields)).split("_")[0]):
        Augmentation(**fields)  # type: ignore[arg-type]


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 28, 28\)"):
        augment(noise(2)[0], NONE, generator=generator())
    with pytest.raises(DataError, match="uint8"):
        augment(noise(2).to(torch.uint8), NONE, generator=generator())


def test_an_augmentation_survives_json() -> None:
    assert Augmentation.from_json(Augmentation(shear=0.25).to_json()) == Augmentation(shear=0.25)
