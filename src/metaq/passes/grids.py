"""The grids of all groups, as arrays that a pass over the weights can index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaq.config import require
from metaq.grid import BucketGrid


class GridSet:
    """Parameters of G grids with the same number of buckets, by group.

    Attributes
    ----------
    count
        Number of buckets C of every grid.
    first
        First reference value, float64 of shape (G,).
    lower
        Left edge of the first bucket, float64 of shape (G,).
    step_size
        Distance between reference values, float64 of shape (G,).
    center, radius
        Middle and half-width of the ranges, float64 of shape (G,).
    """

    def __init__(self, grids: Sequence[BucketGrid]) -> None:
        self.count = grids[0].count
        require(all(grid.count == self.count for grid in grids), "grids: all must have the same number of buckets.")
        self.center = np.array([grid.center for grid in grids])
        self.radius = np.array([grid.radius for grid in grids])
        self.lower = self.center - self.radius
        self.step_size = 2.0 * self.radius / self.count
        self.first = self.center + self.radius * (1 - self.count) / self.count

    def __len__(self) -> int:
        return self.center.size
