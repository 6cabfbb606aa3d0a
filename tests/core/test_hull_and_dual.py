from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from metaq.cells import cell_statistics
from metaq.dual import SpreadDual, solve_fista
from metaq.dual.problem import C_MIN
from metaq.errors import ConfigError
from metaq.grid import BucketGrid
from metaq.hull import cell_slopes, lower_hull

seeds = st.integers(0, 2**32 - 1)


def simil_knapsack_by_pairs(v, xi, w):
    """Brute force over all pairs of buckets around w."""
    best = np.inf
    for a, b in itertools.combinations_with_replacement(range(len(v)), 2):
        if v[a] <= w <= v[b]:
            t = 0.0 if a == b else (w - v[a]) / (v[b] - v[a])
            best = min(best, (1 - t) * xi[a] + t * xi[b])
    return best


@given(seeds, st.integers(2, 30), st.booleans())
def test_hull_solves_the_simil_knapsack(seed, count, ties):
    rng = np.random.default_rng(seed)
    v = np.cumsum(rng.uniform(0.1, 2.0, count)) - count
    xi = rng.integers(-2, 3, count).astype(float) if ties else rng.normal(0, 3, count)
    vertices = lower_hull(v, xi)
    assert vertices[0] == 0
    assert vertices[-1] == count - 1
    w = rng.uniform(v[0], v[-1])
    value = np.interp(w, v[vertices], xi[vertices])
    assert value == pytest.approx(simil_knapsack_by_pairs(v, xi, w), abs=1e-9)
    program = linprog(xi, A_eq=np.stack([v, np.ones(count)]), b_eq=[w, 1.0], bounds=(0, None))
    assert value == pytest.approx(program.fun, abs=1e-7)


@given(seeds, st.integers(2, 40))
def test_slopes_are_the_derivative_of_the_hull_and_increase(seed, count):
    rng = np.random.default_rng(seed)
    v = np.linspace(-1, 1, count)
    xi = rng.normal(size=count)
    slopes = cell_slopes(v, xi)
    vertices = lower_hull(v, xi)
    hull = np.interp(v, v[vertices], xi[vertices])
    np.testing.assert_allclose(slopes, np.diff(hull) / np.diff(v), atol=1e-9)
    assert (np.diff(slopes) >= -1e-9).all()


def exact_value(statistics, c_min, c_max):
    """METHOD (3'): ξ convex along the grid, written as an affine function plus hinges of non-negative weight."""
    s = statistics.linear_binning()
    count = len(s)
    j = np.arange(count)
    basis = np.stack([np.ones(count), j, *[np.maximum(j - k, 0) for k in range(1, count - 1)]])

    def negative(parameters):
        xi = parameters @ basis
        c = np.clip(2.0 ** np.minimum(xi, 60) / np.e, c_min, c_max)
        value = s @ xi + np.sum(c * (np.log2(c) - xi))
        return -value, -(basis @ (s - c))

    start = np.zeros(count)
    start[0] = np.log2(np.e * statistics.total / count)
    bounds = [(None, None)] * 2 + [(0, None)] * (count - 2)
    solution = minimize(
        negative, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15}
    )
    return -solution.fun


def problem_of(seed, n, count, *, scale=1.0):
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(np.where(rng.random(n) < 0.5, rng.normal(-1, 0.3, n), rng.normal(1, 0.4, n)) * scale)
    grid = BucketGrid(center=0.0, radius=2.0 * scale, count=count)
    return SpreadDual(statistics=cell_statistics([weights], grid), c_min=C_MIN, c_max=float(n))


@given(seeds, st.integers(5, 60), st.integers(3, 12), st.sampled_from([1.0, 1e9]))
@settings(max_examples=30)
def test_every_iterate_stays_below_the_exact_optimum(seed, n, count, scale):
    problem = problem_of(seed, n, count, scale=scale)
    optimum = exact_value(problem.statistics, problem.c_min, problem.c_max)
    start = np.random.default_rng(seed).normal(0, 2, count)
    result = solve_fista(problem, start=start, iterations=40, zeta=20.0 * n)
    tolerance = 1e-5 * (1 + abs(optimum))
    assert all(value <= optimum + tolerance for value in result.values)
    assert result.value == max(result.values)
    assert result.value > result.values[0]
    assert len(result.values) == result.iterations == 40


def test_fista_comes_close_to_the_optimum():
    problem = problem_of(3, 200, 8)
    optimum = exact_value(problem.statistics, problem.c_min, problem.c_max)
    result = solve_fista(problem, iterations=3000, zeta=300.0 * 200)
    assert result.value == pytest.approx(optimum, rel=2e-3)


def test_iterations_scale_with_the_problem():
    one, two = problem_of(1, 100, 6), problem_of(1, 100, 6)
    statistics = two.statistics
    doubled = type(statistics)(counts=2 * statistics.counts, fractions=2 * statistics.fractions, grid=statistics.grid)
    two = SpreadDual(statistics=doubled, c_min=2 * one.c_min, c_max=2 * one.c_max)
    first = solve_fista(one, iterations=20, zeta=225.0)
    second = solve_fista(two, iterations=20, zeta=450.0)
    np.testing.assert_allclose(second.xi, first.xi + 1.0, atol=1e-9)


@given(seeds)
def test_supergradient_bounds_the_dual_function_from_above(seed):
    problem = problem_of(seed, 50, 7)
    rng = np.random.default_rng(seed)
    here, there = rng.normal(2, 1.5, 7), rng.normal(2, 1.5, 7)
    value, supergradient = problem.evaluate(here)
    assert problem.evaluate(there)[0] <= value + supergradient @ (there - here) + 1e-7


def test_concentrated_weights_are_spread_evenly_with_one_slope():
    weights = 0.01 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    grid = BucketGrid(center=0.0, radius=1.0, count=21)
    problem = SpreadDual(statistics=cell_statistics([weights], grid), c_min=C_MIN, c_max=2000.0)
    optimum = exact_value(problem.statistics, problem.c_min, problem.c_max)
    even = 2000 * np.log2(2000 / 21)
    assert optimum == pytest.approx(even, rel=1e-3)
    slopes = problem.slopes(problem.uniform_start())
    np.testing.assert_allclose(slopes, slopes[0], atol=1e-9)


def test_bad_arguments_are_named():
    problem = problem_of(0, 10, 4)
    for arguments, named in (({"iterations": 0, "zeta": 1.0}, "iterations"), ({"iterations": 5, "zeta": 0.0}, "zeta")):
        with pytest.raises(ConfigError, match=named):
            solve_fista(problem, **arguments)
    with pytest.raises(ConfigError, match="c_min"):
        SpreadDual(statistics=problem.statistics, c_min=0.0, c_max=1.0)
    with pytest.raises(ConfigError, match="empty"):
        SpreadDual(statistics=cell_statistics([], problem.statistics.grid), c_min=C_MIN, c_max=1.0)
