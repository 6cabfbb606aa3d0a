from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from metaq.entropy.hull import cell_slopes, lower_hull

seeds = st.integers(0, 2**32 - 1)


def simil_knapsack_by_pairs(v, xi, w):
    """Brute force over all pairs of buckets around w."""
    best = np.inf
    for a, b in itertools.combinations_with_replacement(range(len(v)), 2):
        if v[a] <= w <= v[b]:
            t = 0.0 if a == b else (w - v[a]) / (v[b] - v[a])
            best = min(best, (1 - t) * xi[a] + t * xi[b])
    return best


@given(seeds, st.integers(2, 30), st.booleans())
def test_hull_solves_the_simil_knapsack(seed, count, ties):
    rng = np.random.default_rng(seed)
    v = np.cumsum(rng.uniform(0.1, 2.0, count)) - count
    xi = rng.integers(-2, 3, count).astype(float) if ties else rng.normal(0, 3, count)
    vertices = lower_hull(v, xi)
    assert vertices[0] == 0
    assert vertices[-1] == count - 1
    w = rng.uniform(v[0], v[-1])
    value = np.interp(w, v[vertices], xi[vertices])
    assert value == pytest.approx(simil_knapsack_by_pairs(v, xi, w), abs=1e-9)
    program = linprog(xi, A_eq=np.stack([v, np.ones(count)]), b_eq=[w, 1.0], bounds=(0, None))
    assert value == pytest.approx(program.fun, abs=1e-7)


@given(seeds, st.integers(2, 40))
def test_slopes_are_the_derivative_of_the_hull_and_increase(seed, count):
    rng = np.random.default_rng(seed)
    v = np.linspace(-1, 1, count)
    xi = rng.normal(size=count)
    slopes = cell_slopes(v, xi)
    vertices = lower_hull(v, xi)
    hull = np.interp(v, v[vertices], xi[vertices])
    np.testing.assert_allclose(slopes, np.diff(hull) / np.diff(v), atol=1e-9)
    assert (np.diff(slopes) >= -1e-9).all()
