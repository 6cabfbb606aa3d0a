"""Where the bytes of a file come from: memory, an open file, or the disk piece by piece."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr as shortened
from typing import IO

from metaq.config import require
from metaq.container.layout import MAGIC, UPDATE_MAGIC
from metaq.errors import ConfigError, FormatError

BLOCK_BYTES = 1 << 20

ADDRESSES = ("http:/", "https:/", "s3:/", "gs:/", "hf:/")
"""What names begin with that were meant for addresses; a path has lost one of two slashes."""

FileLike = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
"""A path, the bytes of a file, or an open binary file that can seek: all of it counts, wherever it stands, and it is
left open.
"""


def wanted_names(names: Iterable[str] | None) -> list[str] | None:
    """Names of tensors that are asked for, None for all; raises :class:`ConfigError` if they are no strings."""
    if names is None:
        return None
    require(not isinstance(names, str), f"names: give a list, such as [{names!r}].")
    require(isinstance(names, Iterable), f"names: {shortened(names)} is none; give a list of strings.")
    found = list(names)
    odd = [name for name in found if not isinstance(name, str)]
    require(not odd, f"names: {', '.join(map(shortened, odd[:1]))} is no string; give names of tensors.")
    return found


class Source:
    """Bytes that can be taken from any place, and what to call them in messages; a context manager that closes them
    unless they are `borrowed`.
    """

    def __init__(self, stream: IO[bytes], name: str, *, borrowed: bool = False) -> None:
        self.name = name
        self.size_bytes = stream.seek(0, os.SEEK_END)
        self._stream = stream
        self._borrowed = borrowed

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._borrowed:
            self._stream.close()

    def take(self, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes from byte `offset` on; fewer at the end."""
        try:
            self._stream.seek(offset)
            found = self._stream.read(size_bytes)
            # Files without a buffer may give less than they have.
            while found and len(found) < size_bytes and (more := self._stream.read(size_bytes - len(found))):
                found += more
        except (OSError, ValueError) as error:
            raise _unreadable(self.name, error) from error
        return found


def name_of(file: FileLike) -> str:
    """What to call a file in messages: its path, if it has one."""
    if isinstance(file, bytes | bytearray | memoryview):
        return "data"
    name = file if isinstance(file, str | os.PathLike) else getattr(file, "name", None)
    return os.fspath(name) if isinstance(name, str | os.PathLike) else "data"


def open_source(file: FileLike) -> Source:
    """The bytes of a file.

    Raises :class:`ConfigError` if it is neither a path nor bytes nor a binary file that can seek, and
    :class:`FormatError` if it is missing or cannot be read.
    """
    name = name_of(file)
    if isinstance(file, bytes | bytearray | memoryview):
        return Source(io.BytesIO(bytes(file)), name)
    try:
        if isinstance(file, str | os.PathLike):
            return Source(Path(file).open("rb"), name)
        _check_stream(file, name)
        return Source(file, name, borrowed=True)
    except ConfigError:
        raise
    except FileNotFoundError as error:
        advice = "write out the home folder, as os.path.expanduser does" if name.startswith("~") else "check the path"
        advice = "an address is no path; download the file first" if name.startswith(ADDRESSES) else advice
        raise FormatError(f"{name}: no such file; {advice}.") from error
    except IsADirectoryError as error:
        raise FormatError(f"{name}: cannot be read, since it is a folder; give the path of a file in it.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _check_stream(file: object, name: str) -> None:
    if not (hasattr(file, "read") and hasattr(file, "seek")):
        raise ConfigError(f"file: a {type(file).__name__} is neither a path nor bytes nor an open binary file.")
    if isinstance(file, io.TextIOBase):
        raise ConfigError(f"{name}: is open as text; open it in the mode 'rb'.")
    if isinstance(file, io.IOBase) and not file.closed and not file.seekable():
        raise ConfigError(f"{name}: cannot seek; give the bytes that its read() returns.")


def is_metaq(path: str | os.PathLike[str]) -> bool:
    """Whether a file is, or by its name ought to be, a ``.metaq`` file.

    Raises
    ------
    FormatError
        If the file is missing, empty or cannot be read.
    """
    return head_of(path, len(MAGIC)) in (MAGIC, UPDATE_MAGIC) or Path(path).suffix == ".metaq"


def is_update(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an update; raises :class:`FormatError` if it is missing or empty."""
    return head_of(path, len(UPDATE_MAGIC)) == UPDATE_MAGIC


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
