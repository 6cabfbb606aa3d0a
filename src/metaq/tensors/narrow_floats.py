"""Floating types that numpy lacks, as bit patterns: bfloat16 and the two of eight bits; numpy only."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

FINITE_CODES: dict[str, int] = {"float8_e4m3fn": 0x7F, "float8_e5m2": 0x7C}
"""Non-negative bit patterns below this one are finite, and grow with their values."""

MANTISSA_BITS: dict[str, int] = {"float8_e4m3fn": 3, "float8_e5m2": 2}
EXPONENT_BIAS: dict[str, int] = {"float8_e4m3fn": 7, "float8_e5m2": 15}
SIGN = 0x80


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 `values` to bfloat16, ties to even, and return the bit patterns."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")


def bfloat16_values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Values of bfloat16 bit patterns."""
    return (bits.astype("<u4") << 16).view("<f4")


def float8_bits(values: NDArray[np.float64], kind: str) -> NDArray[np.uint8]:
    """Round finite `values` to a type of eight bits, ties to even; what is beyond the largest takes the largest.

    Examples
    --------
    >>> float8_bits(np.array([0.0, -1.0, 448.0, 1.0625]), "float8_e4m3fn").tolist()
    [0, 184, 126, 56]
    """
    finite = float8_values(np.arange(FINITE_CODES[kind], dtype=np.uint8), kind)
    middles = (finite[1:] + finite[:-1]) / 2
    sizes = np.abs(values)
    lower = np.searchsorted(middles, sizes, side="left")
    upper = np.searchsorted(middles, sizes, side="right")
    # They differ on a middle alone; bit patterns and mantissas are even together.
    codes = np.where(lower % 2 == 0, lower, upper).astype(np.uint8)
    return np.where(np.signbit(values), codes | SIGN, codes).astype(np.uint8)


def float8_values(bits: NDArray[np.uint8], kind: str) -> NDArray[np.float64]:
    """Values of bit patterns of eight bits, float64; NaN and infinities included."""
    return _table(kind)[bits]


@cache
def _table(kind: str) -> NDArray[np.float64]:
    codes = np.arange(SIGN)
    mantissa_bits = MANTISSA_BITS[kind]
    exponents, mantissas = codes >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    fractions = mantissas / (1 << mantissa_bits) + (exponents > 0)
    sizes = np.ldexp(fractions, np.maximum(exponents, 1) - EXPONENT_BIAS[kind])
    sizes[FINITE_CODES[kind] :] = np.nan
    if kind == "float8_e5m2":
        sizes[FINITE_CODES[kind]] = np.inf
    table = np.concatenate([sizes, -sizes])
    table.flags.writeable = False
    return table
