"""What every coder offers, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metaq.errors import CodecError

MAX_ALPHABET = 1 << 31
"""Largest alphabet a coder takes: symbols fit into 31 bits."""


@dataclass(frozen=True, kw_only=True)
class CodedSymbols:
    """A coded stream.

    Attributes
    ----------
    payload
        Everything a decoder needs except the number of symbols, the alphabet size and the row length.
    table_bytes
        How many bytes of `payload` describe the model (ranges, frequency or length tables) rather than symbols.
    """

    payload: bytes
    table_bytes: int


class Coder(Protocol):
    """Symbols in, bytes out, and back."""

    @property
    def name(self) -> str:
        """Name used in options and reports."""

    @property
    def identifier(self) -> int:
        """Number written into files; never reused and never changed."""

    def encode(self, symbols: NDArray[np.int64], alphabet_size: int, *, row_length: int = 0) -> CodedSymbols:
        """Code `symbols`, int64 of shape (n,) in ``[0, alphabet_size)``.

        Parameters
        ----------
        symbols
            The stream.
        alphabet_size
            Number of permitted symbols.
        row_length
            Length of a row if the stream is a matrix in C order, 0 if that is unknown. Coders that do not look at
            the symbol above ignore it.

        Raises
        ------
        CodecError
            If the coder cannot hold these symbols.
        """

    def decode(self, payload: bytes, *, count: int, alphabet_size: int, row_length: int = 0) -> NDArray[np.int64]:
        """Invert :meth:`encode`: int64 of shape (count,). The payload may come from a stranger.

        Raises
        ------
        CodecError
            If the payload does not decode to `count` symbols of the alphabet, or holds bytes that are not needed for
            them. Arithmetic codes have no holes: a damaged one may be the code of other symbols, so that whoever stores
            payloads adds a checksum.
        """


class CheckedCoder(ABC):
    """Base of the coders: checks arguments and results, so that subclasses only code."""

    name: str
    identifier: int

    def encode(self, symbols: NDArray[np.int64], alphabet_size: int, *, row_length: int = 0) -> CodedSymbols:
        """See :meth:`Coder.encode`."""
        self._check_arguments(alphabet_size, row_length)
        if symbols.ndim != 1 or not np.issubdtype(symbols.dtype, np.integer):
            raise CodecError(
                f"{self.name}: symbols must be integers of shape (n,), not {symbols.dtype} {symbols.shape}."
            )
        if symbols.size == 0:
            return CodedSymbols(payload=b"", table_bytes=0)
        lowest, highest = int(symbols.min()), int(symbols.max())
        if lowest < 0 or highest >= alphabet_size:
            raise CodecError(f"{self.name}: symbols {lowest} to {highest} do not fit an alphabet of {alphabet_size}.")
        return self._encode(symbols.astype(np.int64, copy=False), alphabet_size, row_length)

    def decode(self, payload: bytes, *, count: int, alphabet_size: int, row_length: int = 0) -> NDArray[np.int64]:
        """See :meth:`Coder.decode`."""
        self._check_arguments(alphabet_size, row_length)
        if count < 0:
            raise CodecError(f"{self.name}: {count} is not a number of symbols.")
        if count == 0:
            if payload:
                raise CodecError(f"{self.name}: {len(payload)} bytes are left where no symbol is coded.")
            return np.zeros(0, dtype=np.int64)
        symbols = self._decode(payload, count, alphabet_size, row_length)
        if int(symbols.min()) < 0 or int(symbols.max()) >= alphabet_size:
            raise CodecError(f"{self.name}: a symbol is outside the alphabet of {alphabet_size}.")
        return symbols

    def _check_arguments(self, alphabet_size: int, row_length: int, /) -> None:
        if not 1 <= alphabet_size <= MAX_ALPHABET:
            raise CodecError(f"{self.name}: an alphabet of {alphabet_size} is not between 1 and {MAX_ALPHABET}.")
        if row_length < 0:
            raise CodecError(f"{self.name}: a row length of {row_length} is negative; give 0 if it is unknown.")

    @abstractmethod
    def _encode(self, symbols: NDArray[np.int64], alphabet_size: int, row_length: int, /) -> CodedSymbols:
        """Code at least one symbol, all within the alphabet."""

    @abstractmethod
    def _decode(self, payload: bytes, count: int, alphabet_size: int, row_length: int, /) -> NDArray[np.int64]:
        """Decode `count` >= 1 symbols; symbols outside the alphabet may be returned, they are refused later."""
