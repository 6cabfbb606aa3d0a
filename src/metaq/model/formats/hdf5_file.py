"""HDF5 files, such as Keras writes: ``.weights.h5``, ``.h5``, and ``.keras``, a zip archive with one of them in it."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from struct import pack

from metaq.container.carried import BESIDE
from metaq.errors import FormatError
from metaq.model.formats.hdf5_objects import (
    ATTRIBUTE,
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    NOWHERE,
    SIGNATURE,
    Messages,
    contents,
)
from metaq.model.formats.places import check_places
from metaq.model.formats.torch_walk import size_text
from metaq.model.formats.weight_file import NOT_WEIGHTS, Checksum, WeightFile, Zeroed
from metaq.model.formats.zip_records import is_zip, records
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

IN_KERAS = "model.weights.h5"
"""The record of a ``.keras`` file that holds the weights."""

INTEGER, FLOAT, OPAQUE = 0, 1, 5
COMPACT, CONTIGUOUS, CHUNKED = 0, 1, 2
LAYOUT_VERSIONS = (3, 4, 5)
NULL = 2

OPTIMIZERS = ("optimizer", "optimizer_weights")
"""Groups at the top of a file with the variables of an optimizer."""

STATISTICS = "running statistics of batch normalisation"
MOVING = re.compile(r"moving_(?:mean|variance)(?::0)?")
NUMBERED = re.compile(r"(?:.*/)?vars/[0-9]{1,9}")
"""A variable of a layer in a file of Keras 3."""

BATCH_NORMALIZATION = re.compile(r"(?:.*/)?(?:sync_)?batch_normalization(?:_[0-9]+)?/vars/[0-9]+")


def _integer(size: int, *, is_signed: bool) -> bytes:
    return pack("<4BLHH", INTEGER, 8 * is_signed, 0, 0, size, 0, 8 * size)


def _float(size: int, exponent_bits: int) -> bytes:
    # Fields of the sign, exponent and mantissa, whose first bit is implied.
    mantissa_bits = 8 * size - 1 - exponent_bits
    head = pack("<4BL", FLOAT, 0x20, 8 * size - 1, 0, size)
    bias = (1 << (exponent_bits - 1)) - 1
    return head + pack("<HH4BL", 0, 8 * size, mantissa_bits, exponent_bits, 0, mantissa_bits, bias)


DTYPES = {
    _float(2, 5): Dtype.float16,
    _float(2, 8): Dtype.bfloat16,
    _float(4, 8): Dtype.float32,
    _float(8, 11): Dtype.float64,
    _integer(1, is_signed=True): Dtype.int8,
    _integer(2, is_signed=True): Dtype.int16,
    _integer(4, is_signed=True): Dtype.int32,
    _integer(8, is_signed=True): Dtype.int64,
    _integer(1, is_signed=False): Dtype.uint8,
    _integer(2, is_signed=False): Dtype.uint16,
    _integer(4, is_signed=False): Dtype.uint32,
    _integer(8, is_signed=False): Dtype.uint64,
}
"""Types by their descriptions, without the version of these."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file with this beginning is an HDF5 or ``.keras`` file, or by its name ought to be."""
    if not is_zip(head):
        return head.startswith(SIGNATURE) or path.suffix == ".h5"
    if path.suffix == ".keras":
        return True
    try:
        return IN_KERAS in records(path)
    except FormatError:
        return False


def read(path: Path, *, keep_all: bool = False) -> WeightFile:
    """The datasets of numbers by their paths in the file; those under several names are tied.

    Running statistics have a reason. So have variables of an optimizer if `keep_all` asks for them. Else they are no
    tensors, and zeros come back for them, but single numbers stay in the file, such as the learning rate. Nothing
    outside of the file is read. Raises :class:`FormatError` if the file cannot be read, is damaged, or is written in a
    way that Keras does not.
    """
    start, checksums = 0, tuple[Checksum, ...]()
    try:
        with path.open("rb") as stream:
            if is_zip(stream.read(4)):
                start, size, checksums = _in_archive(path)
            else:
                size = stream.seek(0, io.SEEK_END)
            found = contents(path, stream, start, size)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    tensors: dict[str, StoredTensor] = {}
    left_out = dict.fromkeys(found.links, "is a link")
    for name, messages in found.datasets.items():
        tensor = _tensor(path, start, name, messages)
        if isinstance(tensor, str):
            left_out[name] = tensor
        else:
            tensors[name] = tensor
    check_places(path, tensors.values(), start + size)
    state = {name: tensor for name, tensor in tensors.items() if _top(name) in OPTIMIZERS}
    weights = {name: tensor for name, tensor in tensors.items() if name not in state}
    reasons = dict.fromkeys(_running_statistics(weights.values()), STATISTICS)
    beside = {name: BESIDE + name for name in state} if keep_all else {}
    taken = [*weights.values(), *(replace(state[name], name=other) for name, other in beside.items())]
    ties = {name: first for name, first in found.ties.items() if first in weights}
    ties |= {BESIDE + name: beside[first] for name, first in found.ties.items() if first in beside}
    return WeightFile(
        path=path,
        tensors=tuple(taken),
        ties=ties,
        reasons={**reasons, **dict.fromkeys(beside.values(), NOT_WEIGHTS)},
        checksums={path: checksums} if checksums else {},
        left_out=left_out,
        zeroed=() if keep_all else _zeroed(state),
    )


