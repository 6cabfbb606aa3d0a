"""The dual of many groups of weights in one call, without results that training does not need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.entropy.dual.exact import newton
from metaq.entropy.dual.fista import ascend
from metaq.entropy.dual.primal import bounds_are_attainable
from metaq.entropy.dual.problem import C_MIN, LOG2_E


@compiled
def fista_of_groups(
    cell_counts: NDArray[np.float64],
    fractions: NDArray[np.float64],
    starts: NDArray[np.float64],
    max_iterations: int,
    zeta_per_weight: float,
) -> NDArray[np.float64]:
    """Best multipliers of :func:`metaq.entropy.dual.solve_fista` for every group: float64 of shape (G, C).

    Parameters
    ----------
    cell_counts, fractions
        Cell counts and sums, float64 of shape (G, C - 1).
    starts
        First multipliers, float64 of shape (G, C); a row that begins with NaN starts at equally full buckets.
    max_iterations, zeta_per_weight
        As in :func:`metaq.entropy.dual.solve_fista`.
    """
    solutions = starts.copy()
    for g in range(starts.shape[0]):
        n = cell_counts[g].sum()
        s = _linear_binning(cell_counts[g], fractions[g])
        start = _start(starts[g], n)
        zeta = zeta_per_weight * n
        solutions[g] = ascend(start, cell_counts[g], fractions[g], s, C_MIN, n, -np.inf, max_iterations, zeta)[0]
    return solutions


@compiled
def exact_of_groups(
    cell_counts: NDArray[np.float64], fractions: NDArray[np.float64], starts: NDArray[np.float64], max_iterations: int
) -> tuple[NDArray[np.float64], int]:
    """Multipliers of :func:`~metaq.entropy.dual.solve_exact` for every group, and the first without attainable counts.

    Arguments are those of :func:`fista_of_groups`; the group is -1 where all have a solution.
    """
    solutions = starts.copy()
    for g in range(starts.shape[0]):
        n = cell_counts[g].sum()
        s = _linear_binning(cell_counts[g], fractions[g])
        if not bounds_are_attainable(s, C_MIN):
            return solutions, g
        solutions[g] = newton(s, _start(starts[g], n), C_MIN, n, max_iterations)[0]
    return solutions, -1


@compiled
def _start(row: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    if np.isnan(row[0]):
        return np.full(row.size, np.log2(max(n / row.size, C_MIN)) + LOG2_E)
    return row.copy()


@compiled
def _linear_binning(cell_counts: NDArray[np.float64], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    s = np.zeros(cell_counts.size + 1)
    s[:-1] += cell_counts - fractions
    s[1:] += fractions
    return s
