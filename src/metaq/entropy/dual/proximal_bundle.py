"""The proximal bundle method for a sum of a known smooth function and a polyhedral one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaq.entropy.dual.primal import spread_counts
from metaq.entropy.dual.problem import SpreadDual, evaluate_parts
from metaq.entropy.dual.result import DualResult, best_counts, check_limits, make_result, proves_infeasible
from metaq.errors import SolverError

SERIOUS_SHARE = 0.1
"""Share of the predicted increase that a trial point must reach to become the new centre."""

GOOD_SHARE = 0.5
"""Share of it above which the proximal term is relaxed."""

LEAST_RADIUS, MOST_RADIUS = 1e-9, 1e9
"""Bounds of the proximal parameter t."""

LEAST_BUNDLE = 100
"""Greatest number of cuts, or C if that is more: an optimum that fills all buckets is a mixture of many."""

PRECISION = 1e-10
"""Of the quadratic programs."""


class _Point(NamedTuple):
    """A dual point: ξ, φ per weight, the shares of all weights per bucket in x and in c*."""

    xi: NDArray[np.float64]
    value: float
    on_buckets: NDArray[np.float64]
    wanted: NDArray[np.float64]


class _Trial(NamedTuple):
    """Where the model is greatest, the increase it predicts there, and what share of the cuts makes it so."""

    xi: NDArray[np.float64]
    predicted: float
    multipliers: NDArray[np.float64]
    aggregate: NDArray[np.float64]


def solve_proximal_bundle(
    problem: SpreadDual, *, start: NDArray[np.float64] | None = None, tolerance: float = 1e-6, max_iterations: int = 500
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
    problem, start
        As in :func:`metaq.entropy.dual.solve_exact`.
    tolerance
        Gap in bits per weight at which to stop, looked at once the predicted increase is a tenth of it.
    max_iterations
        Cap on the number of evaluations.

    Returns
    -------
    DualResult
        `values` holds the value at the centre after every evaluation.

    Raises
    ------
    ConfigError
        If an option is outside its range, or `start` has another shape or is not finite.
    SolverError
        If Clarabel, which solves the quadratic programs, is not installed.

    References
    ----------
    Kiwiel, "Proximity control in bundle methods for convex nondifferentiable minimization", Math. Programming 1990;
    Lemaréchal, Ouorou and Petrou, "A bundle-type algorithm for routing in telecommunication data networks", Comput.
    Optim. Appl. 2009, for the sum of a smooth and a polyhedral function.
    """
    check_limits(tolerance, max_iterations)
    n = problem.statistics.total
    size = max(LEAST_BUNDLE, problem.statistics.grid.count)
    centre = _evaluate(problem, problem.checked_start(start))
    s = problem.statistics.linear_binning()
    cuts = np.stack([centre.on_buckets, s / s.sum(), spread_counts(s) / s.sum()])
    radius = 2.0 * problem.statistics.grid.count
    values = [centre.value]
    while len(values) < max_iterations and not proves_infeasible(problem, centre.value * n):
        trial = _propose(problem, centre, cuts, radius)
        if trial.predicted <= 0.1 * tolerance:
            _, upper = best_counts(problem, n * centre.wanted, n * trial.aggregate)
            if radius >= MOST_RADIUS or upper / n - centre.value <= tolerance:
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
    also = n * trial.aggregate if len(values) > 1 else None
    return make_result(
        problem, centre.xi, values=n * np.array(values), evaluations=len(values), tolerance=tolerance, also=also
    )


def _evaluate(problem: SpreadDual, xi: NDArray[np.float64]) -> _Point:
    value, on_buckets, wanted = evaluate_parts(xi, problem.sums)
    n = problem.statistics.total
    return _Point(xi=xi, value=float(value) / n, on_buckets=on_buckets / n, wanted=wanted / n)


def _propose(problem: SpreadDual, centre: _Point, cuts: NDArray[np.float64], radius: float) -> _Trial:
    """Maximise the model less the proximal term, through its dual: a convex combination of the cuts."""
    c_min, c_max = problem.count_bounds
    counts = centre.wanted * problem.statistics.total
    curvature = np.where((counts > c_min) & (counts < c_max), np.log(2.0) * centre.wanted, 0.0)
    stiffness = 1 / radius + curvature
    errors = cuts @ centre.xi - centre.on_buckets @ centre.xi
    gradients = cuts - centre.wanted
    multipliers = _minimize_on_simplex((gradients / stiffness) @ gradients.T, errors)
    direction = multipliers @ gradients
    predicted = multipliers @ errors + 0.5 * direction @ (direction / stiffness)
    return _Trial(centre.xi + direction / stiffness, float(predicted), multipliers, multipliers @ cuts)


def _minimize_on_simplex(quadratic: NDArray[np.float64], linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """The α that minimises ``α' Q α / 2 + q' α`` over α ≥ 0, Σ α = 1, with Q of shape (m, m) positive semidefinite."""
    try:
        import clarabel
        from scipy import sparse
    except ImportError as error:
        raise SolverError("The proximal bundle method needs Clarabel: pip install 'metaq-torch[reference]'.") from error
    m = linear.size
    scale = max(float(np.abs(np.diag(quadratic)).max()), float(np.abs(linear).max()), np.finfo(np.float64).tiny)
    constraints = sparse.csc_matrix(np.vstack([np.ones(m), -np.eye(m)]))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = PRECISION
    solution = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(quadratic / scale)),
        linear / scale,
        constraints,
        np.concatenate([np.ones(1), np.zeros(m)]),
        [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(m)],
        settings,
    ).solve()
    shares = np.nan_to_num(np.maximum(np.array(solution.x), 0.0))
    total = shares.sum()
    return shares / total if total > 0 else np.full(m, 1 / m)


def _add_cut(cuts: NDArray[np.float64], cut: NDArray[np.float64], trial: _Trial, size: int) -> NDArray[np.float64]:
    """`cuts` with one more; of a full bundle the lightest two give way to the aggregate of all."""
    if len(cuts) >= size:
        kept = np.sort(np.argsort(trial.multipliers)[len(cuts) - size + 2 :])
        cuts = np.vstack([cuts[kept], trial.aggregate])
    return np.vstack([cuts, cut])
