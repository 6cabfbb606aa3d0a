"""Tensors to bytes. The same tensors give the same bytes, whatever order they come in."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np

from metaq.coding import coder_named, encode_smallest, zero_order_entropy_bits
from metaq.coding.generic import ZstdCoder
from metaq.coding.varint import encode_varint
from metaq.container import layout
from metaq.container.contents import Metadata, TensorReport, WriteReport
from metaq.errors import CodecError, ConfigError
from metaq.files import write_bytes
from metaq.grid import BucketGrid
from metaq.tensors import ExactTensor, QuantizedTensor, Tensor

INTEGER_BITS = 62


@dataclass(frozen=True, kw_only=True)
class _Stored:
    identifier: int
    payload: bytes
    report: TensorReport


def write(
    path: str | os.PathLike[str], tensors: Sequence[Tensor], *, metadata: Metadata | None = None, coder: str = "auto"
) -> WriteReport:
    """Write a ``.metaq`` file atomically: a reader sees the old file or the new one.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    tensors
        Tensors with different names, in any order.
    metadata
        Small free facts to keep in the file.
    coder
        Name of a coder for the bucket indices, or ``"auto"`` for the smallest of all for each tensor.

    Returns
    -------
    WriteReport
        Bytes of the file and where they went.

    Raises
    ------
    ConfigError
        If a name, a tensor or the metadata cannot be held by the format, or there is no such coder.
    CodecError
        If the named coder cannot hold a tensor.
    OutputError
        If the file cannot be written.
    """
    data, report = _build(tensors, {} if metadata is None else metadata, coder)
    write_bytes(path, data)
    return report


def encode(tensors: Sequence[Tensor], *, metadata: Metadata | None = None, coder: str = "auto") -> bytes:
    """Bytes of the file that :func:`write` would make; arguments and errors as there."""
    return _build(tensors, {} if metadata is None else metadata, coder)[0]


def _build(tensors: Sequence[Tensor], metadata: Metadata, coder: str) -> tuple[bytes, WriteReport]:
    names = None if coder == "auto" else (coder_named(coder).name,)
    ordered = sorted(((_utf8(tensor.name), tensor) for tensor in tensors), key=lambda pair: pair[0])
    for (name, tensor), (following, _) in pairwise(ordered):
        if name == following:
            raise ConfigError(f"{tensor.name}: two tensors have this name; give each its own.")
    if sum(int(np.prod(tensor.shape, dtype=object)) for tensor in tensors) > layout.MAX_ELEMENTS:
        raise ConfigError(f"tensors: more than {layout.MAX_ELEMENTS} elements; split the model into several files.")
    stored = [_store(tensor, names) for _, tensor in ordered]
    header = _header(ordered, stored, metadata)
    body = _preamble(header) + b"".join(item.payload for item in stored)
    data = body + struct.pack("<I", zlib.crc32(body))
    reports = tuple(item.report for item in stored)
    header_bytes = len(data) - sum(report.coded_bytes for report in reports)
    return data, WriteReport(file_bytes=len(data), header_bytes=header_bytes, tensors=reports)


def _preamble(header: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    packed = deflate.compress(header) + deflate.flush()
    plain = encode_varint(len(header)) + header
    deflated = encode_varint(len(packed)) + encode_varint(len(header)) + packed
    is_worthwhile = len(header) > layout.PLAIN_HEADER_BYTES and len(deflated) < len(plain)
    flags = layout.FLAG_DEFLATED_HEADER if is_worthwhile else 0
    versions = bytes([layout.MAJOR_VERSION, layout.MINOR_VERSION, flags])
    return layout.MAGIC + versions + (deflated if flags else plain)


def _store(tensor: Tensor, names: Sequence[str] | None) -> _Stored:
    if len(tensor.shape) > layout.MAX_DIMENSIONS:
        raise ConfigError(f"{tensor.name}: {len(tensor.shape)} dimensions are more than {layout.MAX_DIMENSIONS}.")
    if isinstance(tensor, ExactTensor):
        return _store_exact(tensor)
    return _store_quantized(tensor, names)


def _store_quantized(tensor: QuantizedTensor, names: Sequence[str] | None) -> _Stored:
    if not layout.grid_fits(tensor.grid, tensor.dtype):
        raise ConfigError(f"{tensor.name}: its buckets reach beyond the largest {tensor.dtype.name}; use a wider type.")
    symbols = np.ascontiguousarray(tensor.indices).reshape(-1)
    try:
        coder, coded = encode_smallest(
            symbols, tensor.grid.count, row_length=layout.row_length(tensor.shape), names=names
        )
    except CodecError as error:
        raise CodecError(f"{tensor.name}: {error}") from error
    report = TensorReport(
        name=tensor.name,
        coder=coder.name,
        coded_bytes=len(coded.payload),
        table_bytes=coded.table_bytes,
        ideal_bits=zero_order_entropy_bits(symbols),
    )
    return _Stored(identifier=coder.identifier, payload=coded.payload, report=report)


def _store_exact(tensor: ExactTensor) -> _Stored:
    if tensor.values.dtype.newbyteorder("<") != tensor.dtype.storage:
        raise ConfigError(
            f"{tensor.name}: {tensor.values.dtype} values cannot stand for {tensor.dtype.name}; "
            f"give them as {tensor.dtype.storage.name}."
        )
    raw = tensor.values.astype(tensor.dtype.storage).tobytes()
    packed = ZstdCoder().compress(raw)
    identifier, payload = (layout.EXACT_ZSTD, packed) if len(packed) < len(raw) else (layout.EXACT_RAW, raw)
    report = TensorReport(
        name=tensor.name,
        coder=layout.EXACT_NAMES[identifier],
        coded_bytes=len(payload),
        table_bytes=0,
        ideal_bits=None,
    )
    return _Stored(identifier=identifier, payload=payload, report=report)


class _Grids:
    """Grids written so far, and the one written last."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._last = b""
        self._last_count = 0

    def refer_to(self, grid: BucketGrid) -> tuple[int, bytes]:
        """How a tensor on `grid` is stored, and the bytes that name the grid."""
        # Bits, not values: 0.0 and -0.0 are equal but must both come back as they were.
        key = struct.pack(">ddI", grid.center, grid.radius, grid.count)
        last, self._last = self._last, key
        if key == last:
            return layout.SAME_GRID, b""
        if key in self._numbers:
            return layout.EARLIER_GRID, encode_varint(self._numbers[key])
        coded = _grid_bytes(grid, self._last_count)
        self._numbers[key] = len(self._numbers)
        self._last_count = grid.count
        return layout.NEW_GRID, coded


