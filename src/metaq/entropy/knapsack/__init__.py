"""The simil-knapsack problem and three ways to solve it: hull, cutting plane, reference."""

from metaq.entropy.knapsack.cutting_plane import solve_cutting_plane
from metaq.entropy.knapsack.hull import solve_hull
from metaq.entropy.knapsack.problem import FREE_ZERO, KnapsackSolution
from metaq.entropy.knapsack.reference import solve_reference

__all__ = ["FREE_ZERO", "KnapsackSolution", "solve_cutting_plane", "solve_hull", "solve_reference"]
