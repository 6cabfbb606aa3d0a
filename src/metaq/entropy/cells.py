"""One pass over the weights: how many lie in each cell of the grid, and where in it they lie.

Counts and sums are all that any objective of metaq needs of the weights (METHOD, section 1), so everything after this
pass costs O(C), whatever the number of weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import require
from metaq.entropy import passes
from metaq.entropy.passes import GridSet
from metaq.tensors.grid import BucketGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class CellStatistics:
    """Counts and sums of weights by cell ``[v_j, v_{j+1})`` of a grid of C reference values.

    Weights outside ``[v_0, v_{C-1}]`` count as lying on the end value; a weight on ``v_{C-1}`` is in the last cell.

    Attributes
    ----------
    counts
        Weights in each cell, float64 of shape (C - 1,).
    fractions
        Sum over the cell's weights of ``(w - v_j) / step_size``, each in [0, 1]; float64 of shape (C - 1,).
    grid
        The grid.
    """

    counts: NDArray[np.float64]
    fractions: NDArray[np.float64]
    grid: BucketGrid

    @property
    def total(self) -> float:
        """Number of weights n."""
        return float(self.counts.sum())

    def linear_binning(self) -> NDArray[np.float64]:
        """Linear-binning counts s of METHOD (3'): each weight shared between its two neighbours; shape (C,)."""
        shared = np.zeros(self.grid.count)
        shared[:-1] += self.counts - self.fractions
        shared[1:] += self.fractions
        return shared


def cell_positions(weights: torch.Tensor, grid: BucketGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell index (int64) and position inside the cell (float64 in [0, 1]) of every weight; shape of `weights`.

    NaN counts as lying on the first value; :func:`cell_statistics` refuses it.
    """
    positions = _positions(weights, grid)
    cells = positions.floor().clamp_(max=grid.count - 2)
    return cells.long(), positions.sub_(cells)


def cell_statistics(tensors: Iterable[torch.Tensor], grid: BucketGrid) -> CellStatistics:
    """Counts and sums of all `tensors` together: O(n) time, O(C) memory beside a few blocks of weights.

    Raises
    ------
    ConfigError
        If a tensor is not a floating one.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    parts = _floating(tensors)
    counts, fractions = passes.cell_sums(parts, [0] * len(parts), GridSet.of([grid]))
    passes.require_finite(counts)
    return CellStatistics(counts=counts[0].numpy(), fractions=fractions[0].numpy(), grid=grid)


def bucket_counts(tensors: Iterable[torch.Tensor], grid: BucketGrid) -> NDArray[np.float64]:
    """Number of weights of all `tensors` in each bucket: float64 of shape (C,); raises as :func:`cell_statistics`."""
    parts = _floating(tensors)
    counts = passes.bucket_counts(parts, [0] * len(parts), GridSet.of([grid]))
    passes.require_finite(counts)
    return counts[0].numpy()


def _floating(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    parts = list(tensors)
    for tensor in parts:
        require(tensor.is_floating_point(), f"weights: dtype {tensor.dtype} given; floating tensors are needed.")
    return parts


def bucket_indices(weights: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Bucket index of every weight by the rule of `BucketGrid.assign`; int64, shape of `weights`.

    NaN takes the first bucket; :func:`bucket_counts` refuses it.
    """
    positions = ((weights.double() - grid.lower) / grid.step_size).nan_to_num_(nan=0.0)
    return positions.floor_().clamp_(0, grid.count - 1).long()


def bucket_values(indices: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Reference values of `indices` by the formula of :meth:`metaq.tensors.grid.BucketGrid.values_of`; float64."""
    numerators = (2 * indices + (1 - grid.count)).double()
    return numerators.mul_(grid.radius).div_(grid.count).add_(grid.center)


def _positions(weights: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Distance from the first reference value in steps, float64 in ``[0, C - 1]``."""
    first_value = grid.center + grid.radius * (1 - grid.count) / grid.count
    distances = weights.double().sub_(first_value) if weights.dtype != torch.float64 else weights - first_value
    return distances.div_(grid.step_size).nan_to_num_(nan=0.0).clamp_(0, grid.count - 1)
