from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaq.entropy.cells import bucket_indices, bucket_values
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid

centers = st.floats(-10, 10)
radii = st.floats(1e-3, 1e3)
counts = st.integers(2, 2000)


@given(centers, radii, counts)
def test_reference_values_are_increasing_and_map_to_their_own_bucket(center, radius, count):
    grid = BucketGrid(center=center, radius=radius, count=count)
    values = grid.reference_values()
    assert (np.diff(values) > 0).all()
    np.testing.assert_array_equal(grid.assign(values), np.arange(count))


@given(radii, st.integers(1, 1000))
def test_odd_count_has_the_centre_itself_as_a_value(radius, half):
    grid = BucketGrid(center=0.0, radius=radius, count=2 * half + 1)
    assert grid.reference_values()[half] == 0.0


def test_edges_belong_to_the_upper_bucket_and_one_ulp_below_to_the_lower():
    grid = BucketGrid(center=0.0, radius=2.0, count=4)
    edges = np.array([-1.0, 1.0], dtype=np.float32)
    np.testing.assert_array_equal(grid.assign(edges), [1, 3])
    np.testing.assert_array_equal(grid.assign(np.nextafter(edges, np.float32(-9))), [0, 2])


def test_edges_are_told_apart_to_the_rounding_of_the_distance_from_the_lower_end():
    grid = BucketGrid(center=0.0, radius=2.0, count=4)
    np.testing.assert_array_equal(grid.assign(np.array([0.0, -1e-15, -1e-300])), [2, 1, 2])


def test_weights_outside_take_the_end_bucket_and_signed_zeros_agree():
    grid = BucketGrid(center=0.0, radius=1.0, count=3)
    np.testing.assert_array_equal(grid.assign(np.array([-1e300, 1e300, -0.0, 0.0])), [0, 2, 1, 1])


@given(centers, radii, counts, st.integers(0, 2**32 - 1))
def test_torch_and_numpy_follow_one_rule_to_the_bit(center, radius, count, seed):
    grid = BucketGrid(center=center, radius=radius, count=count)
    weights = np.random.default_rng(seed).normal(center, radius, 200).astype(np.float32)
    near_edges = (grid.lower + grid.step_size * np.arange(0, count + 1)).astype(np.float32)
    weights = np.concatenate([weights, near_edges, np.nextafter(near_edges, np.float32(0))])
    indices = bucket_indices(torch.from_numpy(weights), grid)
    np.testing.assert_array_equal(indices.numpy(), grid.assign(weights))
    np.testing.assert_array_equal(bucket_values(indices, grid).numpy(), grid.values_of(indices.numpy()))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"count": 1}, "buckets"),
        ({"count": 1 << 30}, "buckets"),
        ({"radius": 0.0}, "radius"),
        ({"radius": -1.0}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"center": float("inf")}, "center"),
        ({"center": 1e20, "radius": 1e-3}, "radius"),
        ({"radius": 1e308, "count": 1000}, "radius"),
    ],
)
def test_impossible_grids_are_refused_by_name(fields, named):
    with pytest.raises(ConfigError, match=named):
        BucketGrid(**{"center": 0.0, "radius": 1.0, "count": 4, **fields})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ConfigError, match="NaN or infinity"):
        BucketGrid(center=0.0, radius=1.0, count=4).assign(np.array([0.0, bad]))
