"""The simil-knapsack through the lower convex hull: one chain over the buckets, then one look-up a weight."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.entropy.hull import lower_hull
from metaq.entropy.knapsack.problem import KnapsackSolution, make_problem


def solve_hull(
    weights: Tensor, reference_values: Tensor, xi: Tensor, *, delta: float | None = None
) -> KnapsackSolution:
    """Solve min { Σ_b ξ_b x_b : Σ_b v_b x_b = w, Σ_b x_b = 1, x ≥ 0 } for every weight, exactly.

    κ_ξ is the lower convex envelope of the points (v_b, ξ_b). Andrew's monotone chain finds its vertices in O(C) on
    the CPU, once for all weights; a binary search among the vertices, on the device of the weights, finds the edge
    above each weight. O(C + n log B) time for B breakpoints, O(C + n) memory, no loop over weights.

    Parameters
    ----------
    weights
        float16, bfloat16, float32 or float64 of any shape, at least one. Computed with in float64. A weight outside
        ``[v_0, v_{C-1}]`` counts as lying on the end value.
    reference_values
        v, strictly increasing, floating, of shape (C,), C >= 2, on the device of `weights`.
    xi
        ξ, cost of a unit of mass in each bucket, dtype and shape of `reference_values`, in any order.
    delta
        δ of the pruning variant, where mass on zero is free, in units of ξ: min { Σ_b (ξ_b - δ) x_b : Σ_b x_b ≤ 1 }
        with the other constraints as above. The range then includes zero.

    Returns
    -------
    KnapsackSolution
        ``iterations`` is 1 and ``converged`` True.

    Raises
    ------
    ConfigError
        If an argument has the wrong dtype, shape, device or order, or is not finite.

    References
    ----------
    METHOD, section 1; Andrew, "Another efficient algorithm for convex hulls in two dimensions", 1979.

    Examples
    --------
    >>> v = torch.tensor([-1.0, 0.0, 1.0])
    >>> solution = solve_hull(torch.tensor([-0.5, 0.25]), v, torch.tensor([2.0, 5.0, 0.0]))
    >>> solution.values.tolist(), solution.beta.tolist()
    ([1.5, 0.75], [-1.0, -1.0])
    """
    problem = make_problem(weights, reference_values, xi, delta=delta)
    v, ordinates = problem.abscissae, problem.ordinates
    vertices = lower_hull(_near_one(v), _near_one(ordinates))
    low, high = _slopes_around(v[vertices], ordinates[vertices])
    device = problem.weights.device
    vertex_points = torch.from_numpy(vertices).to(device)
    x, low_slopes, high_slopes = torch.from_numpy(np.stack([v[vertices], low, high])).to(device)
    edges = torch.searchsorted(x, problem.weights, right=True).sub_(1).clamp_(max=len(vertices) - 2)
    beta = high_slopes[edges]
    on_last = problem.weights == x[-1]
    return problem.solution(
        left=vertex_points[edges],
        right=vertex_points[edges + 1],
        beta_low=torch.where(problem.weights == x[edges], low_slopes[edges], beta),
        beta_high=beta.masked_fill(on_last, torch.inf),
        iterations=1,
        converged=True,
    )


def _slopes_around(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes of the hull left and right of every vertex, float64 of shape (B,); ∓inf outside the ends."""
    slopes = np.diff(y) / np.diff(x)
    before, after = np.r_[-np.inf, slopes], np.r_[slopes, np.inf]
    # Rounding may turn the two round between collinear points.
    return np.minimum(before, after), np.maximum(before, after)


def _near_one(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` divided by a power of two, hence exactly, so that products of their differences stay in range."""
    _, exponent = math.frexp(float(np.abs(values).max()))
    scaled: NDArray[np.float64] = np.ldexp(values, -exponent)
    return scaled
