"""The header of a safetensors file, checked before anything of its size is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from math import prod
from pathlib import Path

from metaq.errors import FormatError
from metaq.model.stored import StoredTensor
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
MAX_DIMENSION = 1 << 48
METADATA = "__metadata__"


def read_header(path: Path) -> tuple[list[StoredTensor], str]:
    """Tensors of a safetensors file in the order of their bytes, and a checksum of its header.

    Raises
    ------
    FormatError
        If the file is missing, empty, cut off, or not what safetensors allows.
    """
    raw, size_bytes = _header_bytes(path)
    start = LENGTH_BYTES + len(raw)
    tensors = [_tensor(path, name, described, start) for name, described in _entries(path, raw).items()]
    tensors.sort(key=lambda tensor: (tensor.offset_bytes, tensor.size_bytes))
    position = start
    for tensor in tensors:
        if tensor.offset_bytes != position:
            raise _damaged(path, f"the bytes of {tensor.name!r} do not follow those of the tensor before")
        position += tensor.size_bytes
    if position != size_bytes:
        raise _damaged(path, f"it has {size_bytes:,} bytes where its header promises {position:,}")
    return tensors, sha256(raw).hexdigest()


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """The JSON text, and the size of the whole file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(LENGTH_BYTES)
            length = int.from_bytes(head, "little")
            if len(head) < LENGTH_BYTES or length > MAX_HEADER_BYTES:
                size_bytes = path.stat().st_size
                reason = f"a header of {length:,} bytes is not possible" if size_bytes else "it is empty"
                raise _damaged(path, reason)
            raw = stream.read(length)
            size_bytes = path.stat().st_size
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; check the path.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if len(raw) < length:
        raise _damaged(path, "it ends within its header")
    return raw, size_bytes


def _entries(path: Path, raw: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _damaged(path, "a name occurs twice in its header")
        return found

    try:
        entries = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid JSON ({error})") from error
    if not isinstance(entries, dict):
        raise _damaged(path, "its header is not a JSON object")
    return {name: described for name, described in entries.items() if name != METADATA}


def _tensor(path: Path, name: str, described: object, start: int) -> StoredTensor:
    if not isinstance(described, Mapping):
        raise _damaged(path, f"{name!r} is not described")
    label = described.get("dtype")
    shape, offsets = _sizes(described.get("shape")), _sizes(described.get("data_offsets"))
    if not isinstance(label, str) or label not in DTYPES:
        raise FormatError(f"{path}: {name!r} is of type {label}, which no .metaq file can hold; convert it first.")
    if shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(path, f"the shape or the place of {name!r} is not valid")
    first, last = offsets
    tensor = StoredTensor(name=name, dtype=DTYPES[label], shape=shape, file=path, offset_bytes=start + first)
    if last - first != prod(shape) * tensor.dtype.itemsize:
        raise _damaged(path, f"{name!r} has {last - first} bytes, which do not fit its type and shape")
    return tensor


def _sizes(numbers: object) -> tuple[int, ...] | None:
    """A list of sizes, or None if it is none."""
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < MAX_DIMENSION for n in numbers):
        return None
    return tuple(numbers)


def _damaged(path: Path, reason: str) -> FormatError:
    return FormatError(f"{path}: is not a readable safetensors file: {reason}. Copy or make it again.")
