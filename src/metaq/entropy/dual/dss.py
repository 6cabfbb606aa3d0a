"""Supergradient ascent with diminishing, square-summable steps."""

import math

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.config import require
from metaq.entropy.dual.problem import SpreadDual, Sums, evaluate_parts
from metaq.entropy.dual.result import DualResult, check_limits, gap_is_closed, make_result

FIRST_STEP_BITS = 4.0
"""Root mean square change of a multiplier in the first step."""


def solve_dss(
    problem: SpreadDual,
    *,
    start: NDArray[np.float64] | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 1000,
    fixed_step: float | None = None,
) -> DualResult:
    """Maximise φ_w(ξ) by steps γ_k along the supergradient with Σ γ_k = ∞ and Σ γ_k² < ∞ (Shor 1985).

    Step k has the length ``4 sqrt(C) / k`` in bits, whatever the number of weights. It converges for any
    supergradient, slowly; the best point seen is returned.

    Parameters
    ----------
    problem, start
        As in :func:`metaq.entropy.dual.solve_exact`.
    tolerance
        Gap in bits per weight at which to stop.
    max_iterations
        Cap on the number of steps, one evaluation each.
    fixed_step
        γ_1 as the thesis fixes it, 1, instead of a length: step k is ``fixed_step / k`` times the
        supergradient, which counts weights.

    Returns
    -------
    DualResult

    Raises
    ------
    ConfigError
        If an option is outside its range or `start` has another shape or is not finite.
    """
    check_limits(tolerance, max_iterations)
    is_valid = fixed_step is None or (math.isfinite(fixed_step) and fixed_step > 0)
    require(is_valid, f"fixed_step: {fixed_step} is not a positive number.")
    xi, values = _ascend(
        problem.checked_start(start),
        problem.sums,
        tolerance * problem.statistics.total,
        max_iterations,
        FIRST_STEP_BITS * math.sqrt(problem.statistics.grid.count),
        0.0 if fixed_step is None else fixed_step,
    )
    return make_result(problem, xi, values=values, evaluations=len(values), tolerance=tolerance)


@compiled
def _ascend(
    start: NDArray[np.float64],
    sums: Sums,
    tolerance: float,
    max_iterations: int,
    first_length: float,
    fixed_step: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    xi, best, best_value = start, start, -np.inf
    values = np.empty(max_iterations)
    for k in range(max_iterations):
        value, on_buckets, wanted = evaluate_parts(xi, sums)
        values[k] = value
        if value > best_value:
            best, best_value = xi, value
        supergradient = on_buckets - wanted
        length = np.sqrt((supergradient**2).sum())
        if length == 0 or gap_is_closed(k, value, wanted, sums, tolerance):
            return best, values[: k + 1]
        step = fixed_step if fixed_step > 0 else first_length / length
        xi = xi + step / (k + 1) * supergradient
    return best, values
