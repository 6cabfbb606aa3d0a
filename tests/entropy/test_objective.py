from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import SpreadDual, solve_fista
from metaq.entropy.objective import code_length, magnitude_slopes
from metaq.tensors.grid import BucketGrid

from .plain import cell_positions

seeds = st.integers(0, 2**32 - 1)


def value(weights, grid):
    return code_length(cell_statistics([torch.from_numpy(weights)], grid))[0]


@given(seeds, st.integers(20, 200), st.integers(3, 9))
def test_beta_of_code_length_is_the_finite_difference_of_phi(seed, n, count):
    rng = np.random.default_rng(seed)
    grid = BucketGrid(center=0.1, radius=1.5, count=count)
    v = grid.reference_values()
    in_every_cell = np.repeat((v[:-1] + v[1:]) / 2, 2)
    weights = np.concatenate([in_every_cell, rng.uniform(v[0], v[-1], n)])
    tensor = torch.from_numpy(weights)
    slopes = code_length(cell_statistics([tensor], grid))[1]
    cells, inside = cell_positions(tensor, grid)
    h = 1e-4 * grid.step_size
    for i in range(0, len(weights), 7):
        if 1e-3 < float(inside[i]) < 1 - 1e-3:
            up, down = weights.copy(), weights.copy()
            up[i] += h
            down[i] -= h
            difference = (value(up, grid) - value(down, grid)) / (2 * h)
            assert difference == pytest.approx(slopes[int(cells[i])], rel=1e-4, abs=1e-4)


@given(seeds)
def test_code_length_is_the_entropy_once_weights_lie_on_the_grid(seed):
    grid = BucketGrid(center=0.0, radius=1.0, count=11)
    indices = np.random.default_rng(seed).integers(0, 11, 300)
    counts = np.bincount(indices, minlength=11)
    held = counts[counts > 0]
    entropy_bits = float(held @ np.log2(300 / held))
    assert value(grid.values_of(indices), grid) == pytest.approx(entropy_bits, rel=1e-9, abs=1e-6)


def test_code_length_is_zero_for_one_value():
    grid = BucketGrid(center=0.0, radius=1.0, count=3)
    assert value(np.zeros(50), grid) == pytest.approx(0.0, abs=1e-9)


def test_a_step_against_beta_lowers_the_bits_of_code_length():
    generator = torch.Generator().manual_seed(0)
    weights = 0.3 * torch.randn(5000, generator=generator, dtype=torch.float64)
    grid = BucketGrid(center=0.0, radius=1.05, count=21)
    before, _ = code_length(cell_statistics([weights], grid))
    moved = weights
    for _ in range(50):
        statistics = cell_statistics([moved], grid)
        beta = torch.from_numpy(code_length(statistics)[1])[cell_positions(moved, grid)[0]]
        moved = moved - 1e-3 * beta
    after, _ = code_length(cell_statistics([moved], grid))
    assert after < 0.9 * before


def test_the_thesis_objective_moves_clusters_to_the_empty_middle_and_saves_no_bits():
    generator = torch.Generator().manual_seed(0)
    clusters = torch.where(torch.rand(4000, generator=generator) < 0.5, -0.8, 0.8)
    weights = clusters + 0.05 * torch.randn(4000, generator=generator)
    grid = BucketGrid(center=0.0, radius=1.0, count=20)
    bits_before = value(weights.double().numpy(), grid)
    moved, xi = weights.double(), None
    for _ in range(60):
        problem = SpreadDual(statistics=cell_statistics([moved], grid))
        result = solve_fista(problem, start=xi, max_iterations=15)
        xi = result.xi
        moved = moved - 2e-3 * torch.from_numpy(result.slopes)[cell_positions(moved, grid)[0]]
    assert value(moved.numpy(), grid) > 0.99 * bits_before
    assert float(moved.abs().mean()) < 0.8 * float(weights.abs().mean())


@given(seeds, st.integers(3, 60), st.booleans())
def test_magnitude_slopes_always_point_to_the_attractor(seed, count, sparse):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 2 if sparse else 1000, count).astype(float)
    counts[rng.integers(count)] += 1
    attractor = int(rng.integers(count))
    slopes = magnitude_slopes(torch.from_numpy(counts), attractor=attractor, step_size=torch.tensor(0.5))
    assert slopes.shape == (count - 1,)
    assert (slopes[:attractor] < 0).all()
    assert (slopes[attractor:] > 0).all()
    assert slopes.isfinite().all()


def test_magnitude_slopes_are_prices_per_unit_of_weight():
    counts = torch.tensor([5.0, 10.0, 100.0, 30.0, 2.0], dtype=torch.float64)
    wide = magnitude_slopes(counts, attractor=2, step_size=torch.tensor(1.0))
    narrow = magnitude_slopes(counts, attractor=2, step_size=torch.tensor(0.25))
    torch.testing.assert_close(narrow, 4 * wide)
    torch.testing.assert_close(wide[:2], -wide[2:].flip(0))
