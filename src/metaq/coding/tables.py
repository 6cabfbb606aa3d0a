"""Integer tables, the same on every machine: the logistic function and its inverse, and classes of magnitudes."""

from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import bit_lengths

LOGIT_LIMIT = 3071
"""Largest logit in 1/256: just below 12."""

CUMULATIVE_BITS = 28
DECAY = 4278222805
"""2**32 exp(-1/256), rounded."""

LEVELS = 24
FINE_LEVELS = 48
LARGEST = 4095
"""Magnitudes are looked up up to this; larger ones are in its class."""


@cache
def _exponentials() -> tuple[int, ...]:
    """2**40 exp(-k / 256) for k = 0 to 3072, by repeated multiplication with rounding down."""
    return tuple(accumulate(range(LOGIT_LIMIT + 1), lambda value, _: value * DECAY >> 32, initial=1 << 40))


@cache
def cumulative_table() -> NDArray[np.int64]:
    """``2**28 / (1 + exp(-x))`` at logits x of -12 to 12 in steps of 1/256, int64 of shape (6145,)."""
    one = 1 << 40
    upper = [(one << CUMULATIVE_BITS) // (one + exponential) for exponential in _exponentials()]
    lower = [(1 << CUMULATIVE_BITS) - value for value in upper[:0:-1]]
    return np.array(lower + upper, dtype=np.int64)


@cache
def logistic_table() -> NDArray[np.int64]:
    """Probability times 65536 at logits -12 to 12 in steps of 1/256, int64 of shape (6145,)."""
    table: NDArray[np.int64] = (cumulative_table() + (1 << 11)) >> 12
    return table


@cache
def logit_table() -> NDArray[np.int64]:
    """Least logit in 1/256 whose probability is not below p / 65536, int64 of shape (65536,), p = 0, 1, …"""
    found = np.searchsorted(logistic_table(), np.arange(65536)) - LOGIT_LIMIT - 1
    return np.clip(found, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.int64)


@cache
def level_table() -> NDArray[np.int64]:
    """Two levels an octave, int64 of shape (4096,): 0 for 0, then 1, 3, 4, 5, 5, 6, 6, …"""
    values = np.arange(LARGEST + 1)
    digits = bit_lengths(values)
    halves = (values << 1 >> np.maximum(digits - 1, 0)) & 1
    return np.clip(2 * digits - 1 + halves, 0, LEVELS - 1)


@cache
def fine_level_table() -> NDArray[np.int64]:
    """Four levels an octave, int64 of shape (4096,): 0, 1, 4, 6, 8, 9, 10, 11, 12, …"""
    values = np.arange(LARGEST + 1)
    digits = bit_lengths(values)
    quarters = (values << 2 >> np.maximum(digits - 1, 0)) & 3
    return np.clip(4 * digits - 4 + quarters, np.minimum(values, 1), FINE_LEVELS - 1)
