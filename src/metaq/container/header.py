"""The header: what tensors a file holds, checked before anything of their size is made."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metaq.container import chunking, layout
from metaq.container.coders import name_of
from metaq.container.contents import Entry, Metadata
from metaq.container.cursor import NEWER, Cursor
from metaq.container.grids import read_grids
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, Scan, is_combination_exact


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the fields say.

    Attributes
    ----------
    entries, bases
        The tensors and the bases, not yet with the places of their chunks.
    inline
        Elements of the tensors that stand in the header, by their number among all bases and tensors.
    plans, chunk_sizes
        The chunks in order, and their sizes in bytes.
    metadata
        Free facts.
    """

    entries: tuple[Entry, ...]
    bases: tuple[Entry, ...]
    inline: dict[int, bytes]
    plans: list[chunking.Plan]
    chunk_sizes: list[int]
    metadata: Metadata


@dataclass(frozen=True, kw_only=True)
class _Storage:
    """How a tensor is stored; `grid` and `basis` are numbers, or None."""

    coder: str
    grid: int | None = None
    scan: Scan = "rows"
    trellis_bits: int = 0
    basis: int | None = None
    inline: bytes | None = None
    tied_to: int | None = None


def parse(cursor: Cursor) -> Header:
    """Read the fields of a header to their end.

    Parameters
    ----------
    cursor
        At the start of the unpacked header; its data end with the header.

    Raises
    ------
    FormatError
        If anything is not as docs/format.md says.
    """
    tensor_count, metadata_count = cursor.varint(), cursor.varint()
    if tensor_count > layout.MAX_TENSORS:
        cursor.refuse(f"{tensor_count} tensors are more than {layout.MAX_TENSORS}")
    number, chunk_bits = divmod(cursor.byte(), 1 << layout.CHUNK_BITS_WIDTH)
    coder = _coder(cursor, number)
    if chunk_bits > layout.MAX_CHUNK_BITS:
        cursor.refuse(f"chunks of 2**{chunk_bits} symbols are too large", advice=NEWER)
    names = _names(cursor, tensor_count)
    described = _dtypes_and_shapes(cursor, tensor_count)
    stored = _storages(cursor, described, coder)
    sizes = _basis_sizes(cursor, stored, sum(math.prod(shape) for _, shape in described))
    grid_count = 1 + max((item.grid for item in stored if item.grid is not None), default=-1)
    grids = read_grids(cursor, grid_count + len(sizes))
    bases = tuple(basis_entry(n, size, grids[grid_count + n], coder) for n, size in enumerate(sizes))
    entries = tuple(
        _entry(cursor, name, dtype, shape, storage, grids, bases)
        for name, (dtype, shape), storage in zip(names, described, stored, strict=True)
    )
    parts = bases + entries
    if chunking.fewest_chunks(parts, chunk_bits) > cursor.left:
        cursor.refuse("the sizes of the chunks are cut off")
    plans = chunking.plan_chunks(parts, chunk_bits)
    chunk_sizes = [cursor.varint() for _ in plans]
    metadata = _metadata(cursor, metadata_count)
    if cursor.left:
        cursor.refuse(f"{cursor.left} bytes are left over")
    inline = {number: item.inline for number, item in enumerate(stored, len(bases)) if item.inline is not None}
    return Header(entries=entries, bases=bases, inline=inline, plans=plans, chunk_sizes=chunk_sizes, metadata=metadata)


def basis_entry(number: int, size: int, grid: BucketGrid, coder: str) -> Entry:
    """A basis as a square matrix."""
    return Entry(name=f"basis {number}", shape=(size, size), dtype=Dtype.float64, coder=coder, grid=grid)


def with_places(
    entries: Sequence[Entry], plans: Sequence[chunking.Plan], sizes: Sequence[int], start: int
) -> list[Entry]:
    """`entries`, as in the plan, with the places of their chunks, the first of which starts at byte `start`."""
    coded, offsets = [0] * len(entries), [0] * len(entries)
    for (_, pieces), size in zip(plans, sizes, strict=True):
        for piece in pieces:
            coded[piece.tensor] += size if len(pieces) == 1 else 0
            offsets[piece.tensor] = offsets[piece.tensor] or start
        start += size
    return [
        replace(entry, coded_bytes=size, offset_bytes=offset)
        for entry, size, offset in zip(entries, coded, offsets, strict=True)
    ]


