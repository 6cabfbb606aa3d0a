"""The IDX format of MNIST: a big-endian header with the shape, then unsigned bytes; gzipped or not.

Files may come from anywhere, so every size is checked before memory is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from math import prod
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from metaq.errors import DataError

MAX_ELEMENTS = 1 << 32
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
# Deflate codes at best 258 bytes in two bits, so no honest file expands further than this.
_MAX_GZIP_RATIO = 1032


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read the array in the file `path`, gzipped or not; raises :class:`DataError` as :func:`parse_idx`."""
    try:
        with path.open("rb") as stream:
            return parse_idx(stream, origin=str(path), dimensions=dimensions)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def parse_idx(stream: IO[bytes], *, origin: str, dimensions: int) -> NDArray[np.uint8]:
    """Read one read-only array of unsigned bytes from a seekable stream over a whole file, gzipped or not.

    It has `dimensions` axes, none of them empty: 3 for images, 1 for labels. Messages name the file `origin`. Raises
    :class:`DataError` if the gzip wrapper is damaged, the header is not the expected one, or the number of bytes is not
    what the header states. At most that many bytes and one more are unpacked.
    """
    stored_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    is_gzipped = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    stream.seek(0)
    if not is_gzipped:
        return _parse_plain(stream, origin=origin, dimensions=dimensions, capacity_bytes=stored_bytes)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            return _parse_plain(
                plain, origin=origin, dimensions=dimensions, capacity_bytes=stored_bytes * _MAX_GZIP_RATIO
            )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{origin}: the gzip file is damaged ({error}); fetch it again.") from error


def sha256_of_idx(values: NDArray[np.uint8]) -> str:
    """SHA-256, in hexadecimal, of the uncompressed IDX file that holds `values`."""
    digest = hashlib.sha256(_header(values))
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _header(values: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, _UNSIGNED_BYTE, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)


def _parse_plain(plain: _Readable, *, origin: str, dimensions: int, capacity_bytes: int) -> NDArray[np.uint8]:
    header = plain.read(4 + 4 * dimensions)
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if not header.startswith(expected):
        raise DataError(
            f"{origin}: starts with 0x{header[:4].hex()}; an IDX file of {dimensions}-dimensional unsigned bytes "
            f"starts with 0x{expected.hex()}. Is it another file under this name?"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{origin}: truncated within its header; fetch it again.")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size_bytes = prod(shape)
    if size_bytes == 0:
        raise DataError(f"{origin}: its header states the shape {shape}, which holds nothing.")
    if size_bytes > min(capacity_bytes, MAX_ELEMENTS):
        raise DataError(
            f"{origin}: its header states {size_bytes} bytes of shape {shape}, more than the file can hold; "
            "it is truncated or damaged."
        )
    payload = plain.read(size_bytes + 1)
    if len(payload) != size_bytes:
        found = "more follow" if len(payload) > size_bytes else f"only {len(payload)} are there"
        raise DataError(
            f"{origin}: its header states {size_bytes} bytes of shape {shape}, but {found}; fetch it again."
        )
    return np.frombuffer(payload, dtype=np.uint8).reshape(shape)
