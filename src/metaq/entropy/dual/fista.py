"""Accelerated supergradient ascent on the dual, as in the thesis."""

import math

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.config import require
from metaq.entropy.dual.problem import SpreadDual, Sums, evaluate_parts
from metaq.entropy.dual.result import DualResult, check_limits, gap_is_closed, make_result

ZETA_PER_WEIGHT = 2.25
"""The thesis's 1e5 for 44,426 weights."""


def solve_fista(
    problem: SpreadDual,
    *,
    start: NDArray[np.float64] | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 500,
    zeta_per_weight: float = ZETA_PER_WEIGHT,
    zeta: float | None = None,
) -> DualResult:
    """Maximise φ_w(ξ) by FISTA: momentum on ξ, one step size.

    The dual function has kinks, for which FISTA has no guarantee: it is the thesis's inexact solver, run for a few
    iterations, and the best point seen is returned. :func:`metaq.entropy.dual.solve_projected_fista` converges.

    Parameters
    ----------
    problem, start
        As in :func:`metaq.entropy.dual.solve_exact`.
    tolerance
        Gap in bits per weight at which to stop.
    max_iterations
        Cap on the number of steps, one evaluation each.
    zeta_per_weight
        Reciprocal of the step for one weight; the step is ``1 / (zeta_per_weight n)``, so that the same number serves
        every n.
    zeta
        Reciprocal of the step as the thesis fixes it, instead of `zeta_per_weight`: 1e5 for its 44,426 weights.

    Returns
    -------
    DualResult

    Raises
    ------
    ConfigError
        If an option is outside its range or `start` has another shape or is not finite.

    References
    ----------
    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sciences 2009.
    """
    check_limits(tolerance, max_iterations)
    require(
        math.isfinite(zeta_per_weight) and zeta_per_weight > 0, f"zeta_per_weight: {zeta_per_weight} is not positive."
    )
    require(zeta is None or (math.isfinite(zeta) and zeta > 0), f"zeta: {zeta} is not a positive number.")
    n = problem.statistics.total
    unit_zeta = zeta_per_weight * n if zeta is None else zeta
    xi, values = ascend(problem.checked_start(start), problem.sums, tolerance * n, max_iterations, unit_zeta)
    return make_result(problem, xi, values=values, evaluations=len(values), tolerance=tolerance)


@compiled
def ascend(
    start: NDArray[np.float64], sums: Sums, tolerance: float, max_iterations: int, zeta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best multipliers and the value at every step; `tolerance` in bits."""
    previous, probe, best = start, start, start
    best_value, momentum = -np.inf, 1.0
    values = np.empty(max_iterations)
    for k in range(max_iterations):
        value, on_buckets, wanted = evaluate_parts(probe, sums)
        values[k] = value
        if value > best_value:
            best, best_value = probe, value
        if gap_is_closed(k, value, wanted, sums, tolerance):
            return best, values[: k + 1]
        current = probe + (on_buckets - wanted) / zeta
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        probe = current + (momentum - 1) / next_momentum * (current - previous)
        previous, momentum = current, next_momentum
    return best, values