def _entry(
    cursor: Cursor,
    name: str,
    dtype: Dtype,
    shape: tuple[int, ...],
    storage: _Storage,
    grids: Sequence[BucketGrid],
    bases: Sequence[Entry],
) -> Entry:
    grid = None if storage.grid is None else grids[storage.grid]
    # How far combinations reach is known only once their basis is decoded.
    if grid is not None and not (dtype.is_quantizable and (storage.basis is not None or layout.grid_fits(grid, dtype))):
        cursor.refuse(f"the grid of {name!r} does not fit {dtype.name}")
    if grid is not None and not layout.trellis_fits(grid, storage.trellis_bits):
        cursor.refuse(f"{name!r} cannot have a trellis of 2**{storage.trellis_bits} states on {grid.count} buckets")
    entry = Entry(
        name=name,
        shape=shape,
        dtype=dtype,
        coder=storage.coder,
        grid=grid,
        scan=storage.scan,
        trellis_bits=storage.trellis_bits,
        basis=storage.basis,
        tied_to=storage.tied_to,
    )
    if storage.basis is not None:
        _check_basis(cursor, entry, bases[storage.basis])
    if grid is None and entry.count == 0 and storage.inline is None and storage.tied_to is None:
        cursor.refuse(f"{name!r} has no elements but a chunk")
    return entry


def _check_basis(cursor: Cursor, entry: Entry, basis: Entry) -> None:
    if entry.scan != "rows" or len(entry.shape) != 2 or entry.shape[1] != basis.shape[0]:
        cursor.refuse(f"rows of {entry.name!r} cannot be combined from a basis of {basis.shape[0]} columns")
    assert entry.grid is not None
    assert basis.grid is not None
    if not is_combination_exact(entry.grid, basis.grid, basis.shape[0]):
        cursor.refuse(f"rows of {entry.name!r} cannot be combined exactly: the grids are too fine or not symmetric")


def _basis_sizes(cursor: Cursor, stored: Sequence[_Storage], elements: int) -> list[int]:
    """Columns of every basis; `elements` are those of all tensors."""
    sizes: list[int] = []
    for _ in range(1 + max((item.basis for item in stored if item.basis is not None), default=-1)):
        size = cursor.varint()
        if not 1 <= size <= layout.MAX_BASIS_SIZE:
            cursor.refuse(f"a basis of {size} columns is not between 1 and {layout.MAX_BASIS_SIZE}")
        elements += size**2
        if elements > layout.MAX_ELEMENTS:
            cursor.refuse(f"the tensors and bases have more than {layout.MAX_ELEMENTS} elements")
        sizes.append(size)
    return sizes


def _names(cursor: Cursor, number: int) -> list[str]:
    names: list[str] = []
    previous = b""
    size_bytes = 0
    for _ in range(number):
        name = _name(cursor, previous)
        if names and name <= previous:
            cursor.refuse(f"the name {name!r} occurs twice or is out of order")
        size_bytes += len(name)
        if size_bytes > layout.MAX_NAME_BYTES:
            cursor.refuse(f"the names have more than {layout.MAX_NAME_BYTES} bytes")
        names.append(cursor.text(name))
        previous = name
    return names


def _name(cursor: Cursor, previous: bytes) -> bytes:
    shared = cursor.varint()
    if shared > len(previous):
        cursor.refuse(f"a name shares {shared} bytes with one of {len(previous)}")
    middle_bytes, ending = divmod(cursor.varint(), 1 << layout.ENDING_BITS)
    if ending >= len(layout.ENDINGS):
        cursor.refuse(f"a name has the unknown ending {ending}", advice=NEWER)
    return previous[:shared] + cursor.take(middle_bytes) + layout.ENDINGS[ending]


