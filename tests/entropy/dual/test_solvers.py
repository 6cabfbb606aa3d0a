from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from metaq.entropy.dual import (
    SpreadDual,
    solve_dss,
    solve_exact,
    solve_fista,
    solve_projected_fista,
    solve_proximal_bundle,
)
from metaq.entropy.dual.primal import attainable_counts, hinge_sums, spread_counts
from metaq.entropy.dual.problem import evaluate_parts
from metaq.errors import ConfigError

SOLVERS = (solve_dss, solve_exact, solve_fista, solve_projected_fista, solve_proximal_bundle)
KINDS = ("concentrated", "bimodal", "uniform")
seeds = st.integers(0, 2**32 - 1)
every_solver = pytest.mark.parametrize("solve", SOLVERS)


def evaluate(problem, xi):
    """The dual function and a supergradient."""
    value, on_buckets, wanted = evaluate_parts(xi, problem.sums)
    return value, on_buckets - wanted


@every_solver
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_every_value_is_a_lower_bound_and_the_gap_an_upper_one(make_problem, solve, kind, scale):
    problem = make_problem(kind, 300, 12, scale=scale)
    optimum = solve_exact(problem).value
    start = np.random.default_rng(1).random(12)
    result = solve(problem, start=start, max_iterations=60)
    assert all(value <= optimum + 1e-8 * abs(optimum) for value in result.values)
    assert result.value == pytest.approx(max(result.values), rel=1e-12)
    assert result.value + result.gap >= optimum - 1e-8 * abs(optimum)
    assert result.iterations == len(result.values) <= 60
    assert result.evaluations >= result.iterations
    value, supergradient = evaluate(problem, result.xi)
    assert value == pytest.approx(result.value, rel=1e-12)
    if solve in (solve_dss, solve_fista, solve_proximal_bundle):
        np.testing.assert_allclose(result.residual, supergradient, atol=1e-9 * 300)


@every_solver
def test_a_cap_that_is_met_is_told(make_problem, solve):
    problem = make_problem("bimodal", 500, 20)
    start = 10 * np.random.default_rng(2).random(20)
    result = solve(problem, start=start, max_iterations=2)
    assert result.status == "iteration limit"
    assert not result.converged
    assert result.gap > 0


@pytest.mark.parametrize("solve", [solve_exact, solve_projected_fista, solve_proximal_bundle])
@pytest.mark.parametrize("kind", KINDS)
def test_convergent_solvers_say_so_and_start_warm(make_problem, solve, kind):
    problem = make_problem(kind, 2000, 16)
    cold = solve(problem, start=np.zeros(16), tolerance=1e-6)
    warm = solve(problem, start=cold.xi, tolerance=1e-6)
    assert cold.converged
    assert warm.converged
    assert cold.gap <= 1e-6 * 2000
    assert warm.values[0] >= cold.value - 1e-9 * abs(cold.value)
    assert cold.value == pytest.approx(solve_exact(problem).value, rel=1e-6)


@every_solver
def test_twice_the_weights_need_no_other_settings(make_problem, solve):
    once = make_problem("bimodal", 100, 6)
    statistics = once.statistics
    doubled = dataclasses.replace(statistics, counts=2 * statistics.counts, fractions=2 * statistics.fractions)
    twice = SpreadDual(statistics=doubled, c_min=2 * once.c_min)
    start = np.random.default_rng(0).random(6)
    first = solve(once, start=start, max_iterations=8)
    second = solve(twice, start=start + 1, max_iterations=8)
    np.testing.assert_allclose(second.xi, first.xi + 1.0, atol=1e-7)
    np.testing.assert_allclose(second.slopes, first.slopes, atol=1e-6)


def test_the_fixed_steps_of_the_thesis(make_problem):
    problem = make_problem("uniform", 400, 8)
    fixed = solve_fista(problem, start=np.zeros(8), max_iterations=9, zeta=900.0)
    relative = solve_fista(problem, start=np.zeros(8), max_iterations=9, zeta_per_weight=2.25)
    np.testing.assert_allclose(fixed.values, relative.values)
    start = np.full(8, 5.0)
    first = evaluate(problem, start)[1]
    result = solve_dss(problem, start=start, max_iterations=2, fixed_step=0.001)
    assert result.values[1] == pytest.approx(evaluate(problem, start + 0.001 * first)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [8, 16, 32, 64, 128, 256])
