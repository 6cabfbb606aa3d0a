from __future__ import annotations

import numpy as np
import pytest
import torch

from metaq.tensors.narrow_floats import FINITE_CODES, bfloat16_values, float8_bits, float8_values

KINDS = ("float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_of_eight_bits_has_the_value_that_pytorch_gives_it(kind):
    patterns = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(patterns).view(getattr(torch, kind)).double().numpy()
    np.testing.assert_array_equal(float8_values(patterns, kind), expected)
    assert np.isfinite(expected[: FINITE_CODES[kind]]).all()
    assert not np.isfinite(expected[FINITE_CODES[kind]])


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_rounded_to_eight_bits_as_pytorch_does(kind):
    largest = float8_values(np.array([FINITE_CODES[kind] - 1], dtype=np.uint8), kind)[0]
    finite = float8_values(np.arange(FINITE_CODES[kind], dtype=np.uint8), kind)
    middles = (finite[1:] + finite[:-1]) / 2
    edges = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, np.inf), finite])
    values = np.concatenate([edges, np.random.default_rng(0).uniform(0, largest, 1000)]).astype(np.float32)
    values = np.concatenate([values, -values])
    expected = torch.from_numpy(values).to(getattr(torch, kind)).view(torch.uint8).numpy()
    np.testing.assert_array_equal(float8_bits(values.astype(np.float64), kind), expected)


def test_values_of_bfloat16_are_those_of_pytorch():
    patterns = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    expected = torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(bfloat16_values(patterns), expected)
