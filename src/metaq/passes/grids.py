"""The grids of all groups, as arrays that a pass over the weights can index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.config import require
from metaq.errors import NonFiniteError
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

    def __init__(self, *, center: NDArray[np.float64], radius: NDArray[np.float64], count: int) -> None:
        self.count = count
        self.center = center
        self.radius = radius
        self.lower, self.step_size, self.first = _places(center, radius, count)

    @classmethod
    def of(cls, grids: Sequence[BucketGrid]) -> GridSet:
        """The set of `grids`, one for each group."""
        count = grids[0].count
        require(all(grid.count == count for grid in grids), "grids: all must have the same number of buckets.")
        center, radius = np.array([grid.center for grid in grids]), np.array([grid.radius for grid in grids])
        return cls(center=center, radius=radius, count=count)

    def __len__(self) -> int:
        return self.center.size

    def __getitem__(self, group: int) -> BucketGrid:
        return BucketGrid(center=float(self.center[group]), radius=float(self.radius[group]), count=self.count)

    def __iter__(self) -> Iterator[BucketGrid]:
        return (self[group] for group in range(len(self)))

    def rescaled(self, factors: NDArray[np.float64]) -> GridSet:
        """Grids with every radius times its factor, rounded to float32, which takes half the bytes in a file.

        Raises
        ------
        NonFiniteError
            If a radius is beyond the range of float32.
        """
        radius, fits = _times(self.radius, factors)
        if not fits:
            raise NonFiniteError(
                "step size: beyond the range of float32; lower step_learning_rate or scale the weights."
            )
        return GridSet(center=self.center, radius=radius, count=self.count)

    def rounded(self) -> GridSet:
        """Grids with every step size rounded to float16 where that has eleven bits for it: two bytes in a file."""
        steps = self.step_size
        fit = (steps >= np.finfo(np.float16).smallest_normal) & (steps <= np.finfo(np.float16).max)
        halves = np.where(fit, steps, 1.0).astype(np.float16).astype(np.float64)
        return GridSet(center=self.center, radius=np.where(fit, halves * self.count / 2, self.radius), count=self.count)


@compiled
def _places(
    center: NDArray[np.float64], radius: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    return center - radius, 2.0 * radius / count, center + radius * (1 - count) / count


@compiled
def _times(radius: NDArray[np.float64], factors: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Products rounded to float32; whether all are positive and finite."""
    products = np.empty(radius.size)
    fits = True
    for group in range(radius.size):
        products[group] = np.float32(radius[group] * factors[group])
        fits &= 0 < products[group] < np.inf
    return products, fits
