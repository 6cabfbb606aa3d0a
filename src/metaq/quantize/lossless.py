"""Grids on which a few given values lie exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.config import require
from metaq.container.layout import grid_fits
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor, values_of

LARGEST_COUNT = 1 << 12


def lossless_grid(values: Sequence[float], dtype: Dtype) -> BucketGrid | None:
    """A grid from which every one of `values` is restored bit for bit, or None if none is found.

    They are finite, different, in increasing order, at least one; `dtype` is that of the tensor that takes them.
    """
    require(len(values) > 0, "values: there are none.")
    points = np.array(values, dtype=np.float64)
    step = float(np.diff(points).min()) if len(points) > 1 else abs(float(points[0])) or 1.0
    places = np.round((points - points[0]) / step)
    if places[-1] >= LARGEST_COUNT:
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
