"""Classes of magnitudes, two or four an octave."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVELS = 24
FINE_LEVELS = 48
LARGEST = 4095
"""Magnitudes are looked up up to this; larger ones are in its class."""


@cache
def level_table() -> NDArray[np.int64]:
    """Two levels an octave, int64 of shape (4096,): 0 for 0, then 1, 3, 4, 5, 5, 6, 6, …"""
    table = np.zeros(LARGEST + 1, dtype=np.int64)
    for value in range(1, LARGEST + 1):
        digits = value.bit_length()
        half = (value >> (digits - 2)) & 1 if digits > 1 else 0
        table[value] = min(2 * digits - 1 + half, LEVELS - 1)
    return table


@cache
def fine_level_table() -> NDArray[np.int64]:
    """Four levels an octave, int64 of shape (4096,): 0, 1, 4, 6, 8, 9, 10, 11, 12, …"""
    table = np.zeros(LARGEST + 1, dtype=np.int64)
    for value in range(1, LARGEST + 1):
        digits = value.bit_length()
        quarters = (value << 2 >> (digits - 1)) & 3
        table[value] = min(max(4 * digits - 4 + quarters, 1), FINE_LEVELS - 1)
    return table
