"""The simil-knapsack as a linear program for a general solver: slow, and independent of the other two."""

import importlib
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.entropy.knapsack.problem import KnapsackSolution, make_problem
from metaq.errors import SolverError

TOLERANCES = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
TOLERANCE = 1e-10
"""Tighter than Clarabel's 1e-8, which is for the sum over weights and leaves single ones 1e-6 off."""


def solve_reference(
    weights: Tensor, reference_values: Tensor, xi: Tensor, *, delta: float | None = None
) -> KnapsackSolution:
    """Solve the simil-knapsack for all weights as one linear program, through CVXPY and Clarabel.

    What the interior-point solver is given is the dual, which it takes half the time for, with x as its multipliers:

        max { Σ_i α_i + β_i w_i : α_i + β_i v_b ≤ ξ_b for every weight i and bucket b }

    2 n variables and n·C inequalities, with v and ξ scaled to [-1, 1]. A weight is then shared by the buckets of
    greatest x on its two sides, so that the shares reproduce it and `values` are attained, to rounding. β is the
    solver's, and `beta_low` and `beta_high` are equal to it: the interval of all optimal β is not computed. Meant for
    tests and comparison.

    Parameters
    ----------
    weights, reference_values, xi, delta
        As in :func:`metaq.entropy.knapsack.solve_hull`.

    Returns
    -------
    KnapsackSolution
        ``converged`` tells whether Clarabel reports an optimum; ``iterations`` are Clarabel's.

    Raises
    ------
    ConfigError
        If an argument has the wrong dtype, shape, device or order, or is not finite.
    SolverError
        If CVXPY is not installed, or Clarabel ends without a solution.

    References
    ----------
    METHOD, section 1; Diamond and Boyd, "CVXPY", 2016; Goulart and Chen, "Clarabel", 2024.
    """
    problem = make_problem(weights, reference_values, xi, delta=delta)
    try:
        importlib.import_module("clarabel")
        cvxpy = importlib.import_module("cvxpy")
    except ImportError as error:
        raise SolverError(
            "reference solver: CVXPY with Clarabel is not installed; install it with "
            "pip install 'metaq-torch[reference]'."
        ) from error
    w = problem.weights.cpu().numpy()
    v, v_middle, v_half = _scaled(problem.abscissae)
    xi_scaled, _, xi_half = _scaled(problem.ordinates)
    alpha_beta, shares, program = _solve_program(cvxpy, (w - v_middle) / v_half, v, xi_scaled)
    device = problem.weights.device
    sides = problem.abscissae <= w[:, None], problem.abscissae >= w[:, None]
    left, right = (torch.from_numpy(np.where(side, shares, -np.inf).argmax(axis=1)).to(device) for side in sides)
    beta = torch.from_numpy(alpha_beta[:, 1] * (xi_half / v_half)).to(device)
    return problem.solution(
        left=left,
        right=right,
        beta_low=beta,
        beta_high=beta,
        iterations=int(program.solver_stats.num_iters),
        converged=bool(program.status == cvxpy.OPTIMAL),
    )


def _solve_program(
    cvxpy: ModuleType, w: NDArray[np.float64], v: NDArray[np.float64], xi: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """(α, β) of shape (n, 2), x of shape (n, P) and the solved CVXPY program."""
    alpha_beta = cvxpy.Variable((len(w), 2))
    lines = alpha_beta @ np.stack([np.ones_like(v), v])
    below = lines <= np.tile(xi, (len(w), 1))
    value = cvxpy.sum(cvxpy.multiply(alpha_beta, np.stack([np.ones_like(w), w], axis=1)))
    program = cvxpy.Problem(cvxpy.Maximize(value), [below])
    with warnings.catch_warnings():
        # An inaccurate optimum is told by `converged`.
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        try:
            program.solve(solver=cvxpy.CLARABEL, **dict.fromkeys(TOLERANCES, TOLERANCE))
        except cvxpy.error.SolverError as error:
            raise SolverError(f"reference solver: Clarabel failed ({error}); use solve_hull.") from error
    if alpha_beta.value is None or below.dual_value is None:
        raise SolverError(f"reference solver: Clarabel found no solution ({program.status}); use solve_hull.")
    return alpha_beta.value, below.dual_value, program


def _scaled(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """`values` moved and scaled to [-1, 1], with the middle and the half-width of their range (1 if they are equal)."""
    low, high = float(values.min()), float(values.max())
    middle, half = low + (high - low) / 2, (high - low) / 2 or 1.0
    return (values - middle) / half, middle, half