def _dtypes_and_shapes(cursor: Cursor, number: int) -> list[tuple[Dtype, tuple[int, ...]]]:
    described = []
    elements = 0
    for _ in range(number):
        dtype, shape = _dtype_and_shape(cursor)
        elements += math.prod(shape)
        if elements > layout.MAX_ELEMENTS:
            cursor.refuse(f"the tensors have more than {layout.MAX_ELEMENTS} elements")
        described.append((dtype, shape))
    return described


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


def _storages(cursor: Cursor, described: Sequence[tuple[Dtype, tuple[int, ...]]], coder: str) -> list[_Storage]:
    stored: list[_Storage] = []
    last, newest, newest_basis = -1, -1, -1
    for dtype, shape in described:
        storage = _storage(cursor, math.prod(shape) * dtype.itemsize, coder, last, newest, newest_basis)
        if storage.tied_to is not None:
            _check_tie(cursor, storage.tied_to, described, stored)
        if storage.grid is not None:
            last, newest = storage.grid, max(storage.grid, newest)
        if storage.basis is not None:
            newest_basis = max(storage.basis, newest_basis)
        stored.append(storage)
    return stored


def _check_tie(
    cursor: Cursor, first: int, described: Sequence[tuple[Dtype, tuple[int, ...]]], stored: Sequence[_Storage]
) -> None:
    """Refuse a tie of the tensor after those `stored` to a tensor that does not hold such elements."""
    number = len(stored)
    if first >= number:
        cursor.refuse(f"tensor {number} is tied to tensor {first}, which is not an earlier one")
    if stored[first].tied_to is not None:
        cursor.refuse(f"tensor {number} is tied to tensor {first}, which is tied itself")
    if described[first] != described[number]:
        cursor.refuse(f"tensor {number} is tied to tensor {first}, which is of another type or shape")


def _storage(cursor: Cursor, size_bytes: int, coder: str, last: int, newest: int, newest_basis: int) -> _Storage:
    """The next storage; `last`, `newest` and `newest_basis` are the numbers, or -1, of the grid used last, of the last
    new grid and of the last new basis.
    """
    byte = cursor.byte()
    kind = byte & ((1 << layout.KIND_BITS) - 1)
    if kind == layout.EXACT:
        return _exact_storage(cursor, byte >> layout.KIND_BITS, size_bytes)
    own = _coder(cursor, cursor.varint()) if byte & layout.OWN_CODER_FLAG else coder
    if kind == layout.NEW_GRID:
        grid = newest + 1
    elif kind == layout.SAME_GRID:
        grid = last
        if grid < 0:
            cursor.refuse("a tensor has the same grid as the one before, but there is none")
    else:
        grid = cursor.varint()
        if grid > newest:
            cursor.refuse(f"grid {grid} is needed but there are {newest + 1} so far")
    basis = cursor.varint() if byte & layout.BASIS_FLAG else None
    if basis is not None and basis > newest_basis + 1:
        cursor.refuse(f"basis {basis} is needed but there are {newest_basis + 1} so far")
    return _Storage(
        coder=own,
        grid=grid,
        scan="columns" if byte & layout.COLUMNS_FLAG else "rows",
        trellis_bits=layout.TRELLIS_CODES[byte >> layout.TRELLIS_SHIFT & (len(layout.TRELLIS_CODES) - 1)],
        basis=basis,
    )


def _exact_storage(cursor: Cursor, way: int, size_bytes: int) -> _Storage:
    if way >= len(layout.EXACT_NAMES):
        cursor.refuse(f"a tensor is stored in the unknown way {way}", advice=NEWER)
    if way == layout.EXACT_TIED:
        return _Storage(coder=layout.EXACT_NAMES[way], tied_to=cursor.varint())
    if way != layout.EXACT_INLINE:
        return _Storage(coder=layout.EXACT_NAMES[way])
    if size_bytes > layout.INLINE_BYTES:
        cursor.refuse(f"a tensor of {size_bytes} bytes stands in the header")
    return _Storage(coder=layout.EXACT_NAMES[way], inline=cursor.take(size_bytes))


def _coder(cursor: Cursor, identifier: int) -> str:
    name = name_of(identifier)
    if name is None:
        cursor.refuse(f"the unknown coder {identifier} is needed", advice=NEWER)
    return name


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
