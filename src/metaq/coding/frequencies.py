"""Frequency tables: integer masses of the symbols that occur, in as few bits as the stream is worth.

A table is coded as

* the lowest symbol (varint) and the number of symbols that occur less one (varint); one symbol needs no more;
* then fields of bits, filled up to a byte: precision ``k`` (5 bits), Golomb order of the gaps and of the masses
  (4 bits each), position of the implied symbol among those that occur (as many bits as the largest position has);
* for every symbol but the lowest the gap to its predecessor less one, and for every symbol but the implied one its mass
  less one, in exponential Golomb codes, the two in turn.

Masses sum to ``2**k``; the implied symbol has what the others leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import BitReader, best_order, exp_golomb, pack
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

MAX_PRECISION = 24
MAX_SYMBOLS = 1 << 22


@dataclass(frozen=True, kw_only=True, eq=False)
class FrequencyTable:
    """Symbols that occur and what share each is given.

    Attributes
    ----------
    symbols
        Increasing int64 of shape (n,), n >= 1.
    masses
        Positive int64 of shape (n,) that sum to ``2**precision``.
    precision
        Binary logarithm of the sum of the masses; 0 for a single symbol.
    """

    symbols: NDArray[np.int64]
    masses: NDArray[np.int64]
    precision: int


def fit(symbols: NDArray[np.int64], counts: NDArray[np.int64]) -> FrequencyTable:
    """Table with the precision that makes table and coded symbols smallest together.

    Parameters
    ----------
    symbols
        The symbols that occur, increasing, int64 of shape (n,).
    counts
        How often, positive int64 of shape (n,).

    Raises
    ------
    CodecError
        If there are more than ``MAX_SYMBOLS`` different symbols.
    """
    if symbols.size > MAX_SYMBOLS:
        raise CodecError(f"{symbols.size} different symbols are too many for a table; choose another coder, or auto.")
    if symbols.size == 1:
        return FrequencyTable(symbols=symbols, masses=np.ones(1, dtype=np.int64), precision=0)
    shortest = (symbols.size - 1).bit_length()
    candidates = [_quantize(symbols, counts, precision) for precision in range(shortest, MAX_PRECISION + 1)]
    tables = [table for table in candidates if table is not None]
    return min(tables, key=lambda table: _size_bits(table, counts))


def to_bytes(table: FrequencyTable) -> bytes:
    """Coded form of the table."""
    head = encode_varint(int(table.symbols[0])) + encode_varint(table.symbols.size - 1)
    if table.symbols.size == 1:
        return head
    return head + pack(*_fields(table))


def from_bytes(data: bytes, *, alphabet_size: int) -> tuple[FrequencyTable, int]:
    """Table at the start of `data`, and the position after it.

    Raises
    ------
    CodecError
        If it is damaged, or names symbols outside the alphabet.
    """
    lowest, position = decode_varint(data, 0)
    others, position = decode_varint(data, position)
    if lowest + others >= alphabet_size or others >= MAX_SYMBOLS:
        raise CodecError(f"a table of {others + 1} symbols from {lowest} on leaves the alphabet of {alphabet_size}.")
    if others == 0:
        single = np.array([lowest], dtype=np.int64)
        return FrequencyTable(symbols=single, masses=np.ones(1, dtype=np.int64), precision=0), position
    reader = BitReader(data, position)
    precision, gap_order, mass_order = reader.unsigned(5), reader.unsigned(4), reader.unsigned(4)
    implied = reader.unsigned(others.bit_length())
    pairs = reader.exp_golomb(others, (gap_order, mass_order))
    symbols = np.concatenate([[lowest], lowest + np.cumsum(pairs[:, 0] + 1)])
    stated = pairs[:, 1] + 1
    left = (1 << precision) - int(stated.sum())
    if precision > MAX_PRECISION or implied > others or left < 1 or int(symbols[-1]) >= alphabet_size:
        raise CodecError("a table's masses do not sum to a power of two, or its symbols leave the alphabet.")
    masses = np.insert(stated, implied, left)
    return FrequencyTable(symbols=symbols, masses=masses, precision=precision), reader.finish_byte()


def _quantize(symbols: NDArray[np.int64], counts: NDArray[np.int64], precision: int) -> FrequencyTable | None:
    total = int(counts.sum())
    masses = np.maximum(((counts << (precision + 1)) + total) // (2 * total), 1)
    implied = int(counts.argmax())
    masses[implied] = 0
    masses[implied] = (1 << precision) - int(masses.sum())
    if masses[implied] < 1:
        return None
    return FrequencyTable(symbols=symbols, masses=masses, precision=precision)


def _size_bits(table: FrequencyTable, counts: NDArray[np.int64]) -> float:
    return float(_fields(table)[1].sum() + counts @ (table.precision - np.log2(table.masses)))


def _fields(table: FrequencyTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    implied = int(table.masses.argmax())
    gaps, stated = np.diff(table.symbols) - 1, np.delete(table.masses, implied) - 1
    gap_order, mass_order = best_order(gaps), best_order(stated)
    head = np.array([table.precision, gap_order, mass_order, implied])
    head_widths = np.array([5, 4, 4, (table.symbols.size - 1).bit_length()])
    gap_codes, mass_codes = exp_golomb(gaps, gap_order), exp_golomb(stated, mass_order)
    values = np.stack([gap_codes[0], mass_codes[0]], axis=1).reshape(-1)
    widths = np.stack([gap_codes[1], mass_codes[1]], axis=1).reshape(-1)
    return np.concatenate([head, values]), np.concatenate([head_widths, widths])
