"""What surrounds the header and the chunks: magic, version, sizes and checksums."""

import struct
from itertools import accumulate

from metaq.coding.header_bytes import decode_header_bytes
from metaq.container import header, layout
from metaq.container.contents import Chunk, Contents, UpdateFacts
from metaq.container.cursor import Cursor
from metaq.container.source import Source, checksum
from metaq.errors import CodecError, FormatError

Frame = tuple[Contents, dict[int, bytes]]
"""A file's contents, and the elements that stand in its header by number among :attr:`Contents.parts`."""


def open_frame(source: Source) -> Frame:
    """Frame of a file of which as little is read as its own checksums allow.

    A file of several chunks has a checksum for each and one for the header, so that only the header is read; of any
    other all bytes are checked. Raises :class:`FormatError` if it is foreign, damaged or of a newer version.
    """
    _check_magic(source)
    try:
        frame = _parsed(source)
    except FormatError:
        # A damaged header says anything; that the checksum does not match says more.
        _check_all(source)
        raise
    if len(frame[0].chunks) <= 1:
        _check_all(source)
    return frame


def open_checked_frame(source: Source) -> Frame:
    """Frame of a file of which all bytes have been checked; errors as for :func:`open_frame`."""
    _check_magic(source)
    _check_all(source)
    return _parsed(source)


def _check_magic(source: Source) -> None:
    head = source.take(0, len(layout.MAGIC))
    if not head:
        raise FormatError(f"{source.name}: byte 0: is empty; it was probably never written to the end. Make it again.")
    if head not in (layout.MAGIC[: len(head)], layout.UPDATE_MAGIC[: len(head)]):
        raise FormatError(f"{source.name}: byte 0: is not a .metaq file; give the path of one.")
    if source.size_bytes < layout.MIN_FILE_BYTES:
        raise FormatError(
            f"{source.name}: byte {source.size_bytes}: is cut off, {source.size_bytes} bytes are too few; "
            "get it again or make it again."
        )


def _check_all(source: Source) -> None:
    end = source.size_bytes - layout.CHECKSUM_BYTES
    _require_checksum(source, "checksum", end, checksum(source, end))


def _require_checksum(source: Source, section: str, offset: int, found: int) -> None:
    if source.take(offset, layout.CHECKSUM_BYTES) != struct.pack("<I", found):
        raise FormatError(
            f"{source.name}: {section}, byte {offset}: does not match; "
            "the file is damaged or cut off. Get it again or make it again."
        )


def _parsed(source: Source) -> Frame:
    version = source.take(len(layout.MAGIC), 1)[0]
    if version != layout.VERSION:
        raise FormatError(
            f"{source.name}: version, byte {len(layout.MAGIC)}: {version} is newer than this metaq reads; upgrade."
        )
    is_update = source.take(0, len(layout.MAGIC)) == layout.UPDATE_MAGIC
    raw, header_end = _unpacked_header(source, layout.preamble_bytes(is_update=is_update))
    cursor = Cursor(raw, source=source.name, section="unpacked header")
    found = header.parse(cursor, is_update=is_update)
    sums, start = _chunk_checksums(source, header_end, len(found.plans))
    if start + sum(found.chunk_sizes) + layout.CHECKSUM_BYTES != source.size_bytes:
        cursor.refuse(f"the sizes of the chunks do not add up to the {source.size_bytes} bytes of the file")
    starts = accumulate(found.chunk_sizes, initial=start)
    chunks = tuple(
        Chunk(coder=coder, pieces=pieces, size_bytes=size, offset_bytes=offset, checksum=stated)
        for (coder, pieces), size, offset, stated in zip(found.plans, found.chunk_sizes, starts, sums, strict=False)
    )
    placed = tuple(header.with_places(found.bases + found.entries, found.plans, found.chunk_sizes, start))
    contents = Contents(
        version=version,
        entries=placed[len(found.bases) :],
        bases=placed[: len(found.bases)],
        chunks=chunks,
        metadata=found.metadata,
        file_bytes=source.size_bytes,
        header_bytes=source.size_bytes - sum(found.chunk_sizes),
        update=_update_facts(source, found.removed) if is_update else None,
    )
    return contents, found.inline


def _update_facts(source: Source, removed: tuple[int, ...]) -> UpdateFacts:
    raw = source.take(layout.PREAMBLE_BYTES, layout.IDENTITY_BYTES + layout.RESULT_BYTES)
    return UpdateFacts(base=raw[: layout.IDENTITY_BYTES], result=raw[layout.IDENTITY_BYTES :], removed=removed)


def _unpacked_header(source: Source, preamble_bytes: int) -> tuple[bytes, int]:
    """The fields, and where the coded header ends in the file."""
    limit = source.size_bytes - layout.CHECKSUM_BYTES
    head = source.take(0, min(preamble_bytes + layout.MAX_VARINT_BYTES, limit))
    cursor = Cursor(head, source=source.name, section="start of the header", start=min(preamble_bytes, len(head)))
    stored_bytes = cursor.varint()
    if stored_bytes > limit - cursor.position:
        cursor.refuse(f"{stored_bytes} bytes are promised but only {limit - cursor.position} are left")
    start = cursor.position
    stored = source.take(start, stored_bytes)
    cursor = Cursor(stored, source=source.name, section=f"header (from byte {start})")
    size_bytes = cursor.varint()
    if size_bytes > layout.MAX_HEADER_BYTES:
        cursor.refuse(f"a header of {size_bytes} bytes is not possible here")
    try:
        return decode_header_bytes(stored[cursor.position :], size_bytes), start + stored_bytes
    except (CodecError, MemoryError) as error:
        cursor.refuse(f"it cannot be unpacked ({error})")


def _chunk_checksums(source: Source, position: int, number: int) -> tuple[list[int | None], int]:
    """Checksums of the chunks, and where the first chunk starts; the header's own checksum is compared."""
    if number <= 1:
        return [None] * number, position
    raw = source.take(position, number * layout.CHECKSUM_BYTES)
    end = position + len(raw)
    if end + 2 * layout.CHECKSUM_BYTES > source.size_bytes:
        raise FormatError(
            f"{source.name}: checksums of the chunks, byte {position}: are cut off; "
            "get the file again or make it again."
        )
    _require_checksum(source, "checksum of the header", end, checksum(source, end))
    return [value for (value,) in struct.iter_unpack("<I", raw)], end + layout.CHECKSUM_BYTES