def _header(ordered: Sequence[tuple[bytes, Tensor]], stored: Sequence[_Stored], metadata: Metadata) -> bytes:
    out = bytearray(encode_varint(len(ordered)) + encode_varint(len(metadata)))
    grids = _Grids()
    previous = b""
    for (name, tensor), item in zip(ordered, stored, strict=True):
        out += _name_bytes(name, previous) + _shape_bytes(tensor)
        if isinstance(tensor, QuantizedTensor):
            storage, grid = grids.refer_to(tensor.grid)
            out += encode_varint(item.identifier << layout.STORAGE_BITS | storage) + grid
        else:
            out += encode_varint(item.identifier << layout.STORAGE_BITS | layout.EXACT)
        out += encode_varint(len(item.payload))
        previous = name
    out += _metadata_bytes(metadata)
    if len(out) > layout.MAX_HEADER_BYTES:
        raise ConfigError(f"metadata and names take more than {layout.MAX_HEADER_BYTES} bytes; shorten them.")
    return bytes(out)


def _grid_bytes(grid: BucketGrid, previous_count: int) -> bytes:
    center_code, center = _float_bytes(grid.center)
    radius_code, radius = _float_bytes(grid.radius)
    same = grid.count == previous_count
    code = layout.SAME_COUNT * same + layout.FLOAT_CODES * center_code + radius_code
    return bytes([code]) + (b"" if same else encode_varint(grid.count)) + center + radius


def _float_bytes(value: float) -> tuple[int, bytes]:
    full = struct.pack(">d", value)
    cut = full.rstrip(b"\0")
    forms = [(len(cut), cut)]
    for code, letter in ((layout.FLOAT16_CODE, ">e"), (layout.FLOAT32_CODE, ">f")):
        try:
            short = struct.pack(letter, value)
        except OverflowError:
            continue
        if struct.pack(">d", *struct.unpack(letter, short)) == full:
            forms.append((code, short))
    return min(forms, key=lambda form: len(form[1]))


def _name_bytes(name: bytes, previous: bytes) -> bytes:
    ending = max((number for number, end in enumerate(layout.ENDINGS) if name.endswith(end)), default=0)
    stem = name[: len(name) - len(layout.ENDINGS[ending])]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(stem, previous, strict=False)))
    middle = stem[shared:]
    return encode_varint(shared) + encode_varint(len(middle) << layout.ENDING_BITS | ending) + middle


def _shape_bytes(tensor: Tensor) -> bytes:
    number = len(tensor.shape)
    many = number >= layout.MANY_DIMENSIONS
    first = tensor.dtype.value | min(number, layout.MANY_DIMENSIONS) << layout.DTYPE_BITS
    more = encode_varint(number) if many else b""
    return bytes([first]) + more + b"".join(encode_varint(size) for size in tensor.shape)


def _metadata_bytes(metadata: Metadata) -> bytes:
    out = bytearray()
    for key, value in sorted((_utf8(key), value) for key, value in metadata.items()):
        out += encode_varint(len(key)) + key + _value_bytes(key.decode(), value)
    return bytes(out)


def _value_bytes(key: str, value: object) -> bytes:
    if isinstance(value, str):
        text = _utf8(value)
        return bytes([layout.METADATA_STRING]) + encode_varint(len(text)) + text
    if isinstance(value, float):
        return bytes([layout.METADATA_FLOAT]) + struct.pack("<d", value)
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << INTEGER_BITS) <= value < 1 << INTEGER_BITS:
        folded = 2 * value if value >= 0 else -2 * value - 1
        return bytes([layout.METADATA_INTEGER]) + encode_varint(folded)
    raise ConfigError(f"metadata: {key}: {value!r} is not a string, a float or an integer of at most 63 bits.")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text!r}: a name or a text holds half a surrogate pair; use proper Unicode.") from error
