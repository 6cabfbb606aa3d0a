"""Bytes to tensors. Files may come from anyone: everything is checked before memory is asked for."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaq.coding import CODERS
from metaq.coding.generic import ZstdCoder
from metaq.container import header, layout
from metaq.container.contents import Contents, Entry, File
from metaq.container.cursor import Cursor
from metaq.errors import CodecError, FormatError
from metaq.tensors import Dtype, ExactTensor, QuantizedTensor, Tensor

DEFAULT_MAX_BYTES = 16 << 30
"""Memory that restoring a file may take unless the caller says otherwise."""


def read(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> File:
    """Read a ``.metaq`` file.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Memory that its tensors may take; a small file can honestly hold very large constant tensors.

    Raises
    ------
    FormatError
        If the file is missing, foreign, damaged, of a newer major version, or takes more than `max_bytes`.
    """
    return decode(_load(path), max_bytes=max_bytes, source=str(path))


def describe(path: str | os.PathLike[str]) -> Contents:
    """What a ``.metaq`` file holds, without decoding any tensor; errors as for :func:`read`."""
    return _parse(_load(path), str(path))


def decode(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, source: str = "data") -> File:
    """Invert :func:`metaq.container.encode`.

    Parameters
    ----------
    data
        Bytes of a file.
    max_bytes
        See :func:`read`.
    source
        What to call the data in messages.

    Raises
    ------
    FormatError
        As for :func:`read`.
    """
    contents = _parse(data, source)
    needed = sum(entry.memory_bytes for entry in contents.entries)
    if needed > max_bytes:
        raise FormatError(
            f"{source}: header: restoring takes {needed} bytes of memory, more than the limit of {max_bytes}; "
            "raise max_bytes if you trust the file."
        )
    tensors = tuple(_restore(data, entry, source) for entry in contents.entries)
    return File(
        version=contents.version,
        entries=contents.entries,
        metadata=contents.metadata,
        file_bytes=contents.file_bytes,
        header_bytes=contents.header_bytes,
        tensors=tensors,
    )


def _load(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path.") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read ({error}); check the path and its permissions.") from error


def _parse(data: bytes, source: str) -> Contents:
    version, is_deflated = _check_frame(data, source)
    body = data[: -layout.CHECKSUM_BYTES]
    cursor = Cursor(body, source=source, section="start of the header", start=layout.PREAMBLE_BYTES)
    stored_bytes = cursor.varint()
    raw_bytes = cursor.varint() if is_deflated else stored_bytes
    if raw_bytes > min(layout.MAX_HEADER_BYTES, layout.DEFLATE_RATIO * max(stored_bytes, 1)):
        cursor.refuse(f"a header of {raw_bytes} bytes is not possible here")
    start = cursor.position
    stored = cursor.take(stored_bytes)
    if is_deflated:
        unpacked = _inflate(cursor, stored, raw_bytes)
        inner = Cursor(unpacked, source=source, section="unpacked header")
    else:
        inner = Cursor(body[: cursor.position], source=source, section="header", start=start)
    found = header.parse(
        inner,
        payload_start=cursor.position,
        payload_bytes=cursor.left,
        is_newer=version[1] > layout.MINOR_VERSION,
    )
    return Contents(
        version=version,
        entries=found.entries,
        metadata=found.metadata,
        file_bytes=len(data),
        header_bytes=len(data) - cursor.left,
    )


def _check_frame(data: bytes, source: str) -> tuple[tuple[int, int], bool]:
    """Magic, checksum, version and flags, in the order that gives the clearest message."""
    if not data:
        raise FormatError(f"{source}: byte 0: is empty; it was probably never written to the end. Make it again.")
    if data[: len(layout.MAGIC)] != layout.MAGIC[: len(data)]:
        raise FormatError(f"{source}: byte 0: is not a .metaq file; give the path of one.")
    if len(data) < layout.MIN_FILE_BYTES:
        raise FormatError(
            f"{source}: byte {len(data)}: is cut off, {len(data)} bytes are too few; get it again or make it again."
        )
    (stated,) = struct.unpack("<I", data[-layout.CHECKSUM_BYTES :])
    if zlib.crc32(data[: -layout.CHECKSUM_BYTES]) != stated:
        raise FormatError(
            f"{source}: checksum, byte {len(data) - layout.CHECKSUM_BYTES}: does not match; "
            "the file is damaged or cut off. Get it again or make it again."
        )
    major, minor, flags = data[len(layout.MAGIC) : layout.PREAMBLE_BYTES]
    if major != layout.MAJOR_VERSION:
        raise FormatError(
            f"{source}: version, byte {len(layout.MAGIC)}: {major}.{minor} was written by a newer metaq; upgrade."
        )
    if flags & ~layout.FLAG_DEFLATED_HEADER:
        raise FormatError(f"{source}: flags, byte {layout.PREAMBLE_BYTES - 1}: {flags:#04x} is unknown; upgrade metaq.")
    return (major, minor), bool(flags & layout.FLAG_DEFLATED_HEADER)


def _inflate(cursor: Cursor, packed: bytes, size_bytes: int) -> bytes:
    inflate = zlib.decompressobj(-15)
    try:
        raw = inflate.decompress(packed, size_bytes + 1)
    except zlib.error as error:
        cursor.refuse(f"the header cannot be unpacked ({error})")
    if len(raw) != size_bytes or not inflate.eof or inflate.unused_data:
        cursor.refuse(f"the header does not unpack to the {size_bytes} bytes promised")
    return raw


def _restore(data: bytes, entry: Entry, source: str) -> Tensor:
    payload = data[entry.offset_bytes : entry.offset_bytes + entry.coded_bytes]
    try:
        if entry.grid is None:
            return ExactTensor(name=entry.name, values=_exact_values(payload, entry), dtype=entry.dtype)
        symbols = CODERS[entry.coder].decode(
            payload,
            count=entry.count,
            alphabet_size=entry.grid.count,
            row_length=layout.row_length(entry.shape),
        )
        indices = symbols.reshape(entry.shape)
        return QuantizedTensor(name=entry.name, indices=indices, grid=entry.grid, dtype=entry.dtype)
    except (CodecError, MemoryError) as error:
        reason = str(error) or f"there is no memory for {entry.memory_bytes} bytes"
        raise FormatError(
            f"{source}: tensor {entry.name!r}, byte {entry.offset_bytes}: {reason} Get the file again or make it again."
        ) from error


def _exact_values(payload: bytes, entry: Entry) -> NDArray[np.generic]:
    size_bytes = entry.count * entry.dtype.itemsize
    is_raw = entry.coder == layout.EXACT_NAMES[layout.EXACT_RAW]
    raw = payload if is_raw else ZstdCoder().decompress(payload, size_bytes)
    if len(raw) != size_bytes:
        raise CodecError(f"{len(raw)} bytes were found where {size_bytes} are needed.")
    if entry.dtype is Dtype.bool and raw.strip(b"\0\1"):
        raise CodecError("a truth value is neither 0 nor 1.")
    # A copy, so that the caller may write to the tensor and the file's bytes can be freed.
    return np.frombuffer(raw, dtype=entry.dtype.storage).reshape(entry.shape).copy()
