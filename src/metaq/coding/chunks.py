"""The interface of all coders: several small tensors, or a piece of a large one, in one payload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class StreamShape:
    """What a decoder knows of a stream of symbols before it reads the payload.

    Attributes
    ----------
    count
        Number of symbols.
    alphabet_size
        Symbols are in ``[0, alphabet_size)``.
    row_length
        Symbols of a row if the stream is a matrix in C order, 0 if it is not.
    trellis_bits
        Binary logarithm of the number of trellis states if the symbols were chosen by dependent quantisation, else 0.
    """

    count: int
    alphabet_size: int
    row_length: int = 0
    trellis_bits: int = 0


class ChunkCoder(Protocol):
    """Streams in, one payload out, and back. Payloads are independent of each other; all calls release the GIL."""

    @property
    def name(self) -> str:
        """Name used in options and reports."""

    @property
    def identifier(self) -> int:
        """Number written into files; never reused and never changed."""

    def encode_chunk(self, streams: Sequence[NDArray[np.int32]], shapes: Sequence[StreamShape]) -> bytes:
        """Code `streams`, int32 of shape (count,) each, one after the other; none may be empty.

        Raises
        ------
        CodecError
            If a symbol is outside its alphabet, or the coder cannot hold a stream.
        """

    def decode_chunk(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[NDArray[np.int32]]:
        """Invert :meth:`encode_chunk`. The payload may come from a stranger.

        Raises
        ------
        CodecError
            If the payload is not what :meth:`encode_chunk` would have written for the symbols it decodes to.
        """

    def code_lengths(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[float]:
        """Bits that each stream takes in a payload: ``-log2 p`` of every decision or symbol as it is coded, and what is
        told of that stream alone.

        Their sum is the size of the payload but for what belongs to no stream, and the rounding to whole bytes.

        Raises
        ------
        CodecError
            As for :meth:`decode_chunk`.
        """
