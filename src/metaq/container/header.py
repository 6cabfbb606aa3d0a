"""The header: what tensors a file holds, checked before anything of their size is made."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from metaq.coding import CODERS_BY_IDENTIFIER
from metaq.container import layout
from metaq.container.contents import Entry, Metadata
from metaq.container.cursor import Cursor
from metaq.errors import ConfigError
from metaq.grid import BucketGrid
from metaq.tensors import Dtype

NEWER = "it may come from a newer metaq: upgrade; otherwise get the file again."


@dataclass(frozen=True, kw_only=True)
class Header:
    """Entries with the offsets of their payloads, and the metadata."""

    entries: tuple[Entry, ...]
    metadata: Metadata


class _Grids:
    """Grids met so far, and the one met last."""

    def __init__(self) -> None:
        self._met: list[BucketGrid] = []
        self._last: BucketGrid | None = None

    def read(self, cursor: Cursor, storage: int) -> BucketGrid:
        """The grid of a tensor that is stored in the way `storage`."""
        if storage == layout.NEW_GRID:
            grid = self._new(cursor)
            self._met.append(grid)
        elif storage == layout.SAME_GRID:
            if self._last is None:
                cursor.refuse("a tensor has the same grid as the one before, but there is none")
            grid = self._last
        else:
            number = cursor.varint()
            if number >= len(self._met):
                cursor.refuse(f"grid {number} is needed but there are {len(self._met)} so far")
            grid = self._met[number]
        self._last = grid
        return grid

    def _new(self, cursor: Cursor) -> BucketGrid:
        same_count, codes = divmod(cursor.byte(), layout.SAME_COUNT)
        center_code, radius_code = divmod(codes, layout.FLOAT_CODES)
        if center_code >= layout.FLOAT_CODES or (same_count and not self._met):
            cursor.refuse("a grid is described in an unknown way", advice=NEWER)
        count = self._met[-1].count if same_count else cursor.varint()
        center, radius = _float(cursor, center_code), _float(cursor, radius_code)
        try:
            return BucketGrid(center=center, radius=radius, count=count)
        except ConfigError as error:
            cursor.refuse(f"a grid is not valid ({error})")


def parse(cursor: Cursor, *, payload_start: int, payload_bytes: int, is_newer: bool) -> Header:
    """Read a header to its end.

    Parameters
    ----------
    cursor
        At the start of the header; its data end with the header.
    payload_start, payload_bytes
        Where the payloads start in the file, and how large they are in all.
    is_newer
        Whether a newer minor version wrote the file; what follows the metadata is then passed over.

    Raises
    ------
    FormatError
        If anything is not as docs/format.md says.
    """
    tensor_count, metadata_count = cursor.varint(), cursor.varint()
    entries = _entries(cursor, tensor_count, payload_start)
    metadata = _metadata(cursor, metadata_count)
    if cursor.left and not is_newer:
        cursor.refuse(f"{cursor.left} bytes are left over")
    if sum(entry.coded_bytes for entry in entries) != payload_bytes:
        cursor.refuse(f"the tensors' sizes do not add up to the {payload_bytes} bytes of payload")
    return Header(entries=entries, metadata=metadata)


def _entries(cursor: Cursor, number: int, offset: int) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    grids = _Grids()
    previous = b""
    elements = 0
    for _ in range(number):
        name = _name(cursor, previous)
        if entries and name <= previous:
            cursor.refuse(f"the name {name!r} occurs twice or is out of order")
        entry = _entry(cursor, cursor.text(name), grids, offset)
        elements += entry.count
        if elements > layout.MAX_ELEMENTS:
            cursor.refuse(f"the tensors have more than {layout.MAX_ELEMENTS} elements")
        entries.append(entry)
        previous = name
        offset += entry.coded_bytes
    return tuple(entries)


def _entry(cursor: Cursor, name: str, grids: _Grids, offset: int) -> Entry:
    dtype, shape = _dtype_and_shape(cursor)
    identifier, storage = divmod(cursor.varint(), 1 << layout.STORAGE_BITS)
    if storage == layout.EXACT:
        if identifier >= len(layout.EXACT_NAMES):
            cursor.refuse(f"{name!r} is stored in the unknown way {identifier}", advice=NEWER)
        coder, grid = layout.EXACT_NAMES[identifier], None
    else:
        if identifier not in CODERS_BY_IDENTIFIER:
            cursor.refuse(f"{name!r} needs the unknown coder {identifier}", advice=NEWER)
        coder, grid = CODERS_BY_IDENTIFIER[identifier].name, grids.read(cursor, storage)
        if not dtype.is_quantizable or not layout.grid_fits(grid, dtype):
            cursor.refuse(f"the grid of {name!r} does not fit {dtype.name}")
    return Entry(
        name=name, shape=shape, dtype=dtype, coder=coder, grid=grid, coded_bytes=cursor.varint(), offset_bytes=offset
    )


def _name(cursor: Cursor, previous: bytes) -> bytes:
    shared = cursor.varint()
    if shared > len(previous):
        cursor.refuse(f"a name shares {shared} bytes with one of {len(previous)}")
    middle_bytes, ending = divmod(cursor.varint(), 1 << layout.ENDING_BITS)
    if ending >= len(layout.ENDINGS):
        cursor.refuse(f"a name has the unknown ending {ending}", advice=NEWER)
    return previous[:shared] + cursor.take(middle_bytes) + layout.ENDINGS[ending]


def _dtype_and_shape(cursor: Cursor) -> tuple[Dtype, tuple[int, ...]]:
    dimensions, number = divmod(cursor.byte(), 1 << layout.DTYPE_BITS)
    try:
        dtype = Dtype(number)
    except ValueError:
        cursor.refuse(f"the element type {number} is unknown", advice=NEWER)
    if dimensions == layout.MANY_DIMENSIONS:
        dimensions = cursor.varint()
    if dimensions > layout.MAX_DIMENSIONS:
        cursor.refuse(f"{dimensions} dimensions are more than {layout.MAX_DIMENSIONS}")
    shape = tuple(cursor.varint() for _ in range(dimensions))
    # Sizes beside a zero would multiply to nothing but still be too large for numpy.
    if math.prod(max(size, 1) for size in shape) > layout.MAX_ELEMENTS:
        cursor.refuse(f"a tensor of shape {shape} has more than {layout.MAX_ELEMENTS} elements")
    return dtype, shape


def _float(cursor: Cursor, code: int) -> float:
    value: float
    if code == layout.FLOAT16_CODE:
        (value,) = struct.unpack(">e", cursor.take(2))
    elif code == layout.FLOAT32_CODE:
        (value,) = struct.unpack(">f", cursor.take(4))
    else:
        (value,) = struct.unpack(">d", cursor.take(code).ljust(layout.FLOAT64_BYTES, b"\0"))
    return value


def _metadata(cursor: Cursor, number: int) -> Metadata:
    metadata: dict[str, str | int | float] = {}
    previous = b""
    for _ in range(number):
        key = cursor.take(cursor.varint())
        if metadata and key <= previous:
            cursor.refuse(f"the metadata key {key!r} occurs twice or is out of order")
        metadata[cursor.text(key)] = _value(cursor)
        previous = key
    return metadata


def _value(cursor: Cursor) -> str | int | float:
    kind = cursor.byte()
    if kind == layout.METADATA_STRING:
        return cursor.text(cursor.take(cursor.varint()))
    if kind == layout.METADATA_INTEGER:
        folded = cursor.varint()
        return -(folded + 1 >> 1) if folded & 1 else folded >> 1
    if kind != layout.METADATA_FLOAT:
        cursor.refuse(f"metadata of the unknown kind {kind}", advice=NEWER)
    value: float
    (value,) = struct.unpack("<d", cursor.take(8))
    return value
