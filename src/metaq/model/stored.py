"""Tensors where they lie, in memory or in files, read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from metaq.errors import FormatError
from metaq.tensors.quantized import Dtype, ExactTensor, values_of
from metaq.tensors.scales import Scales

Elements = NDArray[np.generic]
"""Elements of a tensor in the storage type of its :class:`~metaq.tensors.quantized.Dtype`, flat."""

DTYPES = {
    "F64": Dtype.float64,
    "F32": Dtype.float32,
    "F16": Dtype.float16,
    "BF16": Dtype.bfloat16,
    "F8_E4M3": Dtype.float8_e4m3fn,
    "F8_E5M2": Dtype.float8_e5m2,
    "I64": Dtype.int64,
    "I32": Dtype.int32,
    "I16": Dtype.int16,
    "I8": Dtype.int8,
    "U64": Dtype.uint64,
    "U32": Dtype.uint32,
    "U16": Dtype.uint16,
    "U8": Dtype.uint8,
    "BOOL": Dtype.bool,
    "C64": Dtype.complex64,
}
"""Types by the names that safetensors gives them."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
INTERRUPTED = "could not determine the shape of object type 'torch.storage"
"""What becomes of an interruption within safetensors: torch drops it and then complains."""

MOST_MAPPED_BYTES = 1 << 26
"""The library refuses longer ones."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor that is read when it is needed.

    `place` is its elements; or the safetensors file that holds it under its name; or, for a tensor of bytes that is a
    whole file, that file.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    place: Elements | Path

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
        self._mapped_bytes = 0
        self._open = ExitStack()
        self._weights: dict[Path, Any] = {}
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
        if not isinstance(place, Path):
            return place[start:stop]
        try:
            found = (
                self._bytes(place, start, stop)
                if place.suffix != ".safetensors"
                else self._rows(place, tensor, start, stop)
            )
        except (OSError, ValueError, RuntimeError) as error:
            if INTERRUPTED in str(error):
                raise KeyboardInterrupt from error
            raise FormatError(f"{place}: {tensor.name!r} cannot be read ({error}).") from error
        if len(found) != stop - start:
            raise FormatError(f"{place}: ends within {tensor.name!r}; it has changed while it was read.")
        return found

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
        size, found = tensor.dtype.itemsize, BytesIO()
        for first in range(start, stop, MOST_MAPPED_BYTES):
            last = min(first + MOST_MAPPED_BYTES, stop)
            found.write(self.elements(tensor, first // size, last // size).data)
        return found.getvalue()

    def _bytes(self, file: Path, start: int, stop: int) -> Elements:
        if file not in self._files:
            self._files[file] = self._open.enter_context(file.open("rb"))
        self._files[file].seek(start)
        return np.frombuffer(self._files[file].read(stop - start), dtype=np.uint8)

    def _rows(self, file: Path, tensor: StoredTensor, start: int, stop: int) -> Elements:
        self._mapped_bytes += (stop - start) * tensor.dtype.itemsize
        if self._mapped_bytes > MOST_MAPPED_BYTES:
            # What was read of a mapped file counts as memory until it is closed.
            self._open.close()
            self._weights, self._files, self._mapped_bytes = {}, {}, 0
        if file not in self._weights:
            self._weights[file] = self._open.enter_context(open_safetensors(file))
        length = max(tensor.row_length, 1)
        if not tensor.shape or stop == start:
            found = self._weights[file].get_tensor(tensor.name)
            return _storage(found, tensor.dtype)[start:stop]
        first = start // length
        rows = self._weights[file].get_slice(tensor.name)[first : -(-stop // length)]
        return _storage(rows, tensor.dtype)[start - first * length : stop - first * length]


def open_safetensors(file: Path) -> Any:
    """A safetensors file, checked and opened, a context manager; :class:`FormatError` if it is missing or damaged."""
    try:
        return safetensors.safe_open(file, framework="pt")
    except FileNotFoundError as error:
        raise FormatError(f"{file}: no such file; check the path.") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{file}: is not a readable safetensors file ({error}). Copy or make it again.") from error


def tensors_of(file: Path) -> list[StoredTensor]:
    """Tensors of a safetensors file, none of them read.

    Raises :class:`FormatError` if it is missing or damaged, or holds a type that no ``.metaq`` file can hold.
    """
    found = []
    with open_safetensors(file) as opened:
        names = opened.keys()
        for name in names:
            described = opened.get_slice(name)
            label = described.get_dtype()
            if label not in DTYPES:
                raise FormatError(f"{file}: {name!r} is of type {label}, which no .metaq file can hold; convert it.")
            shape = tuple(described.get_shape())
            found.append(StoredTensor(name=name, dtype=DTYPES[label], shape=shape, place=file))
    return found


def header_checksum(file: Path) -> str:
    """SHA-256 of the header of a safetensors file, which tells that its tensors are still the same ones.

    Raises :class:`FormatError` if a name occurs twice, of which the library would take the last.
    """

    def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise FormatError(f"{file}: the name {name!r} occurs twice in its header; make the file again.")
            found[name] = value
        return found

    raw = b""
    with suppress(OSError, ValueError, RecursionError), file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        raw = stream.read(min(length, MAX_HEADER_BYTES))
        json.loads(raw, object_pairs_hook=distinct)
    return sha256(raw).hexdigest()


def stamp_of(path: Path) -> list[object]:
    """Name, size and time of change of a file, which tell that it is still the same."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _storage(tensor: Any, dtype: Dtype) -> Elements:
    """Elements of a torch tensor as the library gives it; nothing is copied."""
    torch = import_module("torch")
    elements: Elements = tensor.reshape(-1).view(torch.uint8).numpy().view(dtype.storage)
    return elements
