"""Where every byte of a ``.metaq`` file went: to its header, its checksums and each of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import ChunkCoder
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.container import Chunk, File, layout
from metaq.container.coders import CHUNK_CODERS
from metaq.errors import CodecError
from metaq.tensors.quantized import QuantizedTensor

Method = Literal["alone", "measured", "estimated"]
"""How the bytes of a chunk were shared out: there is one tensor in it; by coding it again; by entropy."""

MOST_SYMBOLS_CODED_AGAIN = 4_000_000
"""Symbols that may be coded to measure the chunks of a file; beyond that they are estimated."""

END_BYTES = 4
"""Bytes at the end of a code that depend on what follows."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The bytes of a file; those of all parts add up to its size.

    Attributes
    ----------
    magic
        Magic and version.
    header
        The coded header and its size, tensors of a few bytes that stand in it included.
    checksums
        Of the file, its header and its chunks.
    parts
        Bytes of chunks by number in :attr:`metaq.container.Contents.parts`: the bases, then the tensors.
    methods
        Every way in which chunks were shared out.
    """

    magic: int
    header: int
    checksums: int
    parts: tuple[int, ...]
    methods: frozenset[Method]

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.magic + self.header + self.checksums + sum(self.parts)


def allocate(file: File, take: Callable[[int, int], bytes]) -> Allocation:
    """Share out the bytes of a file.

    A chunk of several tensors is one code. Where it is not too long, it is coded again, each time with one tensor more:
    a tensor takes the bytes by which the code grows. Where that is too long or gives another code, the tensors take
    bytes in proportion to the zero-order entropy of their bucket indices.

    Parameters
    ----------
    file
        The file as read.
    take
        Gives so many bytes, the second argument, of the file from the first argument on.
    """
    chunks, several = len(file.chunks), len(file.chunks) > 1
    checksums = layout.CHECKSUM_BYTES * (1 + (chunks + 1 if several else 0))
    parts = [0] * len(file.parts)
    methods: set[Method] = set()
    left = MOST_SYMBOLS_CODED_AGAIN
    for chunk in file.chunks:
        needed = sum(piece.shape.count * (len(chunk.pieces) - at) for at, piece in enumerate(chunk.pieces))
        method, shares = _shares(file, chunk, take, is_affordable=needed <= left)
        left -= needed if method == "measured" else 0
        methods.add(method)
        for piece, share in zip(chunk.pieces, shares, strict=True):
            parts[piece.tensor] += share
    return Allocation(
        magic=layout.PREAMBLE_BYTES,
        header=file.header_bytes - layout.PREAMBLE_BYTES - checksums,
        checksums=checksums,
        parts=tuple(parts),
        methods=frozenset(methods),
    )


def whole_shares(total: int, weights: Sequence[float]) -> list[int]:
    """Integers that add up to `total`, in proportion to `weights` of which one at least is positive.

    Examples
    --------
    >>> whole_shares(10, [1.0, 1.0, 1.0])
    [4, 3, 3]
    """
    ends = np.cumsum(weights) * (total / sum(weights))
    # Rounding must not lift an end that is a whole number.
    whole = np.minimum(np.ceil(np.round(ends, 9)), total).astype(np.int64)
    return [int(share) for share in np.diff(whole, prepend=0)]


def _shares(
    file: File, chunk: Chunk, take: Callable[[int, int], bytes], *, is_affordable: bool
) -> tuple[Method, list[int]]:
    if len(chunk.pieces) == 1:
        return "alone", [chunk.size_bytes]
    streams = _streams(file, chunk)
    if is_affordable and chunk.coder in CHUNK_CODERS:
        payload = take(chunk.offset_bytes, chunk.size_bytes)
        ends = _ends(CHUNK_CODERS[chunk.coder], chunk, streams, payload)
        if ends is not None:
            return "measured", np.diff(ends, prepend=0).tolist()
    # A tensor of one value alone has no entropy, but is coded all the same.
    return "estimated", whole_shares(chunk.size_bytes, [1 + zero_order_entropy_bits(stream) for stream in streams])


def _streams(file: File, chunk: Chunk) -> list[NDArray[np.int32]]:
    streams = []
    for piece in chunk.pieces:
        number = piece.tensor - len(file.bases)
        if number < 0:
            indices = _basis_indices(file, piece.tensor)
        else:
            tensor = file.tensors[number]
            assert isinstance(tensor, QuantizedTensor)
            indices = tensor.scanned()
        streams.append(indices[piece.start : piece.start + piece.shape.count].astype(np.int32))
    return streams


def _basis_indices(file: File, basis: int) -> NDArray[np.int64]:
    users = (tensor for entry, tensor in zip(file.entries, file.tensors, strict=True) if entry.basis == basis)
    user = next(users)
    assert isinstance(user, QuantizedTensor)
    assert user.basis is not None
    return user.basis.indices.reshape(-1)


def _ends(coder: ChunkCoder, chunk: Chunk, streams: list[NDArray[np.int32]], payload: bytes) -> list[int] | None:
    """Where the code of each stream ends in the payload; None if the coder does not give the payload's bytes."""
    shapes = [piece.shape for piece in chunk.pieces]
    ends: list[int] = []
    for number in range(1, len(streams)):
        try:
            code = coder.encode_chunk(streams[:number], shapes[:number])
        except CodecError:
            return None
        settled = max(len(code) - END_BYTES, 0)
        if code[:settled] != payload[:settled]:
            return None
        # The end of a code may be longer than where the next stream begins.
        ends.append(min(max(len(code), ends[-1] if ends else 0), len(payload)))
    return [*ends, len(payload)]
