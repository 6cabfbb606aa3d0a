"""Accelerated supergradient ascent on the dual, as in the thesis."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from metaq.config import require
from metaq.dual.problem import DualResult, SpreadDual


def solve_fista(
    problem: SpreadDual, *, start: NDArray[np.float64] | None = None, iterations: int, zeta: float
) -> DualResult:
    """Maximise φ_w(ξ) by FISTA: momentum on ξ, fixed step ``1 / zeta``.

    The dual function is not smooth, so the method is run for a fixed number of iterations and the best point seen is
    returned; it is an inexact solver, as the thesis uses it.

    Parameters
    ----------
    problem
        The dual problem.
    start
        First multipliers, float64 of shape (C,); by default those of equally full buckets.
    iterations
        Evaluations of the dual function, at least one.
    zeta
        Reciprocal of the step, in weights (the supergradient counts weights); the thesis uses 1e5 for 44,426 weights.

    Returns
    -------
    DualResult

    References
    ----------
    Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging Sciences 2009.
    """
    require(iterations >= 1, f"iterations: {iterations} is below 1.")
    require(math.isfinite(zeta) and zeta > 0, f"zeta: {zeta} is not a positive number.")
    previous = problem.uniform_start() if start is None else start
    probe, momentum = previous, 1.0
    best_xi, best_value, best_supergradient = previous, -math.inf, previous
    values = []
    for _ in range(iterations):
        value, supergradient = problem.evaluate(probe)
        values.append(value)
        if value > best_value:
            best_xi, best_value, best_supergradient = probe, value, supergradient
        current = probe + supergradient / zeta
        next_momentum = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        probe = current + (momentum - 1) / next_momentum * (current - previous)
        previous, momentum = current, next_momentum
    return DualResult(
        xi=best_xi,
        value=best_value,
        residual=float(np.linalg.norm(best_supergradient)),
        iterations=iterations,
        values=tuple(values),
        slopes=problem.slopes(best_xi),
    )
