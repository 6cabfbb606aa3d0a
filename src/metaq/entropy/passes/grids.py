"""The grids of all groups, as arrays that a pass over the weights can index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import require
from metaq.errors import NonFiniteError
from metaq.tensors.grid import BucketGrid

GroupArray = Any
"""Numbers by group, float64: a NumPy array on the host, a tensor on another device.

The two have enough functions in common for one formula to serve both, but no type.
"""

HALF = torch.finfo(torch.float16)


class GridSet:
    """Parameters of G grids with the same number of buckets, by group: all on the host, or all on one other device.

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

    def __init__(self, *, center: GroupArray, radius: GroupArray, count: int) -> None:
        self.count = count
        self.center = center
        self.radius = radius
        self.lower = center - radius
        self.step_size = 2.0 * radius / count
        self.first = center + radius * (1 - count) / count

    @classmethod
    def of(cls, grids: Sequence[BucketGrid]) -> GridSet:
        """The set of `grids`, one for each group, on the host."""
        count = grids[0].count
        require(all(grid.count == count for grid in grids), "grids: all must have the same number of buckets.")
        center, radius = np.array([grid.center for grid in grids]), np.array([grid.radius for grid in grids])
        return cls(center=center, radius=radius, count=count)

    def on(self, device: torch.device) -> GridSet:
        """The same grids as tensors on `device`."""
        if isinstance(self.radius, torch.Tensor) and self.radius.device == device:
            return self
        center, radius = (torch.as_tensor(array, device=device) for array in (self.center, self.radius))
        return GridSet(center=center, radius=radius, count=self.count)

    def on_host(self) -> GridSet:
        """The same grids as NumPy arrays."""
        return GridSet(center=on_host(self.center), radius=on_host(self.radius), count=self.count)

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, group: int) -> BucketGrid:
        return BucketGrid(center=float(self.center[group]), radius=float(self.radius[group]), count=self.count)

    def __iter__(self) -> Iterator[BucketGrid]:
        return (self[group] for group in range(len(self)))

    def rescaled(self, factors: GroupArray) -> GridSet:
        """Grids with every radius times its factor, rounded to float32, which takes half the bytes in a file.

        Raises
        ------
        NonFiniteError
            If a radius is beyond the range of float32; on another device than the host no-one looks.
        """
        if isinstance(self.radius, torch.Tensor):
            return GridSet(center=self.center, radius=(self.radius * factors).float().double(), count=self.count)
        with np.errstate(over="ignore", invalid="ignore"):
            radius = (self.radius * on_host(factors)).astype(np.float32).astype(np.float64)
        if not ((radius > 0) & (radius < np.inf)).all():
            raise NonFiniteError(
                "step size: beyond the range of float32; lower step_learning_rate or scale the weights."
            )
        return GridSet(center=self.center, radius=radius, count=self.count)

    def rounded(self) -> GridSet:
        """Grids with every step size rounded to float16 where that has eleven bits for it: two bytes in a file; on the
        host.
        """
        grids = self.on_host()
        steps, radius = on_host(grids.step_size), on_host(grids.radius)
        fit = (steps >= HALF.smallest_normal) & (steps <= HALF.max)
        halves = np.where(fit, steps, 1.0).astype(np.float16).astype(np.float64)
        return GridSet(center=grids.center, radius=np.where(fit, halves * self.count / 2, radius), count=self.count)


def on_host(array: GroupArray) -> NDArray[np.float64]:
    """A NumPy array of the same numbers; waits for the device if it has to."""
    found: NDArray[np.float64] = array.cpu().numpy() if isinstance(array, torch.Tensor) else array
    return found
