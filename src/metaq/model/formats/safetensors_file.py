"""Files of safetensors: a header of names, types, shapes and places, and the elements after it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors

from metaq.errors import FormatError
from metaq.model.formats.weight_file import WeightFile
from metaq.model.stored import FileRange, StoredTensor
from metaq.tensors.quantized import Dtype

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
METADATA = "__metadata__"
USUAL_METADATA = {"format": "pt"}
"""What the header says of files that libraries of PyTorch write."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file with this beginning is one of safetensors, or by its name ought to be."""
    return path.suffix == ".safetensors" or (head[LENGTH_BYTES:][:1] == b"{" and head[:2] != b"PK")


def read(path: Path, *, keep_all: bool = False) -> WeightFile:
    """Read the header alone.

    It is a state dict unless its metadata say more than usual, `keep_all` asks for the same file, or some tensors are
    left out, being of types that no ``.metaq`` file can hold. Raises :class:`FormatError` if the file is missing or
    damaged, names a tensor twice, or has a type that the library does not know.
    """
    header = _header_of(path)
    described: dict[str, Any] = {}
    # The library refuses what is no JSON, and checks offsets, shapes and sizes.
    with suppress(ValueError, RecursionError):
        described = json.loads(header, object_pairs_hook=lambda pairs: _distinct(path, pairs))
    try:
        with safetensors.safe_open(path, framework="np"):
            pass
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: is not a readable safetensors file ({error}). Copy or make it again.") from error
    metadata = described.pop(METADATA, None)
    tensors, left_out = [], {}
    for name, each in described.items():
        if each["dtype"] not in DTYPES:
            left_out[name] = f"is of type {each['dtype']}"
            continue
        place = FileRange(path, LENGTH_BYTES + len(header) + each["data_offsets"][0])
        tensors.append(StoredTensor(name=name, dtype=DTYPES[each["dtype"]], shape=tuple(each["shape"]), place=place))
    is_usual = metadata in (None, {}, USUAL_METADATA) and not left_out
    return WeightFile(path=path, tensors=tuple(tensors), is_state_dict=is_usual and not keep_all, left_out=left_out)


def _header_of(path: Path) -> bytes:
    """The header of a file, as JSON."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            return stream.read(min(length, MAX_HEADER_BYTES))
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _distinct(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object no name of which occurs twice; of those the library would take the last."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise FormatError(f"{path}: the name {name!r} occurs twice in its header; make the file again.")
        found[name] = value
    return found
