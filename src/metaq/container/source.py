"""Where the bytes of a file come from: memory, or the disk piece by piece."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

from metaq.container.layout import MAGIC
from metaq.errors import FormatError

BLOCK_BYTES = 1 << 20


class Source(Protocol):
    """Bytes that can be taken from any place, and what to call them in messages."""

    @property
    def name(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    def take(self, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes from byte `offset` on; fewer at the end."""


class BytesSource:
    """A file in memory."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.size_bytes = len(data)
        self._data = data

    def take(self, offset: int, size_bytes: int) -> bytes:
        return self._data[offset : offset + size_bytes]


class FileSource:
    """An open file on disk; a context manager that closes it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = str(path)
        self._stream = _opened(path)
        self.size_bytes = self._stream.seek(0, os.SEEK_END)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def take(self, offset: int, size_bytes: int) -> bytes:
        try:
            self._stream.seek(offset)
            return self._stream.read(size_bytes)
        except OSError as error:
            raise _unreadable(self.name, error) from error


def is_metaq(path: str | os.PathLike[str]) -> bool:
    """Whether a file is, or by its name ought to be, a ``.metaq`` file.

    Raises
    ------
    FormatError
        If the file is missing, empty or cannot be read.
    """
    with FileSource(path) as source:
        head = source.take(0, len(MAGIC))
    if not head:
        raise FormatError(f"{path}: is empty; it was probably never written to the end. Make it again.")
    return head == MAGIC or Path(path).suffix == ".metaq"


def checksum(source: Source, end: int) -> int:
    """CRC-32 of the first `end` bytes."""
    value = 0
    for start in range(0, end, BLOCK_BYTES):
        value = zlib.crc32(source.take(start, min(BLOCK_BYTES, end - start)), value)
    return value


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error


def _unreadable(name: str, error: Exception) -> FormatError:
    return FormatError(f"{name}: cannot be read ({error}); check the path and its permissions.")
