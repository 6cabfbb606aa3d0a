"""The Lagrangian dual of the thesis's problem and its solvers (METHOD, section 1).

Every solver takes a :class:`SpreadDual` and returns a :class:`DualResult`.

- :func:`solve_exact`: the optimum to rounding in about ten steps of O(C). Take this one.
- :func:`solve_projected_fista`: a first-order method that converges, on the same smooth problem.
- :func:`solve_proximal_bundle`: knows the weights only through evaluations of the dual function.
- :func:`solve_fista`, :func:`solve_dss`: the thesis's other two, for comparison; inexact.
"""

from metaq.entropy.dual.dss import solve_dss
from metaq.entropy.dual.exact import solve_exact
from metaq.entropy.dual.fista import solve_fista
from metaq.entropy.dual.problem import SpreadDual
from metaq.entropy.dual.projected_fista import solve_projected_fista
from metaq.entropy.dual.proximal_bundle import solve_proximal_bundle
from metaq.entropy.dual.result import DualResult

__all__ = [
    "DualResult",
    "SpreadDual",
    "solve_dss",
    "solve_exact",
    "solve_fista",
    "solve_projected_fista",
    "solve_proximal_bundle",
]