def test_projected_fista_is_within_a_millionth_after_500_evaluations(make_problem, kind, count):
    problem = make_problem(kind, 44_000, count)
    start = np.random.default_rng(0).random(count)
    result = solve_projected_fista(problem, start=start, max_iterations=150)
    assert result.evaluations <= 500
    assert result.value >= (1 - 1e-6) * solve_exact(problem).value


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [8, 16, 32, 64, 128, 256])
def test_the_bundle_is_within_a_ten_thousandth_after_500_evaluations(make_problem, kind, count):
    problem = make_problem(kind, 44_000, count)
    start = np.random.default_rng(0).random(count)
    result = solve_proximal_bundle(problem, start=start, max_iterations=500, tolerance=3e-4)
    assert result.evaluations <= 500
    assert result.value >= (1 - 1e-4) * solve_exact(problem).value


def test_a_small_bundle_still_converges_through_its_aggregate(make_problem, monkeypatch):
    monkeypatch.setattr("metaq.entropy.dual.proximal_bundle.LEAST_BUNDLE", 4)
    problem = make_problem("bimodal", 500, 6)
    result = solve_proximal_bundle(problem, start=np.zeros(6), max_iterations=400, tolerance=1e-4)
    assert result.converged


@given(seeds)
@settings(deadline=None)
def test_supergradient_bounds_the_dual_function_from_above(make_problem, seed):
    problem = make_problem("bimodal", 50, 7, seed=seed)
    rng = np.random.default_rng(seed)
    here, there = rng.normal(2, 1.5, 7), rng.normal(2, 1.5, 7)
    value, supergradient = evaluate(problem, here)
    assert evaluate(problem, there)[0] <= value + supergradient @ (there - here) + 1e-7


def is_attainable(weights, v, counts):
    """Whether shares of all weights add up to `counts`, by linear programming."""
    n, count = len(weights), len(v)
    rows = [np.kron(np.eye(n), v), np.kron(np.eye(n), np.ones(count)), np.kron(np.ones(n), np.eye(count))]
    program = linprog(
        np.zeros(n * count),
        A_eq=np.vstack(rows),
        b_eq=np.concatenate([np.clip(weights, v[0], v[-1]), np.ones(n), counts]),
        bounds=(0, None),
    )
    return program.status == 0


@given(seeds, st.integers(1, 8), st.integers(2, 7))
@settings(max_examples=60, deadline=None)
def test_counts_that_are_called_attainable_are(make_problem, seed, n, count):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-1, 1, n)
    problem = make_problem(weights=weights, count=count)
    s = problem.statistics.linear_binning()
    v = problem.statistics.grid.reference_values()
    assert is_attainable(weights, v, spread_counts(s))
    counts, value = attainable_counts(n * rng.dirichlet(np.ones(count)), s, 0.01, float(n))
    if np.isfinite(value):
        assert is_attainable(weights, v, counts)
        assert value == pytest.approx(counts @ np.log2(counts))
        assert value >= solve_exact(problem).value - 1e-9 * n


@given(seeds, st.integers(2, 40))
def test_hinge_sums_are_their_definition(seed, count):
    counts = np.random.default_rng(seed).random(count)
    b = np.arange(count)
    expected = [np.maximum(b - k, 0) @ counts for k in range(count)]
    np.testing.assert_allclose(hinge_sums(counts), expected, atol=1e-9)


@every_solver
def test_bad_arguments_are_named(make_problem, solve):
    problem = make_problem(count=4)
    for options, named in (
        ({"start": np.zeros(5)}, "start"),
        ({"start": np.array([0.0, np.nan, 0.0, 0.0])}, "start"),
        ({"start": np.array([0.0, np.inf, 0.0, 0.0])}, "start"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ):
        with pytest.raises(ConfigError, match=named):
            solve(problem, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"c_min": 0.0}, "c_min"),
        ({"c_min": -1.0}, "c_min"),
        ({"c_min": float("nan")}, "c_min"),
        ({"weights": [0.0], "c_min": 2.0}, "c_min"),
        ({"weights": []}, "weights"),
    ],
)
def test_bad_problems_are_named(make_problem, options, named):
    with pytest.raises(ConfigError, match=named):
        make_problem(**options)


@pytest.mark.parametrize(
    ("solve", "options", "named"),
    [
        (solve_fista, {"zeta": 0.0}, "zeta"),
        (solve_fista, {"zeta_per_weight": -1.0}, "zeta_per_weight"),
        (solve_dss, {"fixed_step": float("inf")}, "fixed_step"),
    ],
)
def test_bad_options_are_named(make_problem, solve, options, named):
    with pytest.raises(ConfigError, match=named):
        solve(make_problem(), **options)
