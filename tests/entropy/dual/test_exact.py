from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import SpreadDual, solve_exact
from metaq.entropy.dual.primal import hinge_sums
from metaq.tensors.grid import BucketGrid

cvxpy = pytest.importorskip("cvxpy")
seeds = st.integers(0, 2**32 - 1)


def full_program(weights, grid, c_min):
    """METHOD (2) as it is written, over all n C shares: status, optimum in bits, counts, multipliers of w = V x."""
    v = grid.reference_values()
    x = cvxpy.Variable((len(weights), grid.count), nonneg=True)
    counts = cvxpy.sum(x, axis=0)
    ties = x @ v == np.clip(weights, v[0], v[-1])
    constraints = [ties, cvxpy.sum(x, axis=1) == 1, counts >= c_min]
    program = cvxpy.Problem(cvxpy.Minimize(-cvxpy.sum(cvxpy.entr(counts)) / np.log(2)), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program.solve(solver=cvxpy.CLARABEL)
        except cvxpy.SolverError:
            return "failed", None, None
    return program.status, program.value, counts.value


def weights_of(rng, grid, n):
    return {
        0: lambda: rng.uniform(-1.3, 1.3, n),
        1: lambda: rng.normal(0, 0.1, n),
        2: lambda: rng.choice(grid.reference_values(), n),
        3: lambda: np.where(rng.random(n) < 0.5, -0.7, 0.7) + rng.normal(0, 0.08, n),
    }[int(rng.integers(4))]()


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_exact_equals_the_full_program(seed):
    rng = np.random.default_rng(seed)
    n, count = int(rng.integers(1, 13)), int(rng.integers(2, 11))
    grid = BucketGrid(center=0.0, radius=1.0, count=count)
    weights = weights_of(rng, grid, n)
    c_min = float(rng.choice([0.01, 0.1]))
    problem = SpreadDual(statistics=cell_statistics([torch.from_numpy(weights)], grid), c_min=c_min)
    result = solve_exact(problem, start=None if rng.random() < 0.5 else 5 * rng.standard_normal(count))
    status, optimum, counts = full_program(weights, grid, c_min)
    if status == "optimal" and optimum <= n * np.log2(n) + 1e-6:
        assert result.converged
        assert result.value == pytest.approx(optimum, rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(result.counts, counts, atol=2e-3 * n)
    elif status == "infeasible":
        assert not result.converged


@pytest.mark.parametrize("kind", ["concentrated", "bimodal", "uniform"])
@pytest.mark.parametrize("count", [2, 8, 64, 256, 1024])
@pytest.mark.parametrize("seed", [None, 0])
def test_exact_meets_its_own_optimality_conditions(make_problem, kind, count, seed):
    problem = make_problem(kind, 44_000, count)
    start = None if seed is None else np.random.default_rng(seed).random(count)
    result = solve_exact(problem, start=start)
    n, s = problem.statistics.total, problem.statistics.linear_binning()
    counts = np.clip(2.0**result.xi / np.e, *problem.count_bounds)
    kinks = np.diff(result.xi, 2)
    excess = (hinge_sums(counts) - hinge_sums(s))[1:-1]
    assert result.converged
    assert abs(counts.sum() - n) <= 1e-8 * n
    assert abs(np.arange(count) @ (counts - s)) <= 1e-8 * n * count
    assert (excess >= -1e-8 * n * count).all()
    assert (kinks >= -1e-8).all()
    assert (kinks * excess <= 1e-8 * n).all()
    assert result.gap <= 1e-8 * abs(result.value)
    assert np.abs(result.residual).max() <= 1e-8 * n


@given(seeds, st.integers(3, 9))
@settings(max_examples=40, deadline=None)
def test_beta_is_the_finite_difference_of_the_optimum(seed, count):
    rng = np.random.default_rng(seed)
    grid = BucketGrid(center=0.0, radius=1.0, count=count)
    weights = np.concatenate([rng.uniform(-0.9, 0.9, 60), rng.normal(-0.5, 0.1, 60)])

    def solve(w):
        return solve_exact(SpreadDual(statistics=cell_statistics([torch.from_numpy(w)], grid)))

    result = solve(weights)
    positions = (weights - grid.reference_values()[0]) / grid.step_size
    for i in range(0, len(weights), 17):
        cell = int(np.clip(np.floor(positions[i]), 0, count - 2))
        if not 0.05 < positions[i] - cell < 0.95:
            continue
        up, down = weights.copy(), weights.copy()
        h = 1e-3 * grid.step_size
        up[i] += h
        down[i] -= h
        difference = (solve(up).value - solve(down).value) / (2 * h)
        assert difference == pytest.approx(result.slopes[cell], rel=1e-3, abs=1e-3 / grid.step_size)


def test_weights_on_the_two_ends_only_cannot_fill_the_buckets_between(make_problem):
    result = solve_exact(make_problem(weights=[-5.0, -5.0, 5.0], count=6))
    assert result.status == "infeasible"
    assert not result.converged


def test_bounds_that_force_every_count_are_met(make_problem):
    result = solve_exact(make_problem(weights=np.linspace(-0.9, 0.9, 40), count=4, c_min=10.0))
    assert result.value == pytest.approx(40 * np.log2(10))


@pytest.mark.parametrize("count", [4_096, 16_384])
def test_many_buckets_are_solved(make_problem, count):
    problem = make_problem("bimodal", 44_000, count)
    result = solve_exact(problem)
    assert result.converged
    counts = np.clip(2.0**result.xi / np.e, *problem.count_bounds)
    assert abs(counts.sum() - 44_000) <= 1e-8 * 44_000


def test_one_weight_and_two_buckets(make_problem):
    result = solve_exact(make_problem(weights=[0.0], count=2))
    assert result.converged
    np.testing.assert_allclose(result.counts, [0.5, 0.5])


def test_concentrated_weights_are_spread_evenly_with_one_slope(make_problem):
    result = solve_exact(make_problem("concentrated", 2000, 21))
    assert result.value == pytest.approx(2000 * np.log2(2000 / 21), rel=1e-3)
    np.testing.assert_allclose(result.slopes, result.slopes[0], atol=1e-6)
