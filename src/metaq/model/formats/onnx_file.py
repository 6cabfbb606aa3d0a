"""ONNX models: where the elements of their tensors lie, in the file itself or in files of external data beside it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from math import prod
from mmap import ACCESS_READ, mmap
from os import SEEK_END
from pathlib import Path, PurePosixPath

from metaq.container.carried import BESIDE, is_safe_path
from metaq.errors import FormatError
from metaq.model.formats.onnx_graph import (
    DOUBLES,
    FEWEST_CONSTANTS,
    FLOATS,
    RAW,
    Entry,
    TensorFields,
    entries_of,
)
from metaq.model.formats.onnx_operators import Kind, Use
from metaq.model.formats.places import is_inside
from metaq.model.formats.protobuf import LENGTH, VARINT, Field, Wire
from metaq.model.formats.weight_file import NOT_PLAIN, WeightFile
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

DTYPES = {
    1: Dtype.float32,
    2: Dtype.uint8,
    3: Dtype.int8,
    4: Dtype.uint16,
    5: Dtype.int16,
    6: Dtype.int32,
    7: Dtype.int64,
    9: Dtype.bool,
    10: Dtype.float16,
    11: Dtype.float64,
    12: Dtype.uint32,
    13: Dtype.uint64,
    14: Dtype.complex64,
    15: Dtype.complex128,
    16: Dtype.bfloat16,
    17: Dtype.float8_e4m3fn,
    19: Dtype.float8_e5m2,
}
"""Types by their numbers in TensorProto.DataType."""

PACKED_BITS = {18: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6}
"""Bits of an element of the types that are here taken for their bytes alone."""

PLAIN = {FLOATS: (Dtype.float32, Dtype.complex64), DOUBLES: (Dtype.float64, Dtype.complex128)}
"""Types that have their elements as they are in fields of their own."""

DECIMAL = re.compile(r"[0-9]{1,18}")

MODEL_WIRES = {1: VARINT, 2: LENGTH, 3: LENGTH, 4: LENGTH, 5: VARINT, 6: LENGTH, 7: LENGTH, 8: LENGTH, 14: LENGTH}
IR_VERSION, GRAPH = 1, 7
MOST_FIELDS_BEFORE = 1 << 10
"""Fields of a model that are looked at to recognise it."""

FEWEST_SUMMANDS = 16
"""What is added or multiplied is a weight if it has as many elements."""

QUANTIZED = "its weights are integers already: these are kept exactly"
NOT_RAW = "weights that are not raw data are kept exactly; onnx.numpy_helper.from_array makes tensors of raw data"


LEAST_UNUSED_BYTES, LEAST_UNUSED = 4096, 0.1
"""Bytes of a file of external data, and share of it, that belong to no tensor and are worth a sentence."""


def recognises(path: Path) -> bool:
    """Whether a file is an ONNX model by its content; or by the name too, if it is cut short.

    Raises :class:`FormatError` if it is missing, empty or cannot be read.
    """
    seen = set()
    with _opened(path) as wire:
        try:
            for field in islice(wire.fields(0, wire.size_bytes), MOST_FIELDS_BEFORE):
                if MODEL_WIRES.get(field.number, field.wire) != field.wire:
                    return False
                seen.add(field.number)
                if seen >= {IR_VERSION, GRAPH}:
                    return True
        except FormatError:
            pass
    return IR_VERSION in seen and path.suffix.lower() == ".onnx"


def read(path: Path, *, keep_all: bool = False) -> WeightFile:
    """Read everything about a model but the elements of its tensors; the rest of it is kept whatever `keep_all` says.

    Raises :class:`FormatError` if the file is damaged, or refers to external data that are missing, too short or not in
    its folder.
    """
    del keep_all
    with _opened(path) as wire:
        entries = entries_of(wire)
    data = _ExternalData(path)
    names = _Names()
    tensors: dict[FileRange, StoredTensor] = {}
    uses: dict[str, Use] = {}
    ties, left_out = {}, {}
    kept: list[StoredTensor] = []
    are_integers = False
    # The main graph comes first, so that its tensors keep their names.
    for entry in sorted(entries, key=lambda entry: entry.path != ""):
        name = names.distinct(entry)
        layout, place = _layout(path, name, entry.tensor), None
        if entry.tensor.external is not None:
            place = data.place(name, entry.tensor.external, layout)
        elif layout is not None:
            place = _place(path, name, entry.tensor, layout)
            is_integer = _is_quantized(layout, entry.value.use)
            if place is None and (is_integer or (layout.dtype.is_quantizable and layout.count >= FEWEST_CONSTANTS)):
                left_out[name] = NOT_PLAIN
                are_integers |= is_integer
                if entry.tensor.storage is not None:
                    kept.append(_as_bytes(path, BESIDE + name, entry.tensor.storage))
        if layout is None or place is None or not entry.name:
            continue
        tensor = StoredTensor(name=name, dtype=layout.dtype, shape=layout.shape, place=place)
        first = tensors.setdefault(place, tensor)
        if first is not tensor:
            if (first.dtype, first.size_bytes) != (tensor.dtype, tensor.size_bytes):
                raise _overlap(path, first, tensor)
            ties[name] = first.name
        uses[first.name] = min(entry.value.use, uses.get(first.name, entry.value.use), key=lambda use: use.kind)
    _check_overlaps(path, tensors)
    reasons = {each.name: reason for each in tensors.values() if (reason := _reason(each, uses[each.name]))}
    are_integers |= any(_is_quantized(each, uses[each.name]) for each in tensors.values())
    return WeightFile(
        path=path,
        tensors=(*tensors.values(), *kept),
        ties=ties,
        reasons={**reasons, **{each.name: NOT_PLAIN for each in kept}},
        data_files=data.files,
        left_out=left_out,
        notes=(*((QUANTIZED,) if are_integers else (NOT_RAW,) if left_out else ()), *data.notes()),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Wire]:
    try:
        with path.open("rb") as stream:
            if not stream.seek(0, SEEK_END):
                raise FormatError(f"{path}: is empty; it was probably never written to the end. Make it again.")
            with mmap(stream.fileno(), 0, access=ACCESS_READ) as mapped:
                yield Wire(mapped, path)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error


class _Names:
    """Gives every tensor a name that no other has."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def distinct(self, entry: Entry) -> str:
        """Its own name, else with the path of its graph, else with that and a number."""
        name = entry.name if entry.name not in self._taken else entry.path + entry.name
        known = name
        while name in self._taken:
            self._numbers[known] += 1
            name = f"{known}.{self._numbers[known] + 1}"
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class _Layout:
    """What the elements of a tensor are taken for."""

    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.count * self.dtype.itemsize


