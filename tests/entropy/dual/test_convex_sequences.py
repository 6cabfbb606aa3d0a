from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from metaq.entropy.dual.convex_sequences import convex_regression, lower_envelope

seeds = st.integers(0, 2**32 - 1)


def by_non_negative_least_squares(y, weights):
    """The same fit over affine functions, of either sign, and non-negative hinges."""
    b = np.arange(len(y), dtype=float)
    hinges = [np.maximum(b - k, 0) for k in range(1, len(y) - 1)]
    columns = np.stack([np.ones(len(y)), -np.ones(len(y)), b, -b, *hinges], axis=1)
    root = np.sqrt(weights)
    return columns @ nnls(root[:, None] * columns, root * y, maxiter=10_000)[0]


@given(seeds, st.integers(2, 25))
@settings(deadline=None)
def test_regression_equals_non_negative_least_squares(seed, count):
    rng = np.random.default_rng(seed)
    y, weights = rng.normal(0, 3, count), rng.uniform(0.01, 5, count)
    start = lower_envelope(rng.normal(0, 1, count))
    fit, _ = convex_regression(y, weights, start, 1000)
    expected = by_non_negative_least_squares(y, weights)
    assert (np.diff(fit, 2) >= -1e-9).all()
    assert weights @ (fit - y) ** 2 == pytest.approx(weights @ (expected - y) ** 2, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(fit, expected, atol=1e-5)


@given(seeds, st.integers(3, 300), st.sampled_from([1e-6, 1.0, 1e9]))
@settings(deadline=None)
def test_regression_meets_its_optimality_conditions(seed, count, scale):
    rng = np.random.default_rng(seed)
    y, weights = scale * rng.normal(0, 1, count).cumsum(), 10 ** rng.uniform(-3, 3, count)
    fit, _ = convex_regression(y, weights, np.zeros(count), 20 * count)
    left = weights * (y - fit)
    natural = weights @ (np.abs(y - fit) + 1e-3 * np.abs(y))
    b = np.arange(count)
    derivatives = np.array([np.maximum(b - k, 0) @ left for k in range(1, count - 1)])
    kinks = np.diff(fit, 2)
    assert abs(left.sum()) <= 1e-9 * natural
    assert abs(b @ left) <= 1e-9 * natural * count
    assert (derivatives <= 1e-9 * natural * count).all()
    assert (kinks >= -1e-12 * np.abs(fit).max()).all()
    assert np.abs(kinks * derivatives).max() <= 1e-9 * natural * count * np.abs(y).max()


def test_a_convex_sequence_is_its_own_fit():
    y = np.arange(12.0) ** 2
    fit, _ = convex_regression(y, np.ones(12), np.zeros(12), 1000)
    np.testing.assert_allclose(fit, y, atol=1e-9)


def test_the_cap_on_rounds_is_kept():
    y = np.random.default_rng(0).normal(size=50).cumsum()
    fit, rounds = convex_regression(y, np.ones(50), np.zeros(50), 3)
    assert rounds == 3
    assert (np.diff(fit, 2) >= -1e-12).all()


@given(seeds, st.integers(2, 60))
@settings(deadline=None)
def test_the_envelope_is_the_greatest_convex_sequence_below(seed, count):
    xi = np.random.default_rng(seed).normal(size=count)
    envelope = lower_envelope(xi)
    assert (envelope <= xi + 1e-12).all()
    assert (np.diff(envelope, 2) >= -1e-12).all()
    bends = np.flatnonzero(np.diff(envelope, 2) > 1e-9) + 1
    np.testing.assert_allclose(envelope[bends], xi[bends])
