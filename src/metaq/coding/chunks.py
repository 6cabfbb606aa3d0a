"""The interface of all coders: several small tensors, or a piece of a large one, in one payload."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metaq.errors import CodecError
from metaq.tensors.trellis import PARITY_CHECKS

MAX_ALPHABET = 1 << 31


@dataclass(frozen=True, kw_only=True)
class StreamShape:
    """What a decoder knows of a stream of `count` symbols in ``[0, alphabet_size)`` before it reads the payload.

    `row_length` are the symbols of a row if the stream is a matrix in C order, or 0; `trellis_bits` is the binary
    logarithm of the number of trellis states if the symbols were chosen by dependent quantisation, or 0. `hints` are
    what an update's base tells about every symbol, int32 of shape (count,), 0 where nothing is to be expected; None
    without a base.
    """

    count: int
    alphabet_size: int
    row_length: int = 0
    trellis_bits: int = 0
    hints: NDArray[np.int32] | None = field(default=None, compare=False, repr=False)

    def first(self, count: int) -> "StreamShape":
        """The same of the first `count` symbols."""
        return replace(self, count=count, hints=None if self.hints is None else self.hints[:count])

    @property
    def central(self) -> int:
        """The central symbol of the alphabet."""
        return (self.alphabet_size - 1) // 2

    @property
    def usable_row(self) -> int:
        """The row length, or 0 if the stream is no matrix of several rows."""
        length = self.row_length
        return length if 0 < length < self.count and self.count % length == 0 else 0


class ChunkCoder(Protocol):
    """Streams in, one payload out, and back. Payloads are independent of each other; all calls release the GIL."""

    @property
    def name(self) -> str:
        """Name used in options and reports."""

    @property
    def identifier(self) -> int:
        """Number written into files; never reused and never changed."""

    def encode_chunk(self, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape]) -> bytes:
        """Code `streams`, integers of shape (count,) each, one after the other; none may be empty.

        Raises
        ------
        CodecError
            If a symbol is outside its alphabet, or the coder cannot hold a stream.
        """

    def decode_chunk(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[NDArray[np.int32]]:
        """Invert :meth:`encode_chunk`; every symbol is within its alphabet. The payload may come from a stranger.

        Raises
        ------
        CodecError
            If the payload is not what :meth:`encode_chunk` would have written for the symbols it decodes to.
        """

    def code_lengths(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[float]:
        """Bits that each stream takes in a payload: ``-log2 p`` of every decision or symbol as it is coded, and what is
        told of that stream alone.

        Their sum is the size of the payload but for what belongs to no stream, and the rounding to whole bytes.
        Errors as for :meth:`decode_chunk`.
        """


def check_shapes(name: str, shapes: Sequence[StreamShape]) -> None:
    """Refuse what no stream can be with a :class:`CodecError` that starts with the `name` of the coder."""
    for shape in shapes:
        is_known = not shape.trellis_bits or shape.trellis_bits in PARITY_CHECKS
        if shape.count < 1 or not 0 < shape.alphabet_size <= MAX_ALPHABET or shape.row_length < 0 or not is_known:
            raise CodecError(f"{name}: {shape} is no stream of symbols.")


def check_range(name: str, lowest: int, highest: int, shape: StreamShape) -> None:
    """Refuse symbols from `lowest` to `highest` that leave the alphabet with a :class:`CodecError`."""
    if lowest < 0 or highest >= shape.alphabet_size:
        raise CodecError(f"{name}: symbols {lowest} to {highest} do not fit an alphabet of {shape.alphabet_size}.")


def checked_streams(
    name: str, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape]
) -> list[NDArray[np.int32]]:
    """`streams` as contiguous int32; raises :class:`CodecError` if they are not what `shapes` say."""
    if len(streams) != len(shapes):
        raise CodecError(f"{name}: {len(streams)} streams are given with {len(shapes)} shapes.")
    check_shapes(name, shapes)
    for stream, shape in zip(streams, shapes, strict=True):
        if not np.issubdtype(stream.dtype, np.integer) or stream.shape != (shape.count,):
            raise CodecError(
                f"{name}: a stream is {stream.dtype} of shape {stream.shape}, not ({shape.count},) integers."
            )
        check_range(name, int(stream.min()), int(stream.max()), shape)
    return [np.ascontiguousarray(stream, dtype=np.int32) for stream in streams]
