"""The dual solved exactly: Newton's method on the smooth problem (3') over convex sequences."""

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.entropy.dual.convex_sequences import convex_regression, lower_envelope
from metaq.entropy.dual.primal import bounds_are_attainable
from metaq.entropy.dual.problem import SpreadDual, conjugate
from metaq.entropy.dual.result import DualResult, check_limits, make_result

FIRST_DAMPING, MOST_DAMPING = 0.3, 10.0
"""Curvature added per unit of gradient while full Newton steps fail; falls tenfold with every one that succeeds."""

LEAST_CURVATURE = 1e-12
"""Curvature, over n, of the stretches where a count is at one of its bounds and the objective is linear."""

SUFFICIENT_INCREASE = 1e-4

SHORTEST_STEP = 1e-9

ROUNDING = 1e-17
"""Newton decrement per weight, in bits, below which a step changes nothing any more."""


def solve_exact(
    problem: SpreadDual, *, start: NDArray[np.float64] | None = None, tolerance: float = 1e-9, max_iterations: int = 100
) -> DualResult:
    """Maximise φ_w(ξ) exactly.

        max { Σ_b s_b ξ_b - Σ_b h(ξ_b) :  ξ convex on the grid },     h(ξ) = max { ξ c - c log2 c : c_min ≤ c ≤ c_max }

    with s the linear-binning counts: replacing ξ by its lower hull never lowers the dual, and over convex sequences it
    is this smooth problem (METHOD, equation 3'). Each step maximises the second-order model over convex sequences with
    an active-set method and searches along the line to it, which stays convex; near the optimum convergence is
    quadratic.

    Parameters
    ----------
    problem
        The dual problem.
    start
        First multipliers, float64 of shape (C,); by default those of equally full buckets.
    tolerance
        Gap, in bits per weight, at which the result counts as converged. Steps go on until rounding.
    max_iterations
        Cap on the number of Newton steps.

    Returns
    -------
    DualResult
        With ``status="infeasible"`` and `xi` at the start if some weights have to leave buckets emptier than `c_min`,
        as when all lie on the two end values.

    Raises
    ------
    ConfigError
        If an option is outside its range or `start` has another shape or is not finite.

    Notes
    -----
    O(C) for each of the few tridiagonal fits of a step, after one O(n) pass.

    References
    ----------
    Dümbgen, Hüsler and Rufibach, "Active set and EM algorithms for log-concave densities based on complete and censored
    data", 2007, for the likelihood of which (3') is the log-convex counterpart.
    """
    check_limits(tolerance, max_iterations)
    first = problem.checked_start(start)
    s = problem.statistics.linear_binning()
    if not bounds_are_attainable(s, problem.c_min):
        return make_result(problem, first, values=(), evaluations=0, tolerance=tolerance, infeasible=True)
    xi, values, evaluations = newton(s, first, *problem.count_bounds, max_iterations)
    return make_result(problem, xi, values=values, evaluations=evaluations, tolerance=tolerance, convex=True)


@compiled
def newton(
    s: NDArray[np.float64], start: NDArray[np.float64], c_min: float, c_max: float, max_iterations: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Multipliers, value after every step and number of evaluations, for linear-binning counts `s`."""
    n = s.sum()
    xi = lower_envelope(start)
    counts, trial_counts = np.empty(s.size), np.empty(s.size)
    value = conjugate(xi, c_min, c_max, counts) + float(s @ xi)
    values = np.empty(max_iterations)
    damping = FIRST_DAMPING
    evaluations = 1
    for iteration in range(max_iterations):
        curvature, target = np.empty(s.size), np.empty(s.size)
        for b in range(s.size):
            gradient = s[b] - counts[b]
            free = c_min < counts[b] < c_max
            curvature[b] = damping * abs(gradient) + LEAST_CURVATURE * n + (np.log(2.0) * counts[b] if free else 0.0)
            target[b] = xi[b] + gradient / curvature[b]
        direction = convex_regression(target, curvature, xi, 20 * s.size)[0] - xi
        decrement = float((s - counts) @ direction)
        step, increase = 1.0, -np.inf
        while step >= SHORTEST_STEP and increase < SUFFICIENT_INCREASE * step * decrement:
            trial = xi + step * direction
            trial_value = conjugate(trial, c_min, c_max, trial_counts) + float(s @ trial)
            increase = trial_value - value + 1e-15 * abs(value)
            evaluations += 1
            step *= 0.5
        if step < SHORTEST_STEP:
            return xi, values[:iteration], evaluations
        damping = 0.1 * damping if step == 0.5 else min(4 * max(damping, 1e-3), MOST_DAMPING)
        xi, value = trial, trial_value
        counts[:] = trial_counts
        values[iteration] = value
        if decrement <= ROUNDING * n:
            return xi, values[: iteration + 1], evaluations
    return xi, values, evaluations