class _ExternalData:
    """The files beside a model that tensors of it are in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes: dict[Path, int] = {}
        self._held: dict[Path, set[tuple[int, int]]] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that were asked for."""
        return tuple(self._sizes)

    def notes(self) -> Iterator[str]:
        """Sentences about files much of which belongs to no tensor, as they grow whenever a model is saved again."""
        for file, size_bytes in self._sizes.items():
            unused = size_bytes - sum(length for _, length in self._held.get(file, ()))
            if file in self._held and unused > max(LEAST_UNUSED_BYTES, LEAST_UNUSED * size_bytes):
                yield (
                    f"{unused:,} of {size_bytes:,} bytes of {file.name} belong to no tensor and are kept as they are; "
                    "save the model with a new file of external data"
                )

    def place(self, name: str, external: Mapping[str, str], layout: _Layout | None) -> FileRange | None:
        """Where the elements of a tensor are; None if it has none, or they are of an unknown type."""
        file = self._file(name, external.get("location", ""))
        if layout is None:
            # How much of the file that takes is not known.
            self._held.setdefault(file, set()).add((0, self._sizes[file]))
            return None
        offset, length = external.get("offset", "0"), external.get("length", str(layout.size_bytes))
        if DECIMAL.fullmatch(offset) is None or length != str(layout.size_bytes):
            raise FormatError(
                f"{self._path}: {name!r} takes {layout.size_bytes} bytes, but is said to have {length!r} "
                f"from {offset!r} on in {file.name}; export the model again."
            )
        if int(offset) + layout.size_bytes > self._sizes[file]:
            raise FormatError(f"{file}: ends before {name!r} of {self._path.name} does; copy or make both again.")
        self._held.setdefault(file, set()).add((int(offset), layout.size_bytes))
        return FileRange(file, int(offset))

    def _file(self, name: str, location: str) -> Path:
        """The file that a tensor is said to be in: it is there, and in the folder of the model."""
        plain = PurePosixPath(location).as_posix()
        file = self._path.parent / plain
        if file in self._sizes:
            return file
        if not is_safe_path(plain) or plain == self._path.name:
            raise FormatError(
                f"{self._path}: {name!r} is said to be in {location!r}, which is no safe path in its folder; "
                "export the model again."
            )
        try:
            if not file.is_file():
                raise FormatError(f"{file}: is missing; copy it beside {self._path.name}, which has tensors in it.")
            if not is_inside(file, self._path.parent):
                raise FormatError(f"{file}: is a link out of its folder; put the file itself there.")
            self._sizes[file] = file.stat().st_size
        except OSError as error:
            raise FormatError(f"{file}: cannot be read ({error.strerror or error}).") from error
        return file


