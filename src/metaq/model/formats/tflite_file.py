"""Models of TensorFlow Lite (LiteRT): constant tensors in the buffers of a flatbuffer, or after it.

After the schema of TensorFlow Lite, version 3, and "FlatBuffers: Internals". Scales of quantised tensors are in the
tables, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from io import SEEK_END
from math import prod
from pathlib import Path
from struct import iter_unpack
from typing import IO

from metaq.errors import FormatError
from metaq.model.formats.places import check_places
from metaq.model.formats.weight_file import WeightFile
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

IDENTIFIER = b"TFL3"

MODEL_SUBGRAPHS, MODEL_BUFFERS = 2, 4
SUBGRAPH_TENSORS = 0
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, TENSOR_SPARSITY = 0, 1, 2, 3, 6
BUFFER_DATA, BUFFER_OFFSET, BUFFER_SIZE = 0, 1, 2
"""Fields of tables by their numbers in the schema."""

TYPES = (
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
)
"""Names of the types by their numbers in the schema."""

MOST_FIELDS = 7
"""Of a table, the first ones, beyond which nothing is needed here."""

MOST_DIMENSIONS = 32
MOST_READS = 4
SPARE_BYTES = 1 << 20
MOST_STRUCTURE_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class _Constant:
    """A tensor with elements, as the tables describe it."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Dtype | None:
        """The type of the elements, if there is one like it."""
        return Dtype.__members__.get(self.type)

    def fills(self, size: int) -> bool:
        """Whether the elements take `size` bytes."""
        return (
            self.dtype is not None
            and min(self.shape, default=0) >= 0
            and prod(self.shape) * self.dtype.itemsize == size
        )


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file with this beginning is a model of TensorFlow Lite, or by its name ought to be."""
    return head[4:8] == IDENTIFIER or path.suffix == ".tflite"


def read(path: Path) -> WeightFile:
    """The constant tensors of all subgraphs; those of the same elements are tied.

    A name that occurs again is followed by the numbers of the subgraph and the tensor. Raises :class:`FormatError` if
    the file cannot be read or is damaged.
    """
    try:
        with path.open("rb") as stream:
            file = _Flatbuffer(path, stream)
            if file.read(4, 4) != IDENTIFIER:
                raise file.damaged("its identifier is missing")
            found = _constants(file)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    tensors: list[StoredTensor] = []
    ties: dict[str, str] = {}
    reasons: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for (start, size), constants in found.items():
        first, *others = sorted(constants, key=lambda constant: not constant.fills(size))
        if first.dtype is None or not first.fills(size):
            reason = f"is of type {first.type}" if first.dtype is None else "is of another size than its shape"
            left_out |= {each.name: reason for each in constants}
            continue
        place = FileRange(path, start)
        tensors.append(StoredTensor(name=first.name, dtype=first.dtype, shape=first.shape, place=place))
        for other in others:
            if (other.dtype, other.shape) == (first.dtype, first.shape):
                ties[other.name] = first.name
            else:
                left_out[other.name] = f"has the elements of {first.name!r} in another shape or type"
            if other.dtype != first.dtype:
                reasons[first.name] = "has elements that are of another type too"
    check_places(path, tensors, file.size)
    return WeightFile(path=path, tensors=tuple(tensors), ties=ties, reasons=reasons, left_out=left_out)


def _constants(file: _Flatbuffer) -> dict[tuple[int, int], list[_Constant]]:
    """Tensors with elements, by the place of these and their size in bytes."""
    found: dict[tuple[int, int], list[_Constant]] = {}
    names: set[str] = set()
    model = _Table(file, file.target(0))
    buffers = model.targets(MODEL_BUFFERS)
    for number, subgraph in enumerate(model.targets(MODEL_SUBGRAPHS)):
        for index, at in enumerate(_Table(file, subgraph).targets(SUBGRAPH_TENSORS)):
            tensor = _Table(file, at)
            buffer = tensor.number(TENSOR_BUFFER, 4)
            if buffer >= len(buffers):
                raise file.damaged(f"there is no buffer {buffer}")
            place = _place(_Table(file, buffers[buffer]))
            if not place[1]:
                continue
            constant = _constant(tensor, place[1], names, f"#{number}.{index}")
            names.add(constant.name)
            found.setdefault(place, []).append(constant)
    return found


def _place(buffer: _Table) -> tuple[int, int]:
    """Where the elements of a buffer are, and their size in bytes; those of large models are after the flatbuffer."""
    offset = buffer.number(BUFFER_OFFSET, 8)
    if offset > 1:
        return offset, buffer.number(BUFFER_SIZE, 8)
    return buffer.vector(BUFFER_DATA)


def _constant(tensor: _Table, size: int, names: Container[str], suffix: str) -> _Constant:
    start, count = tensor.vector(TENSOR_NAME)
    name = tensor.file.read(start, count).decode(errors="replace")
    if not name or name in names:
        name += suffix
    if name in names:
        raise tensor.file.damaged(f"the name {name!r} occurs twice")
    number = tensor.number(TENSOR_TYPE, 1)
    kind = TYPES[number] if number < len(TYPES) else f"number {number}"
    start, count = tensor.vector(TENSOR_SHAPE)
    if count > MOST_DIMENSIONS:
        raise tensor.file.damaged(f"{name!r} has {count} dimensions")
    shape = tuple(length for (length,) in iter_unpack("<i", tensor.file.read(start, 4 * count)))
    if tensor.places[TENSOR_SPARSITY] and kind in Dtype.__members__:
        # Elements that are zero are missing, and the tables have the places of the others.
        shape = (size // Dtype[kind].itemsize,)
    return _Constant(name=name, type=kind, shape=shape)


class _Flatbuffer:
    """Bytes of a flatbuffer, which are read piece by piece.

    Tables may have parts in common, but to read far more than there is in the file is an error.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream
        self.size = stream.seek(0, SEEK_END)
        self._left = MOST_READS * self.size + SPARE_BYTES

    def read(self, at: int, size: int) -> bytes:
        """The `size` bytes from `at` on."""
        self._left -= size
        if at < 0 or at + size > self.size or size > MOST_STRUCTURE_BYTES:
            raise self.damaged("it is cut off")
        if self._left < 0:
            raise self.damaged("its tables overlap")
        self._stream.seek(at)
        found = self._stream.read(size)
        if len(found) != size:
            raise self.damaged("it is cut off")
        return found

    def number(self, at: int, size: int, *, is_signed: bool = False) -> int:
        """The number of `size` bytes at `at`."""
        return int.from_bytes(self.read(at, size), "little", signed=is_signed)

    def target(self, at: int) -> int:
        """What the offset at `at` leads to."""
        return at + self.number(at, 4)

    def damaged(self, reason: str) -> FormatError:
        """The error of a file that is damaged."""
        return FormatError(f"{self._path}: is a damaged TensorFlow Lite model: {reason}; copy or make it again.")


