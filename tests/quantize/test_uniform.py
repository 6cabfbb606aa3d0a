from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaq.errors import ConfigError
from metaq.quantize.sweep import SweepRow, best_rows, choose_smallest, parse_range
from metaq.quantize.uniform import quantize_array, uniform_grids
from metaq.tensors.quantized import Dtype

WEIGHTS = {"a": np.array([-1.0, 0.25, 3.0]), "b": np.array([[10.0, 20.0]])}


def test_each_tensor_has_its_own_range_or_all_share_one():
    own = uniform_grids(WEIGHTS, count=4)
    assert (own["a"].center, own["a"].radius) == (1.0, 2.0)
    assert (own["b"].center, own["b"].radius) == (15.0, 5.0)
    shared = uniform_grids(WEIGHTS, count=4, grouping="global")
    assert shared["a"] == shared["b"]
    assert (shared["a"].center, shared["a"].radius) == (9.5, 10.5)


@pytest.mark.parametrize("count", [2, 3, 15, 16, 255, 256])
def test_zero_is_a_reference_value_where_weights_are_zero(count):
    grid = uniform_grids({"w": np.array([-1.0, 0.0, 3.3])}, count=count)["w"]
    assert grid.values_of(grid.assign(np.zeros(1)))[0] == 0.0
    assert grid.count == count
    assert grid.lower <= -1.0
    assert grid.lower + count * grid.step_size >= 3.3 - 1e-9


def test_a_given_centre_or_radius_is_kept():
    grids = uniform_grids(WEIGHTS, count=5, center=0.0)
    assert (grids["a"].center, grids["a"].radius) == (0.0, 3.0)
    grids = uniform_grids(WEIGHTS, count=5, radius=0.5)
    assert (grids["a"].center, grids["a"].radius) == (1.0, 0.5)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.integers(2, 300))
def test_quantised_weights_are_within_half_a_step(values, count):
    weights = np.array(values)
    grid = uniform_grids({"w": weights}, count=count)["w"]
    tensor = quantize_array("w", weights, grid, Dtype.float64)
    assert np.abs(tensor.restore() - weights).max() <= grid.step_size / 2 * (1 + 1e-9)
    assert len(np.unique(tensor.restore())) <= count


def test_constant_tensors_get_a_grid():
    for value in (0.0, 0.25, -3.0):
        grid = uniform_grids({"w": np.full(4, value)}, count=3)["w"]
        assert grid.values_of(grid.assign(np.array([value])))[0] == pytest.approx(value)


def test_what_cannot_be_quantised_is_named():
    with pytest.raises(ConfigError, match="b: holds NaN"):
        uniform_grids({"a": np.zeros(2), "b": np.array([np.nan])}, count=4)
    with pytest.raises(ConfigError, match="a: buckets"):
        uniform_grids(WEIGHTS, count=1)
    with pytest.raises(ConfigError, match="no tensor"):
        uniform_grids({}, count=4)
    with pytest.raises(ConfigError, match="stored exactly"):
        quantize_array("n", np.zeros(2), uniform_grids(WEIGHTS, count=4)["a"], Dtype.int64)


ROWS = [
    SweepRow(buckets=4, accuracy=90.0, entropy_bits=100.0),
    SweepRow(buckets=8, accuracy=98.0, entropy_bits=200.0),
    SweepRow(buckets=16, accuracy=99.0, entropy_bits=400.0),
    SweepRow(buckets=32, accuracy=99.0, entropy_bits=300.0),
]


def test_best_rows_are_the_most_accurate_then_the_smallest():
    assert [row.buckets for row in best_rows(ROWS, most=3)] == [32, 16, 8]


def test_the_smallest_row_within_the_tolerance_is_chosen():
    assert choose_smallest(ROWS, least_accuracy=98.0).buckets == 8
    assert choose_smallest(ROWS, least_accuracy=98.5).buckets == 32
    with pytest.raises(ConfigError, match=r"99\.00"):
        choose_smallest(ROWS, least_accuracy=99.5)


@pytest.mark.parametrize("text", ["", "5", "a:b", "1:5", "9:4", "4:9:0", "4:9:1:1"])
def test_ranges_that_make_no_sense_are_refused(text):
    with pytest.raises(ConfigError, match="--sweep"):
        parse_range(text)
