"""Where the bytes of a file come from: memory, or the disk piece by piece."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import IO

from metaq.container.layout import MAGIC
from metaq.errors import FormatError

BLOCK_BYTES = 1 << 20


class Source:
    """Bytes that can be taken from any place, and what to call them in messages; a context manager that closes them."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self.name = name
        self.size_bytes = stream.seek(0, os.SEEK_END)
        self._stream = stream

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def take(self, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes from byte `offset` on; fewer at the end."""
        try:
            self._stream.seek(offset)
            return self._stream.read(size_bytes)
        except OSError as error:
            raise _unreadable(self.name, error) from error


def open_source(path: str | os.PathLike[str]) -> Source:
    """A file on disk; raises :class:`FormatError` if it is missing or cannot be read."""
    try:
        return Source(Path(path).open("rb"), str(path))
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error


def is_metaq(path: str | os.PathLike[str]) -> bool:
    """Whether a file is, or by its name ought to be, a ``.metaq`` file.

    Raises
    ------
    FormatError
        If the file is missing, empty or cannot be read.
    """
    return head_of(path, len(MAGIC)) == MAGIC or Path(path).suffix == ".metaq"


def head_of(path: str | os.PathLike[str], size_bytes: int) -> bytes:
    """The first bytes of a file; raises :class:`FormatError` if it is missing, empty or cannot be read."""
    with open_source(path) as source:
        head = source.take(0, size_bytes)
    if not head:
        raise FormatError(f"{path}: is empty; it was probably never written to the end. Make it again.")
    return head


def checksum(source: Source, end: int) -> int:
    """CRC-32 of the first `end` bytes."""
    value = 0
    for start in range(0, end, BLOCK_BYTES):
        value = zlib.crc32(source.take(start, min(BLOCK_BYTES, end - start)), value)
    return value


def _unreadable(name: str, error: Exception) -> FormatError:
    return FormatError(f"{name}: cannot be read ({error}); check the path and its permissions.")
