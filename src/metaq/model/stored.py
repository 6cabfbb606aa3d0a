"""Tensors where they lie: runs of bytes in files, read piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from metaq.errors import FormatError
from metaq.quantize.allocation import MIN_TRELLIS_ROW
from metaq.tensors.quantized import Dtype, values_of

MAX_TRELLIS_ROW = 1 << 18
"""The search along a row takes 144 bytes a weight."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file.

    Attributes
    ----------
    name, dtype, shape
        Of the tensor.
    file
        Where it lies.
    offset_bytes
        Its first byte there; the elements are little-endian in C order.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    file: Path
    offset_bytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Size of the elements."""
        return self.count * self.dtype.itemsize


class Reader:
    """Reads stored tensors; a context manager that closes the files it opened."""

    def __init__(self) -> None:
        self._streams: dict[Path, IO[bytes]] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()

    def raw(self, tensor: StoredTensor, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of the tensor.

        Raises
        ------
        FormatError
            If the file cannot be read or has become shorter.
        """
        try:
            if tensor.file not in self._streams:
                self._streams[tensor.file] = tensor.file.open("rb")
            stream = self._streams[tensor.file]
            stream.seek(tensor.offset_bytes + start)
            found = stream.read(stop - start)
        except OSError as error:
            raise FormatError(f"{tensor.file}: cannot be read ({error.strerror or error}).") from error
        if len(found) != stop - start:
            raise FormatError(f"{tensor.file}: ends within {tensor.name!r}; it has changed while it was read.")
        return found

    def values(self, tensor: StoredTensor, start: int, stop: int) -> NDArray[np.float64]:
        """Elements `start` to `stop` of a floating tensor, float64 of shape (n,)."""
        size = tensor.dtype.itemsize
        raw = self.raw(tensor, start * size, stop * size)
        return values_of(np.frombuffer(raw, dtype=tensor.dtype.storage), tensor.dtype)


def row_length(tensor: StoredTensor) -> int:
    """Elements of a row, which belongs to an index of the first dimension; 0 for a vector."""
    return prod(tensor.shape[1:]) if len(tensor.shape) > 1 else 0


def is_matrix(tensor: StoredTensor) -> bool:
    """Whether its rows are long enough for a trellis, and short enough for one that is searched row by row."""
    return MIN_TRELLIS_ROW <= row_length(tensor) <= MAX_TRELLIS_ROW
