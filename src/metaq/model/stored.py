"""Tensors where they lie, in memory or in files, read piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from metaq.errors import FormatError
from metaq.tensors.quantized import Dtype, ExactTensor, values_of
from metaq.tensors.scales import Scales

STAMPED_BYTES = 1 << 20
"""Of a file, in which most formats say what it holds."""

Elements = NDArray[np.generic]
"""Elements of a tensor in the storage type of its :class:`~metaq.tensors.quantized.Dtype`, flat."""


@dataclass(frozen=True)
class FileRange:
    """Bytes of a file from `start` on: elements in C order, little-endian."""

    path: Path
    start: int


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor that is read when it is needed: its elements are in memory, or where they lie in a file."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    place: Elements | FileRange

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Size of the elements."""
        return self.count * self.dtype.itemsize

    @property
    def row_length(self) -> int:
        """Elements of a row, which belongs to an index of the first dimension; 0 for a vector."""
        return prod(self.shape[1:]) if len(self.shape) > 1 else 0


class Reader:
    """Reads stored tensors; a context manager that closes the files it opened.

    Values of tensors with `scales`, by name, are those before these multiply them.
    """

    def __init__(self) -> None:
        self.scales: Mapping[str, Scales] = {}
        self._open = ExitStack()
        self._files: dict[Path, IO[bytes]] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def elements(self, tensor: StoredTensor, start: int, stop: int) -> Elements:
        """Elements `start` to `stop`, of shape (n,); raises :class:`FormatError` if the file cannot be read or has
        changed.
        """
        place = tensor.place
        if not isinstance(place, FileRange):
            return place[start:stop]
        itemsize = tensor.dtype.itemsize
        found = bytearray((stop - start) * itemsize)
        try:
            file = self._file(place.path)
            file.seek(place.start + start * itemsize)
            read = file.readinto(found)  # type: ignore[attr-defined]
        except OSError as error:
            raise FormatError(f"{place.path}: {tensor.name!r} cannot be read ({error.strerror or error}).") from error
        if read != len(found):
            raise FormatError(f"{place.path}: ends within {tensor.name!r}; it has changed while it was read.")
        return np.frombuffer(found, dtype=tensor.dtype.storage)

    def values(self, tensor: StoredTensor, start: int, stop: int) -> NDArray[np.float64]:
        """Elements `start` to `stop` of a floating tensor as numbers, float64 of shape (n,)."""
        values = values_of(self.elements(tensor, start, stop), tensor.dtype)
        scales = self.scales.get(tensor.name)
        return values if scales is None else values / scales.of(tensor.shape, start, stop)

    def exact(self, tensor: StoredTensor) -> ExactTensor:
        """All elements as a tensor that is kept bit for bit."""
        values = self.elements(tensor, 0, tensor.count).reshape(tensor.shape)
        return ExactTensor(name=tensor.name, values=values, dtype=tensor.dtype)

    def raw(self, tensor: StoredTensor, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, both at the beginning of elements."""
        size = tensor.dtype.itemsize
        return self.elements(tensor, start // size, stop // size).tobytes()

    def _file(self, path: Path) -> IO[bytes]:
        if path not in self._files:
            self._files[path] = self._open.enter_context(path.open("rb"))
        return self._files[path]


def stamp_of(path: Path) -> list[object]:
    """Name, size, time of change and a checksum of the first bytes of a file, which tell that it is still the same."""
    stat = path.stat()
    with path.open("rb") as stream:
        head = stream.read(STAMPED_BYTES)
    return [path.name, stat.st_size, stat.st_mtime_ns, sha256(head).hexdigest()]
