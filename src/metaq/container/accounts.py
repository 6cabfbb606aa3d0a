"""Where every byte of a file went: to its frame, its header and each of its tensors, as the coders count."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from metaq.container import layout
from metaq.container.coders import CODERS
from metaq.container.contents import Chunk, Entry
from metaq.container.exact import planes_bits
from metaq.container.frame import open_frame
from metaq.container.source import Source, open_source
from metaq.errors import CodecError, FormatError


@dataclass(frozen=True, kw_only=True)
class Account:
    """The bytes of a file.

    Attributes
    ----------
    file_bytes
        Size of the file: ``magic_bytes + header_bytes + checksum_bytes + sum(parts_bytes) + rounding_bytes``.
    magic_bytes
        Magic and version; of an update the identities of models, too.
    header_bytes
        The coded header with its size; tensors of a few bytes that stand in it are counted here.
    checksum_bytes
        Of the file, its header and its chunks.
    parts_bits
        Bits of the bases and then the tensors, by number in :attr:`metaq.container.Contents.parts`: what their codes
        take in the chunks that they share, and the whole of the chunks that they have to themselves.
    """

    file_bytes: int
    magic_bytes: int
    header_bytes: int
    checksum_bytes: int
    parts_bits: tuple[float, ...]

    @property
    def parts_bytes(self) -> tuple[int, ...]:
        """`parts_bits` in whole bytes."""
        return tuple(round(bits / 8) for bits in self.parts_bits)

    @property
    def rounding_bytes(self) -> int:
        """What whole bytes add to what the parts take, or leave out of it: at most about half a byte a part."""
        return self.file_bytes - self.magic_bytes - self.header_bytes - self.checksum_bytes - sum(self.parts_bytes)


def account(path: str | os.PathLike[str]) -> Account:
    """Account of a ``.metaq`` file. Chunks of several tensors are decoded, others are not looked at.

    Raises
    ------
    FormatError
        If the file is missing, foreign, damaged or of a newer version.
    """
    with open_source(path) as source:
        contents = open_frame(source)[0]
        parts_bits = [0.0] * len(contents.parts)
        for chunk in contents.chunks:
            for piece, bits in zip(chunk.pieces, _piece_bits(source, contents.parts, chunk), strict=True):
                parts_bits[piece.tensor] += bits
    magic_bytes = layout.preamble_bytes(is_update=contents.update is not None)
    checksum_bytes = layout.CHECKSUM_BYTES * (1 if len(contents.chunks) <= 1 else len(contents.chunks) + 2)
    return Account(
        file_bytes=contents.file_bytes,
        magic_bytes=magic_bytes,
        header_bytes=contents.header_bytes - magic_bytes - checksum_bytes,
        checksum_bytes=checksum_bytes,
        parts_bits=tuple(parts_bits),
    )


def _piece_bits(source: Source, parts: Sequence[Entry], chunk: Chunk) -> list[float]:
    if len(chunk.pieces) == 1:
        return [8.0 * chunk.size_bytes]
    payload = source.take(chunk.offset_bytes, chunk.size_bytes)
    try:
        if chunk.coder == layout.PLANES:
            return planes_bits(payload, [parts[piece.tensor] for piece in chunk.pieces], chunk.pieces)
        return CODERS[chunk.coder].code_lengths(payload, [piece.shape for piece in chunk.pieces])
    except CodecError as error:
        raise FormatError(
            f"{source.name}: chunk of {len(chunk.pieces)} tensors, byte {chunk.offset_bytes}: {error} "
            "Get the file again or make it again."
        ) from error
