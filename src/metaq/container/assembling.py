"""A file from chunks that were coded before, one at a time: the same bytes as :func:`metaq.container.write` makes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from metaq.container import chunking
from metaq.container.contents import Entry, Metadata
from metaq.container.header import with_places
from metaq.container.writer import check_elements, check_tensors, head_bytes, packed_checksum
from metaq.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """A chunk that is kept somewhere.

    Attributes
    ----------
    size_bytes
        Of its payload.
    checksum
        CRC-32 of the payload.
    """

    size_bytes: int
    checksum: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All of a file but its chunks.

    Attributes
    ----------
    bases, entries
        In the order of the file; where their payloads are is not looked at.
    inline
        Elements of the tensors that stand in the header, in their order.
    metadata, coder, chunk_bits
        See :func:`metaq.container.write`.
    """

    bases: tuple[Entry, ...]
    entries: tuple[Entry, ...]
    inline: tuple[bytes, ...]
    metadata: Metadata
    coder: str
    chunk_bits: int

    def plans(self) -> list[chunking.Plan]:
        """What every chunk holds, in the order of the file."""
        return chunking.plan_chunks([*self.bases, *self.entries], self.chunk_bits)

    def head(self, chunks: Sequence[StoredChunk]) -> bytes:
        """All that stands before the chunks.

        Raises
        ------
        ConfigError
            If the format cannot hold the tensors or the metadata.
        """
        check_tensors(self.entries)
        check_elements(entry.shape for entry in (*self.bases, *self.entries))
        return head_bytes(
            self.entries,
            self.inline,
            [chunk.size_bytes for chunk in chunks],
            [chunk.checksum for chunk in chunks],
            self.metadata,
            coder=self.coder,
            chunk_bits=self.chunk_bits,
            bases=self.bases,
        )

    def placed(self, chunks: Sequence[StoredChunk]) -> list[Entry]:
        """The bases and the tensors with their coded bytes."""
        return with_places([*self.bases, *self.entries], self.plans(), [chunk.size_bytes for chunk in chunks], 0)


def assemble(
    path: str | os.PathLike[str],
    head: bytes,
    chunks: Sequence[StoredChunk],
    payload: Callable[[int], Iterable[bytes]],
) -> int:
    """Write a file atomically; returns its size in bytes.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    head
        Of :meth:`Parts.head`.
    chunks
        In the order of the file.
    payload
        Gives the payload of a chunk by its number, in pieces.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """

    def write(stream: IO[bytes]) -> None:
        stream.write(head)
        checksum = zlib.crc32(head)
        for number in range(len(chunks)):
            for piece in payload(number):
                stream.write(piece)
                checksum = zlib.crc32(piece, checksum)
        stream.write(packed_checksum(checksum))

    return write_atomically(path, write)
