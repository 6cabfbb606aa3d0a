"""The dual problem of METHOD (3): maximise φ_w(ξ) over one multiplier a bucket.

    φ_w(ξ) = Σ_b [c*_b log2 c*_b - ξ_b c*_b] + Σ_i κ_ξ(w_i),        c*_b = clip(2^ξ_b / e, c_min, c_max)

The weights enter through their cell counts and sums only, so an evaluation costs O(C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.cells import CellStatistics
from metaq.compiled import compiled
from metaq.config import require
from metaq.hull import cell_slopes, lower_hull

C_MIN = 0.01
"""Least count of a bucket in the thesis: keeps 2^ξ away from zero for empty buckets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DualResult:
    """What a dual solver hands back.

    Attributes
    ----------
    xi
        Best multipliers found, one a bucket, float64 of shape (C,). φ grows by ξ_b per weight added to bucket b.
    value
        Dual value φ_w(ξ) in bits, a lower bound of the primal optimum Σ_b c_b log2 c_b.
    residual
        Euclidean norm of the supergradient Σ_i x_ib - c*_b at `xi`.
    iterations
        Evaluations of the dual function.
    values
        Dual value at every evaluation, in order.
    slopes
        β on every cell, in bits per unit of weight, float64 of shape (C - 1,).
    """

    xi: NDArray[np.float64]
    value: float
    residual: float
    iterations: int
    values: tuple[float, ...]
    slopes: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SpreadDual:
    """The dual of the thesis's problem for given weights.

    Attributes
    ----------
    statistics
        Cell counts and sums of the weights.
    c_min, c_max
        Bounds of a bucket's count, ``0 < c_min < c_max``.
    """

    statistics: CellStatistics
    c_min: float
    c_max: float

    def __post_init__(self) -> None:
        require(
            0 < self.c_min < self.c_max,
            f"c_min: {self.c_min} must be positive and below c_max = {self.c_max}.",
        )
        require(self.statistics.total > 0, "weights: the dual of an empty set of weights is not defined.")

    def uniform_start(self) -> NDArray[np.float64]:
        """Multipliers that belong to equally full buckets."""
        count = self.statistics.grid.count
        return np.full(count, math.log2(math.e * max(self.statistics.total / count, self.c_min)))

    def evaluate(self, xi: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Value φ_w(ξ) and a supergradient Σ_i x_ib - c*_b (shape (C,)) at `xi`; O(C)."""
        statistics = self.statistics
        value, supergradient = _evaluate(xi, statistics.counts, statistics.fractions, self.c_min, self.c_max)
        return float(value), supergradient

    def slopes(self, xi: NDArray[np.float64]) -> NDArray[np.float64]:
        """β on every cell in bits per unit of weight: float64 of shape (C - 1,)."""
        return cell_slopes(self.statistics.grid.reference_values(), xi)


@compiled
def _evaluate(
    xi: NDArray[np.float64],
    counts: NDArray[np.float64],
    fractions: NDArray[np.float64],
    c_min: float,
    c_max: float,
) -> tuple[float, NDArray[np.float64]]:
    value = 0.0
    supergradient = np.empty(xi.size)
    for b in range(xi.size):
        c = min(max(2.0 ** min(xi[b], 1000.0) / np.e, c_min), c_max)
        value += c * (np.log2(c) - xi[b])
        supergradient[b] = -c
    vertices = lower_hull(np.arange(xi.size).astype(np.float64), xi)
    for edge in range(vertices.size - 1):
        left, right = vertices[edge], vertices[edge + 1]
        weight_count = 0.0
        distance_from_left = 0.0
        for j in range(left, right):
            weight_count += counts[j]
            distance_from_left += fractions[j] + (j - left) * counts[j]
        on_right = distance_from_left / (right - left)
        on_left = weight_count - on_right
        supergradient[left] += on_left
        supergradient[right] += on_right
        value += on_left * xi[left] + on_right * xi[right]
    return value, supergradient
