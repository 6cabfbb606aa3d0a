"""What φ is: cell counts in, value in bits and slopes β out (METHOD, sections 1 to 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.cells import CellStatistics
from metaq.dual import SpreadDual, solve_fista
from metaq.dual.problem import C_MIN

CHORD_SHARE = 0.7
"""Share of the mean rise since the attractor that a slope keeps at least."""

SMOOTHING = 0.125
"""Share of a magnitude's count that also counts for its neighbours, so that a lone empty bucket is no wall."""

PSEUDO_COUNT = 0.1
"""Count of a magnitude that nothing is near to: its code length stays finite and above that of a single weight."""

SIGN_BITS = 1.0

LEAST_FIRST_BITS = 2.0
"""Least price of leaving the attractor, so that weights come to it before it is popular."""

LEAST_STEP_BITS = 0.3
"""Least price of every further step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectiveResult:
    """φ of a group of weights.

    Attributes
    ----------
    value_bits
        φ(w) in bits.
    slopes
        β on every cell, ∂φ/∂w in bits per unit of weight, float64 of shape (C - 1,).
    xi
        Multipliers to start the next call from, float64 of shape (C,); None where there are none.
    """

    value_bits: float
    slopes: NDArray[np.float64]
    xi: NDArray[np.float64] | None


def spread(
    statistics: CellStatistics, *, start: NDArray[np.float64] | None, iterations: int, zeta_per_weight: float
) -> ObjectiveResult:
    """The thesis's problem: φ(w) = min Σ_b c_b log2 c_b, through its dual and FISTA.

    Minimising it *spreads* the weights over the buckets and raises the bits of a zero-order code (METHOD, section 2);
    it is here for study and comparison. A weight outside the range has the slope of the end cell.

    Parameters
    ----------
    statistics
        Cell counts and sums.
    start
        Multipliers of the previous call, float64 of shape (C,), or None.
    iterations
        Dual evaluations, O(C) each.
    zeta_per_weight
        Reciprocal of the step divided by n, so that the same number serves every n; the thesis has 2.25.
    """
    problem = SpreadDual(statistics=statistics)
    result = solve_fista(problem, start=start, max_iterations=iterations, zeta_per_weight=zeta_per_weight)
    return ObjectiveResult(value_bits=result.value, slopes=result.slopes, xi=result.xi)


def code_length(statistics: CellStatistics) -> ObjectiveResult:
    """Entropy of the linearly binned histogram: φ(w) = Σ_b s_b ℓ_b with ℓ_b = log2(n / s_b) (METHOD, section 3).

    Each weight is shared between its two neighbouring buckets; β is the slope between their code lengths, the exact
    derivative of φ wherever both hold any weight. Lowering φ lowers the bits of the file.

    Parameters
    ----------
    statistics
        Cell counts and sums.
    """
    s = statistics.linear_binning()
    code_lengths = np.log2(statistics.total / np.maximum(s, C_MIN))
    value_bits = float(s[s > 0] @ np.log2(statistics.total / s[s > 0]))
    slopes = np.diff(code_lengths) / statistics.grid.step_size
    return ObjectiveResult(value_bits=value_bits, slopes=slopes, xi=None)


def magnitude_slopes(bucket_counts: NDArray[np.float64], *, attractor: int, step_size: float) -> NDArray[np.float64]:
    """Slopes of interpolated code lengths that never trap a weight away from the attractor.

    The plain slope of :func:`code_length` is zero or points outward wherever the histogram is sparse, and weights get
    stuck in isolated buckets. Here a bucket costs the code length of its distance from the attractor plus a sign, and
    the price rises outward over every cell: by the increment of the smoothed code lengths, but at least by a fixed
    share of the mean rise so far. The constants of this module were chosen by experiment on validation data.

    Parameters
    ----------
    bucket_counts
        Weights in each bucket, float64 of shape (C,), sum above zero.
    attractor
        Index of the bucket that weights are drawn to.
    step_size
        Distance between neighbouring reference values.

    Returns
    -------
    float64 of shape (C - 1,)
        Bits per unit of weight on every cell; negative below the attractor, positive above it.
    """
    total = bucket_counts.sum()
    above, below = bucket_counts.size - 1 - attractor, attractor
    magnitudes = np.zeros(max(above, below) + 1)
    magnitudes[: above + 1] += bucket_counts[attractor:]
    magnitudes[1 : below + 1] += bucket_counts[:attractor][::-1]
    smoothed = magnitudes + PSEUDO_COUNT
    smoothed[1:-1] += SMOOTHING * magnitudes[2:]
    smoothed[2:] += SMOOTHING * magnitudes[1:-1]
    price = np.log2(total / smoothed)
    price[1:] += SIGN_BITS
    increments = np.diff(price)
    mean_rise = (price[1:] - price[0]) / np.arange(1, price.size)
    rise = np.maximum(np.maximum(increments, CHORD_SHARE * mean_rise), LEAST_STEP_BITS)
    rise[0] = max(increments[0], LEAST_FIRST_BITS)
    return np.concatenate([-rise[:below][::-1], rise[:above]]) / step_size
