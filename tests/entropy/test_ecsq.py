from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.entropy.ecsq import solve_ecsq
from metaq.tensors.grid import BucketGrid

GRID = BucketGrid(center=0.1, radius=1.0, count=9)
seeds = st.integers(0, 2**32 - 1)


def instance(seed, *, n=None, count=None):
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(1, 300))
    grid = BucketGrid(center=rng.normal(), radius=float(rng.uniform(0.2, 3)), count=count or int(rng.integers(2, 25)))
    weights = grid.center + grid.radius * rng.normal(0, 0.5, n)
    mu = float(10 ** rng.uniform(-2, 3)) / grid.step_size**2
    return rng, grid, torch.from_numpy(weights), mu


def nearest_rounding_cost(weights, grid, mu):
    indices = grid.assign(weights.numpy())
    counts = np.bincount(indices, minlength=grid.count)
    bits = counts[counts > 0] @ np.log2(len(weights) / counts[counts > 0])
    return bits + mu * np.sum((weights.numpy() - grid.values_of(indices)) ** 2)


@given(seeds, st.booleans())
@settings(deadline=None)
def test_the_objective_falls_in_every_sweep_and_is_what_it_says(seed, warm):
    rng, grid, weights, mu = instance(seed)
    start = rng.uniform(0, 12, grid.count) if warm else None
    result = solve_ecsq(weights, grid, mu=mu, code_lengths=start)
    code = result.code
    scale = abs(code.value_bits) + 1
    assert (np.diff(code.values) <= 1e-9 * scale).all()
    counts = np.bincount(result.indices.numpy(), minlength=grid.count)
    np.testing.assert_array_equal(code.counts, counts)
    away = weights - torch.from_numpy(grid.values_of(result.indices.numpy()))
    assert code.squared_distance == pytest.approx(float(away.square().sum()), rel=1e-9, abs=1e-12)
    assert code.value_bits == pytest.approx(code.code_bits + mu * code.squared_distance, rel=1e-9, abs=1e-9)
    held = counts[counts > 0]
    assert code.code_bits == pytest.approx(held @ np.log2(len(weights) / held), abs=1e-9)
    torch.testing.assert_close(result.beta, 2 * mu * away)


@given(seeds)
@settings(deadline=None)
def test_no_start_ends_above_nearest_rounding(seed):
    rng, grid, weights, mu = instance(seed)
    for start in (None, rng.uniform(0, 20, grid.count), np.zeros(grid.count)):
        result = solve_ecsq(weights, grid, mu=mu, code_lengths=start)
        assert result.code.value_bits <= nearest_rounding_cost(weights, grid, mu) * (1 + 1e-9) + 1e-9


@given(seeds)
@settings(deadline=None)
def test_every_weight_is_in_the_best_bucket_for_the_code_lengths(seed):
    _, grid, weights, mu = instance(seed)
    result = solve_ecsq(weights, grid, mu=mu)
    assert result.code.converged
    v = torch.from_numpy(grid.reference_values())
    costs = torch.from_numpy(result.code.code_lengths) + mu * (weights[:, None] - v) ** 2
    mine = costs.gather(1, result.indices[:, None])[:, 0]
    assert bool((mine <= costs.min(dim=1).values * (1 + 1e-9) + 1e-9).all())


@given(seeds)
@settings(deadline=None)
def test_beta_is_the_finite_difference_of_the_objective(seed):
    _, grid, weights, mu = instance(seed, n=60)
    result = solve_ecsq(weights, grid, mu=mu)
    h = 1e-5 * grid.step_size
    for i in range(0, 60, 7):
        values = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[i] += sign * h
            again = solve_ecsq(moved, grid, mu=mu, code_lengths=result.code.code_lengths)
            values.append(again.code.value_bits if torch.equal(again.indices, result.indices) else np.nan)
        difference = (values[0] - values[1]) / (2 * h)
        if np.isfinite(difference):
            scale = 1e-9 * abs(values[0]) / h
            assert difference == pytest.approx(float(result.beta[i]), rel=1e-5, abs=max(scale, 1e-6))


@given(seeds)
@settings(deadline=None)
def test_a_large_mu_rounds_to_the_nearest_value(seed):
    _, grid, weights, _ = instance(seed)
    positions = (weights.numpy() - grid.lower) / grid.step_size
    clear = np.abs(positions - np.round(positions)) > 1e-6
    result = solve_ecsq(weights, grid, mu=1e9 / grid.step_size**2)
    np.testing.assert_array_equal(result.indices.numpy()[clear], grid.assign(weights.numpy())[clear])


def test_a_small_mu_puts_all_weights_into_the_most_popular_bucket():
    weights = torch.from_numpy(np.random.default_rng(0).normal(0, 0.3, 500))
    result = solve_ecsq(weights, GRID, mu=1e-9)
    assert result.indices.unique().numel() == 1
    assert result.code.code_bits == 0.0


def test_a_weight_on_a_threshold_goes_to_the_upper_bucket():
    grid = BucketGrid(center=0.0, radius=1.0, count=2)
    result = solve_ecsq(torch.tensor([-0.5, 0.0, 0.5]), grid, mu=1.0, code_lengths=np.ones(2), max_sweeps=1)
    assert result.indices.tolist() == [0, 1, 1]


def test_the_cap_on_sweeps_is_told():
    _, grid, weights, mu = instance(11, n=300, count=24)
    result = solve_ecsq(weights, grid, mu=mu / 50, code_lengths=np.linspace(0, 9, 24), max_sweeps=1)
    assert len(result.code.values) == 1
    assert not result.code.converged


@given(seeds, st.sampled_from([1e-6, 1e6]))
@settings(deadline=None)
def test_the_scale_of_the_weights_does_not_matter(seed, scale):
    _, grid, weights, mu = instance(seed)
    scaled_grid = BucketGrid(center=scale * grid.center, radius=scale * grid.radius, count=grid.count)
    one = solve_ecsq(weights, grid, mu=mu).code
    other = solve_ecsq(scale * weights, scaled_grid, mu=mu / scale**2).code
    assert other.value_bits == pytest.approx(one.value_bits, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_gives_the_result_of_the_same_numbers(dtype):
    weights = torch.randn(8, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    one, other = solve_ecsq(weights, GRID, mu=20.0), solve_ecsq(weights.double(), GRID, mu=20.0)
    assert torch.equal(one.indices, other.indices)
    assert one.indices.shape == one.beta.shape == (8, 30)
    assert one.beta.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"weights": torch.tensor([0.0, float("nan")])}, "weights"),
        ({"weights": torch.tensor([float("inf")])}, "weights"),
        ({"weights": torch.tensor([])}, "weights"),
        ({"weights": torch.tensor([1, 2])}, "weights"),
        ({"mu": 0.0}, "mu"),
        ({"mu": float("nan")}, "mu"),
        ({"max_sweeps": 0}, "max_sweeps"),
        ({"code_lengths": np.zeros(3)}, "code_lengths"),
        ({"code_lengths": np.full(9, np.inf)}, "code_lengths"),
    ],
)
def test_bad_arguments_are_named(options, named):
    arguments = {"weights": torch.zeros(4), "grid": GRID, "mu": 1.0, **options}
    with pytest.raises(ValueError, match=named):
        solve_ecsq(arguments.pop("weights"), arguments.pop("grid"), **arguments)
