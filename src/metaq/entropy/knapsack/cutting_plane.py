"""The simil-knapsack through Kelley's cutting plane in the scalar β."""

import torch
from torch import Tensor

from metaq.config import require
from metaq.entropy.knapsack.problem import KnapsackSolution, make_problem

CHUNK = 1 << 20
"""Numbers of weights×buckets that exist at a time."""

ROUNDING = 8 * torch.finfo(torch.float64).eps
"""Bound of the relative error of ξ_b - β v_b: a cut lower by less than that is no improvement, as rounding could go on
replacing cuts for ever."""


def solve_cutting_plane(
    weights: Tensor, reference_values: Tensor, xi: Tensor, *, delta: float | None = None, max_iterations: int = 1000
) -> KnapsackSolution:
    """Solve max_β β w + min_b (ξ_b - β v_b), the dual of the simil-knapsack, for every weight by Kelley's method.

    Every bucket is a cut, affine in β with slope w - v_b. Of the cuts found so far, two meet in the maximum of their
    minimum: one of a bucket l with v_l <= w and one of a bucket r with v_r >= w, at β = (ξ_r - ξ_l) / (v_r - v_l).
    The oracle argmin_b ξ_b - β v_b gives the next cut, which takes the place of l or r; without a lower one the weight
    is finished. O(C) an iteration and weight.

    Where a weight lies on l or r, all its optimal β are found afterwards from the slopes to the other points, O(C) for
    each such bucket.

    Parameters
    ----------
    weights, reference_values, xi, delta
        As in :func:`metaq.entropy.knapsack.solve_hull`.
    max_iterations
        Oracle calls a weight may take, at least 1.

    Returns
    -------
    KnapsackSolution
        If ``converged`` is False, a weight needed more iterations: its shares still reproduce it, its value is an
        upper bound of κ, and its β, with `beta_low` and `beta_high` equal, is that of its last two cuts.

    Raises
    ------
    ConfigError
        If an argument has the wrong dtype, shape, device or order, or is not finite, or `max_iterations` is below 1.

    References
    ----------
    Kelley, "The cutting-plane method for solving convex programs", 1960; Cardia's thesis (METHOD, section 1).
    """
    require(max_iterations >= 1, f"max_iterations: {max_iterations} is below 1.")
    problem = make_problem(weights, reference_values, xi, delta=delta)
    points = problem.points_on_device()
    chunks = [
        _solve_chunk(chunk, *points, max_iterations=max_iterations)
        for chunk in _chunks(problem.weights, buckets=len(problem.abscissae))
    ]
    *parts, iterations = zip(*chunks, strict=True)
    left, right, finished = (torch.cat(part) for part in parts)
    beta_low, beta_high = _optimal_betas(problem.weights, *points, left, right, finished)
    return problem.solution(
        left=left,
        right=right,
        beta_low=beta_low,
        beta_high=beta_high,
        iterations=max(iterations),
        converged=bool(finished.all()),
    )


def _solve_chunk(w: Tensor, v: Tensor, xi: Tensor, *, max_iterations: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """The two active cuts of every weight in `w` as indices of points, which weights are finished, and iterations.

    Invariant: ``v[left] <= w <= v[right]`` and ``v[left] < v[right]``. With every replacement the segment between the
    two points falls at w or, where one of them is at w, turns about it towards lower values; so no pair comes twice.
    """
    left = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    right = torch.full_like(left, len(v) - 1)
    # About the middle of the range, so that rounding of β v_b does not depend on where zero is.
    centred = v - (v[0] + (v[-1] - v[0]) / 2)
    size_v, size_xi = centred.abs().max(), xi.abs().max()
    unfinished = torch.arange(len(w), device=w.device)
    iterations = 0
    while len(unfinished) > 0 and iterations < max_iterations:
        iterations += 1
        a, z = left[unfinished], right[unfinished]
        beta = (xi[z] - xi[a]) / (v[z] - v[a])
        value, b = torch.addcmul(xi, beta[:, None], centred, value=-1).min(dim=1)
        improvement = torch.minimum(xi[a] - beta * centred[a], xi[z] - beta * centred[z]) - value
        improves = improvement > ROUNDING * (size_xi + beta.abs() * size_v)
        is_left = v[b] <= w[unfinished]
        left[unfinished] = torch.where(improves & is_left, b, a)
        right[unfinished] = torch.where(improves & ~is_left, b, z)
        unfinished = unfinished[improves]
    finished = torch.ones_like(left, dtype=torch.bool)
    finished[unfinished] = False
    return left, right, finished, iterations


def _optimal_betas(
    w: Tensor, v: Tensor, xi: Tensor, left: Tensor, right: Tensor, finished: Tensor
) -> tuple[Tensor, Tensor]:
    """Ends of the interval of optimal β, float64 of shape (n,) each: the slope of l and r, wider on a bucket."""
    beta_low = (xi[right] - xi[left]) / (v[right] - v[left])
    beta_high = beta_low.clone()
    on_right = w == v[right]
    on_bucket = finished & (on_right | (w == v[left]))
    held, which = torch.unique(torch.where(on_right, right, left)[on_bucket], return_inverse=True)
    if len(held) > 0:
        ends = [_slopes_at(chunk, v, xi) for chunk in _chunks(held, buckets=len(v))]
        low, high = (torch.cat(end) for end in zip(*ends, strict=True))
        beta_low[on_bucket], beta_high[on_bucket] = low[which], high[which]
    return beta_low, beta_high


def _slopes_at(held: Tensor, v: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    """Steepest slope to the points left and gentlest to those right of the vertices `held`; ∓inf outside the ends."""
    slopes = (xi[held, None] - xi) / (v[held, None] - v)
    points = torch.arange(len(v), device=v.device)
    low = slopes.masked_fill(points >= held[:, None], -torch.inf).amax(dim=1)
    high = slopes.masked_fill(points <= held[:, None], torch.inf).amin(dim=1)
    # Rounding may turn the two round between collinear points.
    return torch.minimum(low, high), torch.maximum(low, high)


def _chunks(rows: Tensor, *, buckets: int) -> list[Tensor]:
    """`rows`, of shape (n,), in pieces of which each makes at most :data:`CHUNK` numbers with `buckets` columns."""
    size = max(1, CHUNK // buckets)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
