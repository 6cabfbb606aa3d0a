"""The end of a training to a goal: bucket indices chosen once more, so that the file keeps to it and wastes nothing.

Training to a size leaves a file that is a little too large. Weights near the edge of their bucket may as well be in the
cheaper one: how dear a bit may be is found by search, as in post-training quantisation (:mod:`metaq.quantize.rdo`).
Training to a figure of merit leaves some room, which is used up in the same way, or by coarser steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.quantize.rates import scale_classes
from metaq.quantize.rdo import learned_levels, predecessors, search_all
from metaq.tensors.quantized import matrix_shape

Levels = NDArray[np.int32]

LEAST_SHARE = 0.985
"""Of what a goal leaves to the weights that they should take."""

AIM = 0.996
"""Share of it that is aimed at."""

TRIALS, CORRECTIONS, STEPS = 4, 2, 12
"""Files that are written, corrections of the estimate for each, and steps of the search for the price of a bit."""

JUMP, MIXED_WEIGHTS = 0.9, 1 << 16
"""Where the price of a bit that fits leaves less than this share used, as many weights alike fall at once, those of up
to so many that lose most are left at their nearest levels."""

LEAST_PRICE, MOST_PRICE = 1e-4, 1e2
"""Of a bit, in mean curvatures times squared steps."""


LOOKS = 8
"""Evaluations of a figure of merit to find by how much steps or the price of a bit may grow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """One tensor before the last choice.

    Attributes
    ----------
    places
        Latent weights in steps from the centre, float64 of the tensor's shape.
    importance
        Curvature times the squared step of every weight, float64 of that shape, or one number for all.
    limit
        Largest level on either side.
    """

    places: NDArray[np.float64]
    importance: NDArray[np.float64] | float
    limit: int

    def nearest(self) -> Levels:
        """The levels that training has left."""
        return np.clip(np.floor(self.places + 0.5), -self.limit, self.limit).astype(np.int32)

    def gain(self, near: Levels, far: Levels) -> NDArray[np.float64]:
        """What errors count more at the levels `far` than at `near`, float64 of the tensor's shape."""
        return self.importance * ((far - self.places) ** 2 - (near - self.places) ** 2)

    def cheaper(self, price: float) -> tuple[Levels, float]:
        """Levels where a bit is worth so much, and the bits that they take by the code lengths learned."""
        matrix = self.places.reshape(matrix_shape(self.places.shape))
        weight = np.broadcast_to(np.asarray(self.importance, dtype=np.float64), self.places.shape)
        weights = np.ascontiguousarray(weight.reshape(matrix.shape)) / (2 * price)
        classes = scale_classes(matrix, 1.0)

        def search(costs: NDArray[np.float64]) -> list[Levels]:
            return [search_all(matrix, weights, classes, costs, self.limit, predecessors(0))]

        (levels,), _, bits = learned_levels([classes], search, 0)
        return levels.reshape(self.places.shape), bits


def last_choice(
    tensors: Sequence[Placed],
    limit_bytes: int,
    size_of: Callable[[Sequence[Levels]], int],
    estimate_of: Callable[[Sequence[Levels]], int],
    *,
    nearest_bytes: int,
    fixed_bytes: int,
) -> tuple[list[Levels], int]:
    """Levels of all tensors whose file takes at most `limit_bytes`, and close to it if it can be, and its size.

    `size_of` gives the bytes of a file, `estimate_of` what is in proportion to them and is found sooner;
    `nearest_bytes` is the size with the levels that training has left, `fixed_bytes` that with zeros alone. If the
    former is no more than the limit, those levels. The fewest bytes found if even they are too many.
    """
    best, best_size = [tensor.nearest() for tensor in tensors], nearest_bytes
    if best_size <= limit_bytes:
        return best, best_size
    fixed = estimate_of([np.zeros_like(levels) for levels in best])

    def estimated(levels: Sequence[Levels]) -> int:
        return max(estimate_of(levels) - fixed, 1)

    allowed = max(limit_bytes - fixed_bytes, 0)
    wanted, size, is_met = float(estimated(best)), best_size, False
    for _ in range(TRIALS):
        wanted *= AIM * allowed / max(size - fixed_bytes, 1)
        levels = _of_estimate(tensors, wanted, estimated)
        size = size_of(levels)
        fits = size <= limit_bytes
        if (fits and (not is_met or size > best_size)) or (not is_met and size < best_size):
            best, best_size, is_met = levels, size, fits
        if is_met and best_size - fixed_bytes >= LEAST_SHARE * allowed:
            break
    if is_met and best_size - fixed_bytes < JUMP * allowed and sum(level.size for level in best) <= MIXED_WEIGHTS:
        return _mixed(tensors, best, best_size, limit_bytes, size_of)
    return best, best_size


def _mixed(
    tensors: Sequence[Placed],
    small: list[Levels],
    small_bytes: int,
    limit_bytes: int,
    size_of: Callable[[Sequence[Levels]], int],
) -> tuple[list[Levels], int]:
    """Levels between those of a file that is too `small` and the nearest ones, whose file is too large, and its size.

    The weights that lose most by the former are at the latter.
    """
    large = [tensor.nearest() for tensor in tensors]
    gains = [tensor.gain(near, far) for tensor, near, far in zip(tensors, large, small, strict=True)]
    found = np.sort(np.concatenate([gain[gain > 0] for gain in gains]))[::-1]
    best, best_size, low, high = small, small_bytes, 0, len(found)
    while high - low > 1:
        middle = (low + high) // 2
        mixed = [
            np.where(gain >= found[middle], near, far) for gain, near, far in zip(gains, large, small, strict=True)
        ]
        size = size_of(mixed)
        if size > limit_bytes:
            high = middle
            continue
        low = middle
        if size >= best_size:
            best, best_size = mixed, size
    return best, best_size


def _of_estimate(
    tensors: Sequence[Placed], wanted: float, estimate_of: Callable[[Sequence[Levels]], int]
) -> list[Levels]:
    """Levels whose estimated size is about `wanted`."""
    unit = float(np.mean([np.mean(tensor.importance) for tensor in tensors]))
    lowest, highest = math.log(LEAST_PRICE * unit), math.log(MOST_PRICE * unit)
    found = [tensor.cheaper(math.exp(lowest)) for tensor in tensors]
    for _ in range(CORRECTIONS):
        bytes_per_bit = estimate_of([levels for levels, _ in found]) / max(sum(bits for _, bits in found), 1.0)
        low, high = lowest, highest
        for _ in range(STEPS):
            middle = (low + high) / 2
            found = [tensor.cheaper(math.exp(middle)) for tensor in tensors]
            is_large = bytes_per_bit * sum(bits for _, bits in found) > wanted
            low, high = (middle, high) if is_large else (low, middle)
        found = [tensor.cheaper(math.exp(high)) for tensor in tensors]
    return [levels for levels, _ in found]


def coarsest(is_good: Callable[[float], bool], *, low: float, high: float) -> float | None:
    """The largest number between `low` and `high` at which all is good, about; None if it is not even at `low`.

    Found by bisection of the logarithm, with :data:`LOOKS` calls at most.
    """
    if not is_good(low):
        return None
    if is_good(high):
        return high
    for _ in range(LOOKS - 2):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_good(middle) else (low, middle)
    return low
