"""Tensors that hold less than their type could are told by what is inside them."""

from __future__ import annotations

import numpy as np
import pytest

from metaq.tensors.inside import looks_like
from metaq.tensors.narrow_floats import bfloat16_bits, bfloat16_values, float8_bits, float8_values
from metaq.tensors.quantized import Dtype

WEIGHTS = np.random.default_rng(0).normal(0, 0.05, (90, 100)).astype("<f4")
BFLOAT16 = bfloat16_values(bfloat16_bits(WEIGHTS.reshape(-1))).reshape(WEIGHTS.shape)


def float8(kind: str) -> np.ndarray:
    drawn = np.exp2(np.random.default_rng(1).uniform(-10, 8, 20_000))
    return float8_values(float8_bits(drawn, kind), kind)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (WEIGHTS, Dtype.float32, None),
        (BFLOAT16, Dtype.float32, "bfloat16"),
        (WEIGHTS.astype("<f2").astype("<f4"), Dtype.float32, "float16"),
        (WEIGHTS.astype("<f8"), Dtype.float64, "float32"),
        (WEIGHTS.astype("<f2").astype("<f8"), Dtype.float64, "float16"),
        (BFLOAT16.astype("<f8"), Dtype.float64, "bfloat16"),
        (WEIGHTS.astype("<f8") / 3, Dtype.float64, None),
        (WEIGHTS.astype("<f2"), Dtype.float16, None),
        (bfloat16_bits(WEIGHTS.reshape(-1)), Dtype.bfloat16, None),
        (float8("float8_e4m3fn").astype("<f2"), Dtype.float16, "float8_e4m3fn"),
        (bfloat16_bits(float8("float8_e5m2").astype("<f4")), Dtype.bfloat16, "float8_e5m2"),
        (np.round(WEIGHTS * 100).astype("i1"), Dtype.int8, None),
    ],
)
def test_a_narrower_type_is_told(values: np.ndarray, dtype: Dtype, expected: str | None) -> None:
    assert looks_like(values, dtype) == expected


@pytest.mark.parametrize("step", [0.0123, 2.0**-7, 3.0])
@pytest.mark.parametrize("offset", [0, 17])
def test_a_grid_is_told_with_its_levels(step: float, offset: int) -> None:
    levels = np.random.default_rng(2).integers(-100, 28, 5000) + offset
    levels[:2] = -100 + offset, 27 + offset
    assert looks_like((levels.astype("<f4") * np.float32(step)), Dtype.float32) == "a grid of 128 levels"
    assert looks_like((levels * step + step / 3).astype("<f4"), Dtype.float32) != "a grid of 128 levels"


def test_a_single_other_value_is_seen_wherever_it_is() -> None:
    for place in (0, 1, 4567, WEIGHTS.size - 1):
        values = BFLOAT16.reshape(-1).copy()
        values[place] = 0.1
        assert looks_like(values, Dtype.float32) is None


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0),
        np.zeros(9),
        np.full(9, 0.5),
        np.array([1.0, np.nan]),
        np.array([np.inf, 1.0]),
        np.array([1e30, 1.0]),
    ],
)
def test_nothing_is_told_of_too_little_or_of_what_is_not_finite(values: np.ndarray) -> None:
    assert looks_like(values.astype("<f4"), Dtype.float32) is None


def test_extremes_do_not_overflow() -> None:
    values = np.array([3e38, -3e38, 1e-45, 0.3] * 5, dtype="<f4")
    assert looks_like(values, Dtype.float32) is None
