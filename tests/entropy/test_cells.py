from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import SpreadDual, solve_fista
from metaq.entropy.objective import code_length
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid

GRID = BucketGrid(center=0.5, radius=2.0, count=9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_statistics_equal_a_plain_sum_over_weights(seed, n):
    weights = np.random.default_rng(seed).normal(0, 2, n)
    v = GRID.reference_values()
    shared = np.zeros(GRID.count)
    for w in np.clip(weights, v[0], v[-1]):
        left = min(int(np.searchsorted(v, w, side="right")) - 1, GRID.count - 2)
        inside = (w - v[left]) / GRID.step_size
        shared[left] += 1 - inside
        shared[left + 1] += inside
    statistics = cell_statistics([torch.from_numpy(weights)], GRID)
    np.testing.assert_allclose(statistics.linear_binning(), shared, atol=1e-9)
    assert statistics.total == n


def test_sums_are_preserved_inside_the_range():
    weights = torch.rand(1000, dtype=torch.float64) * 3 - 1
    s = cell_statistics([weights], GRID).linear_binning()
    resolution = GRID.step_size * 2**-33
    assert s @ GRID.reference_values() == pytest.approx(float(weights.sum()), abs=1000 * resolution)


def test_tensors_and_chunks_add_up():
    weights = torch.randn((1 << 18) + 1000, generator=torch.Generator().manual_seed(0))
    whole = cell_statistics([weights], GRID)
    parts = cell_statistics([weights[:300].reshape(3, 100), weights[300:]], GRID)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_allclose(whole.fractions, parts.fractions, rtol=1e-12)


def test_half_precision_and_non_contiguous_weights():
    weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    turned = cell_statistics([weights.t()], GRID)
    plain = cell_statistics([weights.float()], GRID)
    np.testing.assert_array_equal(turned.counts, plain.counts)
    np.testing.assert_allclose(turned.fractions, plain.fractions, rtol=1e-12)


def test_integers_are_no_weights():
    with pytest.raises(ConfigError, match="weights"):
        cell_statistics([torch.arange(5)], GRID)


def test_no_array_of_weights_times_buckets_is_allocated():
    n, count = 5_000_000, 256
    grid = BucketGrid(center=0.0, radius=4.0, count=count)
    weights = torch.randn(n, generator=torch.Generator().manual_seed(0))
    peak_before = _peak_resident_bytes()
    tracemalloc.start()
    statistics = cell_statistics([weights], grid)
    slopes = solve_fista(SpreadDual(statistics=statistics), max_iterations=15).slopes
    code_length(statistics)
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert slopes.shape == (count - 1,)
    grown = _peak_resident_bytes() - peak_before
    one_byte_a_pair = n * count
    assert python_peak < 64 << 20
    assert grown < min(512 << 20, one_byte_a_pair / 2)


def _peak_resident_bytes() -> int:
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
