"""FISTA on the smooth form (3') of the dual, with projection onto convex sequences."""

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.entropy.dual.convex_sequences import convex_regression, lower_envelope
from metaq.entropy.dual.problem import SpreadDual, Sums, conjugate
from metaq.entropy.dual.result import DualResult, check_limits, gap_is_closed, make_result

STEP_GROWTH = 1.25
"""The step is tried this much longer after every step; backtracking halves it."""

SHORTEST_STEP = 1e-12
"""Step times n below which rounding forbids progress."""


def solve_projected_fista(
    problem: SpreadDual, *, start: NDArray[np.float64] | None = None, tolerance: float = 1e-9, max_iterations: int = 500
) -> DualResult:
    """Maximise φ_w(ξ) by FISTA over convex sequences, where the dual is smooth (METHOD, equation 3').

    The gradient is s - c*(ξ), with s the linear-binning counts; the projection is a convex regression. Step sizes come
    from backtracking, so nothing needs tuning when n changes; momentum restarts when the value falls.

    Parameters
    ----------
    problem, start
        As in :func:`metaq.entropy.dual.solve_exact`; of the multipliers the lower envelope is taken.
    tolerance
        Gap in bits per weight at which to stop.
    max_iterations
        Cap on the number of steps; a step takes one evaluation for its gradient and one for each step size tried.

    Returns
    -------
    DualResult

    Raises
    ------
    ConfigError
        If an option is outside its range or `start` has another shape or is not finite.

    References
    ----------
    Beck and Teboulle, SIAM J. Imaging Sciences 2009; O'Donoghue and Candès, "Adaptive restart for accelerated gradient
    schemes", Found. Comput. Math. 2015.
    """
    check_limits(tolerance, max_iterations)
    gap_bits = tolerance * problem.statistics.total
    xi, values, evaluations = _ascend(problem.checked_start(start), problem.sums, gap_bits, max_iterations)
    return make_result(problem, xi, values=values, evaluations=evaluations, tolerance=tolerance, convex=True)


@compiled
def _ascend(
    start: NDArray[np.float64], sums: Sums, tolerance: float, max_iterations: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    s, c_min, c_max = sums.s, sums.c_min, sums.c_max
    weights = np.ones(s.size)
    counts, probe_counts = np.empty(s.size), np.empty(s.size)
    xi = lower_envelope(start)
    probe = xi
    value = conjugate(xi, c_min, c_max, counts) + float(s @ xi)
    values = np.empty(max_iterations)
    step, momentum, evaluations = 4.0 * s.size / s.sum(), 1.0, 1
    for k in range(max_iterations):
        probe_value = conjugate(probe, c_min, c_max, probe_counts) + float(s @ probe)
        gradient = s - probe_counts
        evaluations += 1
        step *= STEP_GROWTH
        while True:
            trial = convex_regression(probe + step * gradient, weights, xi, 20 * s.size)[0]
            trial_value = conjugate(trial, c_min, c_max, counts) + float(s @ trial)
            evaluations += 1
            move = trial - probe
            promised = probe_value + float(gradient @ move) - float(move @ move) / (2 * step)
            if trial_value >= promised - 1e-15 * abs(promised) or step * s.sum() < SHORTEST_STEP:
                break
            step *= 0.5
        if trial_value < value:
            momentum, probe = 1.0, xi
        else:
            next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            probe = trial + (momentum - 1) / next_momentum * (trial - xi)
            xi, value, momentum = trial, trial_value, next_momentum
        values[k] = value
        if gap_is_closed(k, value, counts, sums, tolerance):
            return xi, values[: k + 1], evaluations
    return xi, values, evaluations
