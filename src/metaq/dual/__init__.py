"""The Lagrangian dual of the thesis's problem and its solvers."""

from metaq.dual.fista import solve_fista
from metaq.dual.problem import DualResult, SpreadDual

__all__ = ["DualResult", "SpreadDual", "solve_fista"]