def _top(name: str) -> str:
    """The group at the top of the file that a dataset is in."""
    return name.partition("/")[0]


def _zeroed(state: Mapping[str, StoredTensor]) -> tuple[Zeroed, ...]:
    """Variables of optimizers, but single numbers, as what is left out."""
    places: dict[str, list[tuple[int, int]]] = {}
    for name, tensor in state.items():
        if tensor.shape and isinstance(tensor.place, FileRange):
            start = tensor.place.start
            places.setdefault(_top(name), []).append((start, start + tensor.size_bytes))
    return tuple(
        Zeroed(
            name=top,
            reason=f"optimizer state, {size_text(sum(stop - start for start, stop in ranges))}; zeros come back",
            ranges=tuple(sorted(ranges)),
        )
        for top, ranges in places.items()
    )


def _in_archive(path: Path) -> tuple[int, int, tuple[Checksum, ...]]:
    """Where the weights in a ``.keras`` file start, their size, and the checksums."""
    record = records(path).get(IN_KERAS)
    if record is None:
        raise FormatError(f"{path}: holds no {IN_KERAS}, as files of Keras do; save the model again.")
    if not record.is_stored:
        raise FormatError(f'{path}: its weights are compressed; save them by model.save_weights("model.weights.h5").')
    return record.start, record.size, record.checksums


def _tensor(path: Path, start: int, name: str, messages: Messages) -> StoredTensor | str:
    """The dataset, or why its elements do not lie in the file as they are."""
    layout = messages[LAYOUT][0]
    version, kind = layout[:2] if len(layout) > 1 else (0, 0)
    if version not in LAYOUT_VERSIONS:
        return "is of an old layout"
    if kind == CHUNKED:
        return "is compressed" if FILTERS in messages else "is in chunks"
    if kind == COMPACT:
        return "is compact"
    if kind != CONTIGUOUS or EXTERNAL in messages:
        return "is in other places"
    dtype = _dtype(messages)
    if dtype is None:
        return "is of another type than little-endian numbers"
    shape = _shape(messages.get(DATASPACE, [b""])[0])
    address, size = int.from_bytes(layout[2:10], "little"), int.from_bytes(layout[10:18], "little")
    if address == NOWHERE or shape is None or not prod(shape):
        return "has no elements"
    if size != prod(shape) * dtype.itemsize:
        raise FormatError(f"{path}: the size of {name!r} is not that of its elements; make the file again.")
    return StoredTensor(name=name, dtype=dtype, shape=shape, place=FileRange(path, start + address))


def _dtype(messages: Messages) -> Dtype | None:
    content = messages.get(DATATYPE, [b""])[0]
    described = bytes(byte & 0xF for byte in content[:1]) + content[1:20]
    if described[:1] == bytes([OPAQUE]) and described[4:8] == b"\x02\0\0\0":
        # Keras marks these by an attribute that no others have.
        names = [each[9 if each[:1] == b"\x03" else 8 :] for each in messages.get(ATTRIBUTE, [])]
        return Dtype.bfloat16 if any(each.startswith(b"dtype\0") for each in names) else None
    return DTYPES.get(described) or DTYPES.get(described[:12])


def _shape(dataspace: bytes) -> tuple[int, ...] | None:
    if len(dataspace) < 4 or dataspace[0] not in (1, 2) or (dataspace[0] == 2 and dataspace[3] == NULL):
        return None
    at = 8 if dataspace[0] == 1 else 4
    lengths = dataspace[at : at + 8 * dataspace[1]]
    if len(lengths) != 8 * dataspace[1]:
        return None
    return tuple(int.from_bytes(lengths[i : i + 8], "little") for i in range(0, len(lengths), 8))


def _running_statistics(tensors: Iterable[StoredTensor]) -> list[str]:
    """Names of the moving means and variances of batch normalisation in a file of Keras.

    Versions 1 and 2 name them so. Version 3 numbers the variables of each layer, those that are not trained last: four
    vectors of the same length, or fewer in a layer called so, have the statistics for the last two.
    """
    found = []
    layers: dict[str, list[StoredTensor]] = {}
    for tensor in tensors:
        parent, _, last = tensor.name.rpartition("/")
        if MOVING.fullmatch(last):
            found.append(tensor.name)
        elif NUMBERED.fullmatch(tensor.name):
            layers.setdefault(parent, []).append(tensor)
    for variables in layers.values():
        are_alike = len({variable.shape for variable in variables}) == 1 and len(variables[0].shape) == 1
        is_called_so = BATCH_NORMALIZATION.fullmatch(variables[0].name) and len(variables) > 1
        if are_alike and (is_called_so or len(variables) == 4):
            found += sorted((variable.name for variable in variables), key=_number)[-2:]
    return found


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])
