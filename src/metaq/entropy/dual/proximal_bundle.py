"""The proximal bundle method for a sum of a known smooth function and a polyhedral one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.config import require
from metaq.entropy.dual.ascent import check_limits
from metaq.entropy.dual.primal import spread_counts
from metaq.entropy.dual.problem import SpreadDual, evaluate_parts
from metaq.entropy.dual.result import DualResult, make_result, proves_infeasible, upper_bound
from metaq.entropy.dual.simplex_program import minimize_on_simplex

SERIOUS_SHARE = 0.1
"""Share of the predicted increase that a trial point must reach to become the new centre."""

GOOD_SHARE = 0.5
"""Share of it above which the proximal term is relaxed."""

LEAST_RADIUS, MOST_RADIUS = 1e-9, 1e9
"""Bounds of the proximal parameter t."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Point:
    """A dual point: ξ, φ per weight, the shares of all weights per bucket in x and in c*."""

    xi: NDArray[np.float64]
    value: float
    on_buckets: NDArray[np.float64]
    wanted: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """Where the model is greatest, the increase it predicts there, and what share of the cuts makes it so."""

    xi: NDArray[np.float64]
    predicted: float
    multipliers: NDArray[np.float64]
    aggregate: NDArray[np.float64]


def solve_proximal_bundle(
    problem: SpreadDual,
    *,
    start: NDArray[np.float64] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    bundle_size: int | None = None,
) -> DualResult:
    """Maximise φ_w(ξ) by a proximal bundle method.

    φ_w is the polyhedral function Σ_i κ_ξ(w_i) less a smooth one that is known in closed form. Every evaluation gives
    counts that the weights attain, whose scalar product with ξ lies above the polyhedral part everywhere: a cut. Two
    cuts need no evaluation: every weight shared by its two neighbouring buckets, and by all buckets and the ends. The
    model is the least of the cuts, with the smooth part to second order, less ``|ξ - centre|² / (2 t)``; its maximum
    comes from a quadratic program with one variable a cut. A trial point that reaches a tenth of the predicted increase
    becomes the centre (serious step), any other only adds its cut (null step). t doubles after good steps and falls
    where the smooth part, not the cuts, was to blame for a bad one. When the bundle is full, the cuts of least weight
    in the QP give way to their aggregate, which alone keeps the model's maximum where it is.

    Parameters
    ----------
    problem
        The dual problem.
    start
        First multipliers, float64 of shape (C,); by default those of equally full buckets.
    tolerance
        Gap in bits per weight at which to stop, looked at once the predicted increase is a tenth of it.
    max_iterations
        Cap on the number of evaluations.
    bundle_size
        Greatest number of cuts, at least 3; by default the larger of 100 and C. The thesis uses 10. An optimum that
        fills all buckets is a mixture of many cuts, so fewer cuts than C / 4 are slow.

    Returns
    -------
    DualResult
        `values` holds the value at the centre after every evaluation.

    Raises
    ------
    ConfigError
        If an option is outside its range or `start` has another shape or is not finite.
    SolverError
        If Clarabel, which solves the quadratic programs, is not installed.

    References
    ----------
    Kiwiel, "Proximity control in bundle methods for convex nondifferentiable minimization", Math. Programming 1990;
    Lemaréchal, Ouorou and Petrou, "A bundle-type algorithm for routing in telecommunication data networks", Comput.
    Optim. Appl. 2009, for the sum of a smooth and a polyhedral function.
    """
    check_limits(tolerance, max_iterations)
    size = max(100, problem.statistics.grid.count) if bundle_size is None else bundle_size
    require(size >= 3, f"bundle_size: {size} is below 3.")
    centre = _evaluate(problem, problem.checked_start(start))
    s = problem.statistics.linear_binning()
    cuts = np.stack([centre.on_buckets, s / s.sum(), spread_counts(s) / s.sum()])
    radius = 2.0 * problem.statistics.grid.count
    values = [centre.value]
    while len(values) < max_iterations and not proves_infeasible(problem, centre.value * problem.statistics.total):
        trial = _propose(centre, cuts, _curvature(problem, centre), radius)
        if trial.predicted <= 0.1 * tolerance:
            if radius >= MOST_RADIUS or _gap(problem, centre, trial.aggregate) <= tolerance:
                break
            radius *= 10
            continue
        point = _evaluate(problem, trial.xi)
        increase = point.value - centre.value
        missed_by_cuts = float((cuts @ point.xi).min() - point.on_buckets @ point.xi)
        cuts = _add_cut(cuts, point.on_buckets, trial, size)
        if increase < SERIOUS_SHARE * trial.predicted:
            if missed_by_cuts < GOOD_SHARE * (trial.predicted - increase):
                radius = max(radius / 4, LEAST_RADIUS)
        else:
            centre = point
            if increase >= GOOD_SHARE * trial.predicted:
                radius = min(2 * radius, MOST_RADIUS)
        values.append(centre.value)
    n = problem.statistics.total
    also = n * trial.aggregate if len(values) > 1 else None
    return make_result(
        problem, centre.xi, values=n * np.array(values), evaluations=len(values), tolerance=tolerance, also=also
    )


def _evaluate(problem: SpreadDual, xi: NDArray[np.float64]) -> _Point:
    statistics = problem.statistics
    value, on_buckets, wanted = evaluate_parts(xi, statistics.counts, statistics.fractions, *problem.count_bounds)
    n = statistics.total
    return _Point(xi=xi, value=float(value) / n, on_buckets=on_buckets / n, wanted=wanted / n)


def _gap(problem: SpreadDual, point: _Point, aggregate: NDArray[np.float64]) -> float:
    n = problem.statistics.total
    return upper_bound(problem, n * point.wanted, n * aggregate) / n - point.value


def _curvature(problem: SpreadDual, point: _Point) -> NDArray[np.float64]:
    """Second derivative of the smooth part: ln 2 times c*, zero where c* is at a bound."""
    c_min, c_max = problem.count_bounds
    counts = point.wanted * problem.statistics.total
    return np.where((counts > c_min) & (counts < c_max), np.log(2.0) * point.wanted, 0.0)


def _propose(centre: _Point, cuts: NDArray[np.float64], curvature: NDArray[np.float64], radius: float) -> _Trial:
    """Maximise the model less the proximal term, through its dual: a convex combination of the cuts."""
    stiffness = 1 / radius + curvature
    errors = cuts @ centre.xi - centre.on_buckets @ centre.xi
    gradients = cuts - centre.wanted
    multipliers = minimize_on_simplex((gradients / stiffness) @ gradients.T, errors)
    direction = multipliers @ gradients
    predicted = multipliers @ errors + 0.5 * direction @ (direction / stiffness)
    return _Trial(
        xi=centre.xi + direction / stiffness,
        predicted=float(predicted),
        multipliers=multipliers,
        aggregate=multipliers @ cuts,
    )


def _add_cut(cuts: NDArray[np.float64], cut: NDArray[np.float64], trial: _Trial, size: int) -> NDArray[np.float64]:
    """`cuts` with one more; of a full bundle the lightest two give way to the aggregate of all."""
    if len(cuts) >= size:
        kept = np.sort(np.argsort(trial.multipliers)[len(cuts) - size + 2 :])
        cuts = np.vstack([cuts[kept], trial.aggregate])
    return np.vstack([cuts, cut])
