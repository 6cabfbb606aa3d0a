"""The grids of all groups, as tensors that a pass over the weights can index, and in what units it counts."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import torch

from metaq.config import require
from metaq.errors import NonFiniteError
from metaq.tensors.grid import BucketGrid

CPU = torch.device("cpu")
HALF = torch.finfo(torch.float16)

# Counts and sums of fractions are in one 64-bit integer: sums are exact, do not depend on their order, and one integer
# addition serves both.
UNIT_BITS = 32
"""A step has 2^UNIT_BITS units."""

COUNT_SHIFT = 47
"""Bits of a slot below its count."""

SLOT_CAPACITY = 1 << (COUNT_SHIFT - UNIT_BITS)
"""Weights a slot can take before its sum of units may reach the bits of its count."""

Number = torch.Tensor | float
"""A parameter of one grid, or of a grid for each weight: float64 of the shape of the weights."""


class GridSet:
    """Parameters of G grids of `count` buckets each, float64 of shape (G,), all on one device.

    `center` and `radius` are middle and half-width of the ranges, `lower` the left edge of the first bucket, `first`
    its reference value, `step_size` the distance between reference values.
    """

    def __init__(self, *, center: torch.Tensor, radius: torch.Tensor, count: int) -> None:
        self.count = count
        self.center = center
        self.radius = radius
        self.lower = center - radius
        self.step_size = 2.0 * radius / count
        self.first = center + radius * (1 - count) / count

    @classmethod
    def of(cls, grids: Sequence[BucketGrid], device: torch.device = CPU) -> Self:
        """The set of `grids`, one for each group."""
        count = grids[0].count
        require(all(grid.count == count for grid in grids), "grids: all must have the same number of buckets.")
        center, radius = (
            torch.tensor([getattr(grid, name) for grid in grids], dtype=torch.float64, device=device)
            for name in ("center", "radius")
        )
        return cls(center=center, radius=radius, count=count)

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.radius.device

    def on(self, device: torch.device) -> Self:
        """The same grids on `device`; waits for the present one if it has to."""
        if self.device == device:
            return self
        return type(self)(center=self.center.to(device), radius=self.radius.to(device), count=self.count)

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, group: int) -> BucketGrid:
        return BucketGrid(center=float(self.center[group]), radius=float(self.radius[group]), count=self.count)

    def __iter__(self) -> Iterator[BucketGrid]:
        return (self[group] for group in range(len(self)))

    def rescaled(self, factors: torch.Tensor) -> Self:
        """Grids with every radius times its factor, rounded to float32, which takes half the bytes in a file.

        Refuses a radius beyond the range of float32 by :class:`NonFiniteError`, on a CPU only.
        """
        radius = (self.radius * factors).float().double()
        if radius.is_cpu and not bool(((radius > 0) & (radius < torch.inf)).all()):
            raise NonFiniteError(
                "step size: beyond the range of float32; lower step_learning_rate or scale the weights."
            )
        return type(self)(center=self.center, radius=radius, count=self.count)

    def rounded(self) -> Self:
        """Grids on the CPU, step sizes rounded to float16, two bytes in a file, where that has eleven bits for them."""
        grids = self.on(CPU)
        steps = grids.step_size.numpy()
        fit = (steps >= HALF.smallest_normal) & (steps <= HALF.max)
        # By NumPy, since PyTorch rounds float64 to float32 on the way.
        halves = np.where(fit, steps, 1.0).astype(np.float16).astype(np.float64)
        radius = torch.from_numpy(np.where(fit, halves * self.count / 2, grids.radius.numpy()))
        return type(self)(center=grids.center, radius=radius, count=self.count)


def bucket_indices(weights: torch.Tensor, *, lower: Number, step_size: Number, count: int) -> torch.Tensor:
    """Bucket of every weight by the rule of :class:`metaq.tensors.grid.BucketGrid`, int64; 0 for NaN."""
    positions = weights.double().sub(lower).div_(step_size)
    return positions.nan_to_num_(nan=0.0).clamp_(0, count - 1).long()


def bucket_values(indices: torch.Tensor, *, center: Number, radius: Number, count: int) -> torch.Tensor:
    """Reference values in the order of operations of `BucketGrid.values_of`: float64."""
    return (2 * indices + (1 - count)).double().mul_(radius).div_(count).add_(center)
