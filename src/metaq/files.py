"""Writing files so that a reader sees either the old bytes or the new ones, never half of them."""

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as shortened
from typing import IO

from metaq.errors import ConfigError, OutputError

PREFIX, SUFFIX = ".metaq-", ".part"
"""Of temporary names, which are short so that every name that a disk can hold can be written."""

MAX_SPOOLED_BYTES = 64_000_000
"""What goes into a stream is kept in memory up to here, else in a temporary file."""

ADVICE = {
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.EFBIG: "files of that size are not allowed here; choose another place",
    errno.ENOENT: "make its folder first or choose another place",
    errno.ENOTDIR: "a part of its path is a file; choose another place",
    errno.EISDIR: "give the name of a file in it",
    errno.EACCES: "ask for permission or choose another place",
    errno.EPERM: "ask for permission or choose another place",
    errno.EROFS: "choose another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle; choose another name",
    errno.EPIPE: "its reader has gone away",
}
"""What to do about a cause."""


def output_error(path: str | os.PathLike[str], cause: OSError) -> OutputError:
    """The error that says why `path` cannot be written and what to do about it."""
    reason = cause.strerror or str(cause)
    advice = ADVICE.get(cause.errno or 0, "choose another place")
    return OutputError(f"{os.fspath(path)}: cannot be written ({reason}); {advice}.")


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> int:
    """Write a file through a temporary sibling, flush it to disk, then rename it into place.

    A symbolic link stays, and what it leads to is replaced. Into a pipe, a terminal or a device such as ``/dev/null``
    the bytes are written as they are, once all are there. `write` is called once with a binary stream, which it may
    read too and has to leave at its end. Returns the size of the finished file in bytes.

    Raises :class:`OutputError` if `path` is a folder or a block device, its folder is missing or not writable, or the
    disk is full, and :class:`ConfigError` if it is no path. The temporary file is removed and an older file of that
    name is left as it was.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise ConfigError(f"{shortened(path)} is no path of a file; give one.")
    try:
        return _write_into(Path(path), write) if is_stream(path) else _replace(Path(path), write)
    except OSError as error:
        raise output_error(path, error) from error
    except RuntimeError as error:
        # PyTorch's writer, which cannot end what it could not write, raises this one over the other.
        if not isinstance(error.__context__, OSError):
            raise
        raise output_error(path, error.__context__) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> int:
    """Write `data` to `path` atomically; see :func:`write_atomically`."""
    return write_atomically(path, lambda stream: stream.write(data))


def refuse_overwrite(path: str | os.PathLike[str], *, force: bool) -> None:
    """Refuse a place where no file can be written, before any work is done for it.

    Raises :class:`ConfigError` if a file is there and `force` is not given, and :class:`OutputError` if `path` is a
    folder or a block device, or its folder is missing or not writable.
    """
    try:
        if is_stream(path):
            return
        target = _target(Path(path))
        if target.exists() and not force:
            raise ConfigError(f"{path}: exists already; give --force to replace it, or another output.")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise output_error(path, error) from error


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is something that bytes flow into: a pipe, a terminal, ``/dev/null``, this process's output."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return False
    return stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode) or _own_stream(found) is not None


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether what is written to `path` comes out of this process's standard output."""
    try:
        found = Path(path).stat()
    except OSError:
        return False
    return _own_stream(found) == 1 and not stat.S_ISCHR(found.st_mode)


def umask() -> int:
    """Permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _target(path: Path) -> Path:
    """The regular file that `path` leads to, or will lead to; raises :class:`OSError` if there can be none."""
    target = Path(os.path.realpath(path))
    target.parent.stat()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.ENODEV, "Is a device")
    return target


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> int:
    target = _target(path)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~umask()
    descriptor, name = tempfile.mkstemp(prefix=PREFIX, suffix=SUFFIX, dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            size_bytes = stream.tell()
        temporary.chmod(mode)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return size_bytes


def _write_into(path: Path, write: Callable[[IO[bytes]], object]) -> int:
    with tempfile.SpooledTemporaryFile(MAX_SPOOLED_BYTES) as held:
        write(held)
        size_bytes = held.tell()
        held.seek(0)
        own = _own_stream(path.stat())
        sys.stdout.flush()
        with path.open("wb") if own is None else os.fdopen(os.dup(own), "wb") as stream:
            shutil.copyfileobj(held, stream)
    return size_bytes


def _own_stream(found: os.stat_result) -> int | None:
    """The descriptor of this process's output or errors that a file is, so that it is not opened and emptied anew."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None
