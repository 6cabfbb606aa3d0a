"""Writing files so that a reader sees either the old bytes or the new ones, never half of them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from metaq.errors import ConfigError, OutputError


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> int:
    """Write a file through a temporary sibling, flush it to disk, then rename it into place.

    Parameters
    ----------
    path
        Where the file shall stand. Its folder must exist.
    write
        Called once with the open binary stream.

    Returns
    -------
    int
        Size of the finished file in bytes.

    Raises
    ------
    OutputError
        If the folder is missing or not writable, or the disk is full. The temporary file is removed and an
        older file of that name is left as it was.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            size_bytes = stream.tell()
        Path(temporary).chmod(0o666 & ~umask())
        Path(temporary).replace(target)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise OutputError(
                f"{target}: cannot be written ({reason}); free some space or choose another place."
            ) from error
        raise
    return size_bytes


def write_bytes(path: str | os.PathLike[str], data: bytes) -> int:
    """Write `data` to `path` atomically; see :func:`write_atomically`."""
    return write_atomically(path, lambda stream: stream.write(data))


def refuse_overwrite(path: str | os.PathLike[str], *, force: bool) -> None:
    """Raise :class:`ConfigError` if `path` exists and `force` is not given."""
    if Path(path).exists() and not force:
        raise ConfigError(f"{path}: exists already; give --force to replace it, or another output.")


def umask() -> int:
    """Permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
