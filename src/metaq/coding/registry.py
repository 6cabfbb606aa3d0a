"""All coders, and the choice of the smallest."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from metaq.coding.constant import ConstantCoder
from metaq.coding.generic import GzipCoder, LzmaCoder, ZstdCoder
from metaq.coding.huffman import HuffmanCoder
from metaq.coding.interface import CodedSymbols, Coder
from metaq.coding.packed import PackedCoder
from metaq.coding.static import RangeCoder, RansCoder
from metaq.errors import CodecError, ConfigError

_ALL: tuple[Coder, ...] = (
    ConstantCoder(),
    PackedCoder(),
    HuffmanCoder(),
    RangeCoder(),
    RansCoder(),
    GzipCoder(),
    ZstdCoder(),
    LzmaCoder(),
)

CODERS = MappingProxyType({coder.name: coder for coder in _ALL})
"""Coders by name."""

CODERS_BY_IDENTIFIER = MappingProxyType({coder.identifier: coder for coder in _ALL})
"""Coders by the number written into files."""


def coder_named(name: str) -> Coder:
    """The coder called `name`; raises :class:`ConfigError` with the nearest name if there is none."""
    if name not in CODERS:
        near = difflib.get_close_matches(name, CODERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose auto or one of {', '.join(CODERS)}."
        raise ConfigError(f"coder: there is no {name!r}; {hint}")
    return CODERS[name]


def encode_smallest(
    symbols: NDArray[np.int64], alphabet_size: int, *, row_length: int = 0, names: Sequence[str] | None = None
) -> tuple[Coder, CodedSymbols]:
    """Code `symbols` with every candidate and keep the smallest payload; of equals the lowest identifier.

    What is kept has been decoded and compared. Candidates that cannot hold the symbols are passed over.

    Parameters
    ----------
    symbols
        int64 of shape (n,) in ``[0, alphabet_size)``.
    alphabet_size
        Number of permitted symbols.
    row_length
        Length of a row if the stream is a matrix in C order, 0 if unknown.
    names
        Candidates; all coders by default.

    Raises
    ------
    ConfigError
        If a candidate does not exist.
    CodecError
        If no candidate can hold the symbols, or a coder does not restore them.

    Examples
    --------
    >>> coder, coded = encode_smallest(np.zeros(1000, dtype=np.int64), 255)
    >>> coder.name, len(coded.payload)
    ('constant', 1)
    """
    results: list[tuple[int, int, Coder, CodedSymbols]] = []
    refusals: list[str] = []
    for coder in [coder_named(name) for name in (CODERS if names is None else names)]:
        try:
            coded = coder.encode(symbols, alphabet_size, row_length=row_length)
        except CodecError as error:
            refusals.append(str(error))
            continue
        results.append((len(coded.payload), coder.identifier, coder, coded))
    if not results:
        raise CodecError(f"no coder can hold the symbols: {' '.join(refusals)}")
    _, _, coder, coded = min(results, key=lambda result: result[:2])
    decoded = coder.decode(coded.payload, count=symbols.size, alphabet_size=alphabet_size, row_length=row_length)
    if not np.array_equal(decoded, symbols):
        raise CodecError(f"{coder.name}: decoding does not give the symbols back; please report this.")
    return coder, coded
