"""Classes of magnitudes, two or four an octave."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import bit_lengths

LEVELS = 24
FINE_LEVELS = 48
LARGEST = 4095
"""Magnitudes are looked up up to this; larger ones are in its class."""


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