class _Table:
    """A table of a flatbuffer: the `places` of its fields, which are 0 for those with default values."""

    def __init__(self, file: _Flatbuffer, at: int) -> None:
        self.file = file
        described = at - file.number(at, 4, is_signed=True)
        size = min(max(file.number(described, 2), 4), 4 + 2 * MOST_FIELDS)
        offsets = iter_unpack("<H", file.read(described + 4, (size - 4) // 2 * 2))
        found = [at + offset if offset else 0 for (offset,) in offsets]
        self.places = found + [0] * (MOST_FIELDS - len(found))

    def number(self, field: int, size: int) -> int:
        """The number of `size` bytes in a field; 0 if it is not there."""
        return self.file.number(self.places[field], size) if self.places[field] else 0

    def vector(self, field: int) -> tuple[int, int]:
        """Where the elements of a vector or string are, and how many; none if it is not there."""
        if not self.places[field]:
            return 0, 0
        start = self.file.target(self.places[field])
        return start + 4, self.file.number(start, 4)

    def targets(self, field: int) -> list[int]:
        """Where the tables of a vector are."""
        start, count = self.vector(field)
        offsets = iter_unpack("<L", self.file.read(start, 4 * count))
        return [start + 4 * i + offset for i, (offset,) in enumerate(offsets)]
