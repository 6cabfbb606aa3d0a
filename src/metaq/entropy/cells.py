"""One pass over the weights: how many lie in each cell of the grid, and where in it they lie.

Counts and sums are all that any objective of metaq needs of the weights (METHOD, section 1), so everything after this
pass costs O(C), whatever the number of weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import require
from metaq.entropy.passes import dispatch, grids
from metaq.entropy.passes.grids import GridSet
from metaq.tensors.grid import BucketGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class CellStatistics:
    """Counts and sums of weights by cell ``[v_j, v_{j+1})`` of a grid of C reference values.

    Weights outside ``[v_0, v_{C-1}]`` count as lying on the end value; a weight on ``v_{C-1}`` is in the last cell.
    Float64 of shape (C - 1,) are `counts`, and `fractions`: sums over a cell's weights of ``(w - v_j) / step_size``,
    each in [0, 1].
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
        return linear_binning(self.counts, self.fractions)


def cell_statistics(tensors: Iterable[torch.Tensor], grid: BucketGrid) -> CellStatistics:
    """Counts and sums of all `tensors` together: O(n) time, O(C) memory beside a few blocks of weights.

    Tensors have to be floating, by :class:`ConfigError`, and weights finite, by :class:`NonFiniteError`.
    """
    parts = list(tensors)
    for tensor in parts:
        require(tensor.is_floating_point(), f"weights: dtype {tensor.dtype} given; floating tensors are needed.")
    counts, fractions = dispatch.cell_sums(parts, [0] * len(parts), GridSet.of([grid]))
    dispatch.require_finite(counts)
    return CellStatistics(counts=counts[0].numpy(), fractions=fractions[0].numpy(), grid=grid)


def linear_binning(counts: NDArray[np.float64], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear-binning counts s of METHOD (3') from cell counts and sums of shape (C - 1,): float64 of shape (C,)."""
    shared = np.zeros(counts.size + 1)
    shared[:-1] += counts - fractions
    shared[1:] += fractions
    return shared


def bucket_indices(weights: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Bucket index of every weight by the rule of `BucketGrid.assign`; int64, shape of `weights`; 0 for NaN."""
    return grids.bucket_indices(weights, lower=grid.lower, step_size=grid.step_size, count=grid.count)


def bucket_values(indices: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Reference values of `indices` by the formula of :meth:`metaq.tensors.grid.BucketGrid.values_of`; float64."""
    return grids.bucket_values(indices, center=grid.center, radius=grid.radius, count=grid.count)