def _layout(path: Path, name: str, tensor: TensorFields) -> _Layout | None:
    """How the elements of a tensor lie; None if it has none, or they are of an unknown type."""
    if min(tensor.dims, default=0) < 0:
        raise FormatError(f"{path}: is damaged: {name!r} has the shape {list(tensor.dims)}; copy or make it again.")
    count = prod(tensor.dims)
    if count and tensor.data_type in DTYPES:
        return _Layout(DTYPES[tensor.data_type], tensor.dims)
    if count and tensor.data_type in PACKED_BITS:
        return _Layout(Dtype.uint8, (-(-count * PACKED_BITS[tensor.data_type] // 8),))
    return None


def _place(path: Path, name: str, tensor: TensorFields, layout: _Layout) -> FileRange | None:
    """Where the elements of a tensor lie in the model itself; None if they do not lie there as they are."""
    found = tensor.storage
    if found is None or (found.number != RAW and layout.dtype not in PLAIN.get(found.number, ())):
        return None
    if found.stop - found.start != layout.size_bytes:
        raise FormatError(
            f"{path}: is damaged: {name!r} of {layout.size_bytes} bytes has {found.stop - found.start}; "
            "copy or make it again."
        )
    return FileRange(path, found.start)


def _as_bytes(path: Path, name: str, storage: Field) -> StoredTensor:
    """The bytes of a tensor that do not lie in the model as its elements, so that they count as a part of it."""
    shape = (storage.stop - storage.start,)
    return StoredTensor(name=name, dtype=Dtype.uint8, shape=shape, place=FileRange(path, storage.start))


def _check_overlaps(path: Path, tensors: Mapping[FileRange, StoredTensor]) -> None:
    ordered = sorted(tensors, key=lambda place: (place.path, place.start))
    for place, after in pairwise(ordered):
        if place.path == after.path and place.start + tensors[place].size_bytes > after.start:
            raise _overlap(path, tensors[place], tensors[after])


def _overlap(path: Path, first: StoredTensor, second: StoredTensor) -> FormatError:
    return FormatError(
        f"{path}: {first.name!r} and {second.name!r} share a part of their bytes; export the model again."
    )


def _reason(tensor: StoredTensor, use: Use) -> str | None:
    """Why a tensor must stay as it is; None if it is a weight, or its type is reason enough."""
    is_summand = use.kind is Kind.SUMMAND and len(tensor.shape) > 0 and tensor.count >= FEWEST_SUMMANDS
    return None if use.kind is Kind.WEIGHT or is_summand or not tensor.dtype.is_quantizable else use.reason


def _is_quantized(tensor: StoredTensor | _Layout, use: Use) -> bool:
    is_packed = tensor.dtype in (Dtype.int8, Dtype.uint8) and tensor.count >= FEWEST_CONSTANTS
    return is_packed and use.kind is Kind.WEIGHT
