"""The dual problem of METHOD (3): maximise φ_w(ξ) over one multiplier a bucket.

    φ_w(ξ) = Σ_b [c*_b log2 c*_b - ξ_b c*_b] + Σ_i κ_ξ(w_i),        c*_b = clip(2^ξ_b / e, c_min, c_max)

The weights enter through their cell counts and sums only, so an evaluation costs O(C).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.config import require
from metaq.entropy.cells import CellStatistics
from metaq.entropy.hull import lower_hull

C_MIN = 0.01
"""Least count of a bucket in the thesis: keeps 2^ξ away from zero for empty buckets."""

LOG2_E = math.log2(math.e)


class Sums(NamedTuple):
    """All that compiled loops know of a problem: cell counts and sums of fractions, of shape (C - 1,), the
    linear-binning counts `s`, of shape (C,), and the bounds of a count."""

    cell_counts: NDArray[np.float64]
    fractions: NDArray[np.float64]
    s: NDArray[np.float64]
    c_min: float
    c_max: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SpreadDual:
    """The dual of ``min Σ_b c_b log2 c_b`` over all ways to share weights between buckets (METHOD, equation 2).

    Attributes
    ----------
    statistics
        Cell counts and sums of the weights.
    c_min
        Least count of a bucket, above zero; the greatest is the number of weights, as in the thesis.

    Raises
    ------
    ConfigError
        If a field is outside its range, not finite, or there is no weight.
    """

    statistics: CellStatistics
    c_min: float = C_MIN

    def __post_init__(self) -> None:
        sums = (self.statistics.counts, self.statistics.fractions)
        require(all(np.isfinite(a).all() for a in sums), "statistics: cell counts and sums must be finite.")
        require(self.statistics.total > 0, "weights: the dual of an empty set of weights is not defined.")
        require(math.isfinite(self.c_min) and self.c_min > 0, f"c_min: {self.c_min} is not a positive number.")
        require(self.c_min <= self.statistics.total, f"c_min: {self.c_min} is more than there are weights.")

    @property
    def count_bounds(self) -> tuple[float, float]:
        """Least and greatest count of a bucket."""
        return self.c_min, self.statistics.total

    @property
    def sums(self) -> Sums:
        """The problem as the solvers' loops take it."""
        statistics = self.statistics
        return Sums(statistics.counts, statistics.fractions, statistics.linear_binning(), *self.count_bounds)

    def checked_start(self, start: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """`start`, by default :func:`even_multipliers`; refused unless finite and of shape (C,)."""
        count = self.statistics.grid.count
        if start is None:
            return even_multipliers(self.statistics.total, count, self.c_min)
        require(start.shape == (count,), f"start: shape {start.shape} where {count} multipliers are needed.")
        require(bool(np.isfinite(start).all()), "start: holds NaN or infinity; multipliers must be finite.")
        return start.astype(np.float64)


def even_multipliers(total: float, count: int, c_min: float) -> NDArray[np.float64]:
    """Multipliers that belong to `count` equally full buckets: float64 of shape (C,)."""
    return np.full(count, math.log2(math.e * max(total / count, c_min)))


@compiled
def conjugate(xi: NDArray[np.float64], c_min: float, c_max: float, counts: NDArray[np.float64]) -> float:
    """Σ_b [c*_b log2 c*_b - ξ_b c*_b] at `xi`; the minimisers c* go into `counts`, all of shape (C,)."""
    value = 0.0
    for b in range(xi.size):
        free = np.exp2(min(xi[b], 1000.0)) / np.e
        c = min(max(free, c_min), c_max)
        counts[b] = c
        value += -c * LOG2_E if c == free else c * (np.log2(c) - xi[b])
    return value


@compiled
def evaluate_parts(xi: NDArray[np.float64], sums: Sums) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Value φ_w(ξ) in bits, the weights Σ_i x_ib put on every bucket, and the counts c*_b."""
    counts = np.empty(xi.size)
    value = conjugate(xi, sums.c_min, sums.c_max, counts)
    on_buckets = np.zeros(xi.size)
    vertices = lower_hull(np.arange(xi.size).astype(np.float64), xi)
    for edge in range(vertices.size - 1):
        left, right = vertices[edge], vertices[edge + 1]
        weight_count = 0.0
        distance_from_left = 0.0
        for j in range(left, right):
            weight_count += sums.cell_counts[j]
            distance_from_left += sums.fractions[j] + (j - left) * sums.cell_counts[j]
        on_right = distance_from_left / (right - left)
        on_left = weight_count - on_right
        on_buckets[left] += on_left
        on_buckets[right] += on_right
        value += on_left * xi[left] + on_right * xi[right]
    return value, on_buckets, counts
