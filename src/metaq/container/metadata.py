"""Other metadata in a file that is there already; its chunks are the same."""

import os
import zlib
from collections.abc import Iterator

from metaq.coding.header_bytes import decode_header_bytes, encode_header_bytes
from metaq.coding.varint import decode_varint, encode_varint
from metaq.container import layout
from metaq.container.contents import Contents, Metadata
from metaq.container.fields import Parts, packed_checksum
from metaq.container.reader import describe
from metaq.container.source import Source, open_source
from metaq.container.writer import DEFAULT_CODER, assemble

COPIED_BYTES = 1 << 20


def rewritten(data: bytes, metadata: Metadata) -> bytes:
    """A file with other metadata; its chunks are the same."""
    with open_source(data) as source:
        head, start, end = _head(source, describe(data), metadata)
    body = head + data[start:end]
    return body + packed_checksum(zlib.crc32(body))


def rewrite(path: str | os.PathLike[str], metadata: Metadata) -> int:
    """Give a file other metadata, atomically; returns its size in bytes. Raises :class:`FormatError` if it is no
    ``.metaq`` file or damaged, and :class:`OutputError` if it cannot be written.
    """
    contents = describe(path)
    with open_source(path) as source:
        head, start, end = _head(source, contents, metadata)
        return assemble(path, head, _pieces(source, start, end))


def _pieces(source: Source, start: int, end: int) -> Iterator[bytes]:
    for first in range(start, end, COPIED_BYTES):
        yield source.take(first, min(COPIED_BYTES, end - first))


def _head(source: Source, contents: Contents, metadata: Metadata) -> tuple[bytes, int, int]:
    """All that stands before the chunks, with other metadata, and where these begin and end in the source."""
    preamble = layout.preamble_bytes(is_update=contents.update is not None)
    end = source.size_bytes - layout.CHECKSUM_BYTES
    start = contents.header_bytes - layout.CHECKSUM_BYTES
    head = source.take(0, start)
    stored_bytes, position = decode_varint(head, preamble)
    stored = head[position : position + stored_bytes]
    size_bytes, first = decode_varint(stored, 0)
    fields = _with_metadata(decode_header_bytes(stored[first:], size_bytes), contents.metadata, metadata)
    stored = encode_varint(len(fields)) + encode_header_bytes(fields)
    made = head[:preamble] + encode_varint(len(stored)) + stored
    if len(contents.chunks) > 1:
        made += b"".join(packed_checksum(chunk.checksum or 0) for chunk in contents.chunks)
        made += packed_checksum(zlib.crc32(made))
    return made, start, end


def _with_metadata(fields: bytes, before: Metadata, after: Metadata) -> bytes:
    """The fields of a header, which end with its metadata, with others."""
    tensors, position = decode_varint(fields, 0)
    _, position = decode_varint(fields, position)
    middle = fields[position : len(fields) - len(_metadata_bytes(before))]
    return encode_varint(tensors) + encode_varint(len(after)) + middle + _metadata_bytes(after)


def _metadata_bytes(metadata: Metadata) -> bytes:
    """Metadata as the end of a header has them: what they add to one without tensors."""
    parts = Parts(bases=(), entries=(), inline=(), metadata=metadata, coder=DEFAULT_CODER, chunk_bits=0)
    counts = encode_varint(0) + encode_varint(len(metadata))
    return parts.fields([])[len(counts) + 1 :]
