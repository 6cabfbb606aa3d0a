"""Uniform buckets over the range of the weights (METHOD, section 1), or through a few given values; numpy only."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metaq.config import require
from metaq.container.layout import grid_fits
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor, values_of

Grouping = Literal["tensor", "global"]

MOST_LOSSLESS = 1 << 12
"""Buckets of a grid on which given values lie exactly."""


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
    grids = {}
    for name, (lowest, highest) in extremes.items():
        middle = (lowest + highest) / 2 if center is None else center
        half_width = max(highest - middle, middle - lowest) if radius is None else radius
        if half_width == 0:
            half_width = abs(middle) or 1.0
        if has_zeros[name] and count > 1:
            # Moved by half a bucket at most, so that a bucket less has to cover the weights.
            half_width *= 1.0 if radius is not None else count / (count - 1)
            step = 2 * half_width / count
            offset = 0.0 if count % 2 else 0.5
            middle = step * (round(middle / step - offset) + offset)
        try:
            grids[name] = BucketGrid(center=middle, radius=half_width, count=count)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return grids


def quantize_array(name: str, values: NDArray[np.floating], grid: BucketGrid, dtype: Dtype) -> QuantizedTensor:
    """Snap to `grid` what is restored as `dtype`; :class:`ConfigError` names the tensor if a value is not finite."""
    try:
        return QuantizedTensor(name=name, indices=grid.assign(values), grid=grid, dtype=dtype)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def lossless_grid(values: Sequence[float], dtype: Dtype) -> BucketGrid | None:
    """A grid from which every one of `values` is restored bit for bit, or None if none is found.

    They are finite, different, in increasing order, at least one; `dtype` is that of the tensor that takes them.
    """
    require(len(values) > 0, "values: there are none.")
    points = np.array(values, dtype=np.float64)
    step = float(np.diff(points).min()) if len(points) > 1 else abs(float(points[0])) or 1.0
    places = np.round((points - points[0]) / step)
    if places[-1] >= MOST_LOSSLESS:
        return None
    # An odd count has the middle value exactly, whatever it is.
    count = max(int(places[-1]) + 1, 3) | 1
    center = float(points[0]) + step * (count // 2) if len(points) > 1 else float(points[0])
    try:
        grid = BucketGrid(center=center, radius=step * count / 2, count=count)
    except ConfigError:
        return None
    return grid if grid_fits(grid, dtype) and _is_exact(grid, points, dtype) else None


def _is_exact(grid: BucketGrid, points: NDArray[np.float64], dtype: Dtype) -> bool:
    restored = QuantizedTensor(name="", indices=grid.assign(points), grid=grid, dtype=dtype).restore()
    # No grid has a negative zero.
    return np.array_equal(values_of(restored, dtype), points) and not np.signbit(points[points == 0]).any()
