"""Probabilities and their logits as integer tables, the same on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

LOGIT_LIMIT = 3071
"""Largest logit in 1/256: just below 12."""

# 65536 / (1 + exp(-x)) for x = 0, 0.5, …, 12, rounded; spelled out because libraries differ in the last bit of exp.
UPPER_KNOTS = (
    *(32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374),
    *(65438, 65476, 65500, 65514, 65523, 65528, 65531, 65533, 65534, 65535, 65535, 65536),
)


@cache
def logistic_table() -> NDArray[np.int64]:
    """Probability times 65536 at logits -12 to 12 in steps of 1/256, int64 of shape (6145,)."""
    upper = np.array(UPPER_KNOTS, dtype=np.int64)
    knots = np.concatenate([65536 - upper[:0:-1], upper])
    positions = np.arange(6145)
    left = np.minimum(positions >> 7, knots.size - 2)
    fraction = positions - 128 * left
    table: NDArray[np.int64] = (knots[left] * (128 - fraction) + knots[left + 1] * fraction + 64) >> 7
    return table


@cache
def logit_table() -> NDArray[np.int64]:
    """Least logit in 1/256 whose probability is not below p / 65536, int64 of shape (65536,), p = 0, 1, …"""
    found = np.searchsorted(logistic_table(), np.arange(65536)) - LOGIT_LIMIT - 1
    return np.clip(found, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.int64)
