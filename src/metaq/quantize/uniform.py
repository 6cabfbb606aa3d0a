"""Uniform buckets over the range of the weights (METHOD, section 1); numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metaq.config import require
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor

Grouping = Literal["tensor", "global"]


def uniform_grids(
    weights: Mapping[str, NDArray[np.floating]],
    *,
    count: int,
    center: float | None = None,
    radius: float | None = None,
    grouping: Grouping = "tensor",
) -> dict[str, BucketGrid]:
    """A grid of `count` buckets for every tensor, over its own range or, for ``"global"``, over that of all.

    The centre is the middle of the group's extremes, and the radius the distance from it to the farther one, unless
    given. Weights outside the range take the end bucket. Where weights are exactly zero and no centre is given, it is
    moved by less than a bucket so that zero is a reference value.

    Raises :class:`ConfigError` if a weight is NaN or infinite, or a value does not make a grid.
    """
    require(bool(weights), "weights: there is no tensor to quantise.")
    for name, values in weights.items():
        require(bool(np.isfinite(values).all()), f"{name}: holds NaN or infinity, which cannot be quantised.")
    extremes = {name: (float(values.min()), float(values.max())) for name, values in weights.items()}
    has_zeros = {name: center is None and not values.all() for name, values in weights.items()}
    if grouping == "global":
        lowest, highest = min(low for low, _ in extremes.values()), max(high for _, high in extremes.values())
        extremes = dict.fromkeys(extremes, (lowest, highest))
        has_zeros = dict.fromkeys(has_zeros, any(has_zeros.values()))
    return {
        name: _grid_over(*pair, count=count, center=center, radius=radius, keeps_zeros=has_zeros[name], name=name)
        for name, pair in extremes.items()
    }


def quantize_array(name: str, values: NDArray[np.floating], grid: BucketGrid, dtype: Dtype) -> QuantizedTensor:
    """Snap to `grid` what is restored as `dtype`; :class:`ConfigError` names the tensor if a value is not finite."""
    try:
        return QuantizedTensor(name=name, indices=grid.assign(values), grid=grid, dtype=dtype)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _grid_over(
    lowest: float,
    highest: float,
    *,
    count: int,
    center: float | None,
    radius: float | None,
    keeps_zeros: bool,
    name: str,
) -> BucketGrid:
    middle = (lowest + highest) / 2 if center is None else center
    half_width = max(highest - middle, middle - lowest) if radius is None else radius
    if half_width == 0:
        half_width = abs(middle) or 1.0
    if keeps_zeros and count > 1:
        # Moved by half a bucket at most, so that a bucket less has to cover the weights.
        half_width *= 1.0 if radius is not None else count / (count - 1)
        step = 2 * half_width / count
        offset = 0.0 if count % 2 else 0.5
        middle = step * (round(middle / step - offset) + offset)
    try:
        return BucketGrid(center=middle, radius=half_width, count=count)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
