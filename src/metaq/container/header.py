"""The header: what tensors a file holds, checked before anything of their size is made."""

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
from metaq.tensors.scales import Scales, has_scales, scales_of


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the fields say: tensors and bases not yet with the places of their chunks, elements of the tensors that
    stand in the header by their number among all bases and tensors, and the chunks in order with their sizes in bytes.
    """

    entries: tuple[Entry, ...]
    bases: tuple[Entry, ...]
    inline: dict[int, bytes]
    plans: list[chunking.Plan]
    chunk_sizes: list[int]
    metadata: Metadata
    removed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A tensor of whose grid nothing but the number is known yet, nor of its scales but whether there are any, and its
    elements if they stand in the header.
    """

    entry: Entry
    grid: int | None = None
    inline: bytes | None = None
    is_scaled: bool = False


def parse(cursor: Cursor, *, is_update: bool = False) -> Header:
    """Read the fields of a header, of an update or another file, which ends with the data of the cursor.

    Raises :class:`FormatError` if anything is not as docs/format.md says.
    """
    tensor_count, metadata_count = cursor.varint(), cursor.varint()
    if tensor_count > layout.MAX_TENSORS:
        cursor.refuse(f"{tensor_count} tensors are more than {layout.MAX_TENSORS}")
    removed = _removed(cursor) if is_update else ()
    number, chunk_bits = divmod(cursor.byte(), 1 << layout.CHUNK_BITS_WIDTH)
    coder = _coder(cursor, number)
    if chunk_bits > layout.MAX_CHUNK_BITS:
        cursor.refuse(f"chunks of 2**{chunk_bits} symbols are too large", advice=NEWER)
    names = _names(cursor, tensor_count)
    described = _described(cursor, names, coder)
    stored = _storages(cursor, described, is_update=is_update)
    sizes = _basis_sizes(cursor, stored)
    grid_count = 1 + max((item.grid for item in stored if item.grid is not None), default=-1)
    grids = read_grids(cursor, grid_count + len(sizes))
    bases = tuple(basis_entry(n, size, grids[grid_count + n], coder) for n, size in enumerate(sizes))
    entries = tuple(_checked(cursor, item, grids, bases, _scales(cursor, item)) for item in stored)
    parts = bases + entries
    if chunking.fewest_chunks(parts, chunk_bits) > cursor.left:
        cursor.refuse("the sizes of the chunks are cut off")
    plans = chunking.plan_chunks(parts, chunk_bits)
    chunk_sizes = [cursor.varint() for _ in plans]
    metadata = _metadata(cursor, metadata_count)
    if cursor.left:
        cursor.refuse(f"{cursor.left} bytes are left over")
    inline = {number: item.inline for number, item in enumerate(stored, len(bases)) if item.inline is not None}
    return Header(
        entries=entries,
        bases=bases,
        inline=inline,
        plans=plans,
        chunk_sizes=chunk_sizes,
        metadata=metadata,
        removed=removed,
    )


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


def _scales(cursor: Cursor, stored: _Stored) -> Scales | None:
    if not stored.is_scaled:
        return None
    shape = stored.entry.shape
    if not has_scales(shape):
        cursor.refuse(f"{stored.entry.name!r} of shape {shape} cannot have scales of rows and columns")
    return scales_of(cursor.take(shape[0] + shape[1]), shape[0])


def _checked(
    cursor: Cursor, stored: _Stored, grids: Sequence[BucketGrid], bases: Sequence[Entry], scales: Scales | None
) -> Entry:
    """The entry with its grid and scales, once these and the basis are known to go together."""
    entry = stored.entry
    if stored.grid is None:
        if entry.count == 0 and stored.inline is None and entry.tied_to is None:
            cursor.refuse(f"{entry.name!r} has no elements but a chunk")
        return entry
    grid = grids[stored.grid]
    # How far combinations reach is known only once their basis is decoded.
    if not (entry.dtype.is_quantizable and (entry.basis is not None or layout.grid_fits(grid, entry.dtype, scales))):
        cursor.refuse(f"the grid of {entry.name!r} does not fit {entry.dtype.name}")
    if entry.relation == "added" and grid.center != 0:
        cursor.refuse(f"what is added to {entry.name!r} of the base has a grid around {grid.center}")
    if not layout.trellis_fits(grid, entry.trellis_bits):
        cursor.refuse(f"{entry.name!r} cannot have a trellis of 2**{entry.trellis_bits} states on {grid.count} buckets")
    entry = replace(entry, grid=grid, scales=scales)
    if entry.basis is not None:
        _check_basis(cursor, entry, bases[entry.basis])
    return entry


def _check_basis(cursor: Cursor, entry: Entry, basis: Entry) -> None:
    if entry.scan != "rows" or len(entry.shape) != 2 or entry.shape[1] != basis.shape[0]:
        cursor.refuse(f"rows of {entry.name!r} cannot be combined from a basis of {basis.shape[0]} columns")
    assert entry.grid is not None
    assert basis.grid is not None
    if not is_combination_exact(entry.grid, basis.grid, basis.shape[0]):
        cursor.refuse(f"rows of {entry.name!r} cannot be combined exactly: the grids are too fine or not symmetric")


def _basis_sizes(cursor: Cursor, stored: Sequence[_Stored]) -> list[int]:
    """Columns of every basis."""
    sizes: list[int] = []
    elements = sum(item.entry.count for item in stored)
    for _ in range(1 + max((item.entry.basis for item in stored if item.entry.basis is not None), default=-1)):
        size = cursor.varint()
        if not 1 <= size <= layout.MAX_BASIS_SIZE:
            cursor.refuse(f"a basis of {size} columns is not between 1 and {layout.MAX_BASIS_SIZE}")
        elements += size**2
        if elements > layout.MAX_ELEMENTS:
            cursor.refuse(f"the tensors and bases have more than {layout.MAX_ELEMENTS} elements")
        sizes.append(size)
    return sizes


def _removed(cursor: Cursor) -> tuple[int, ...]:
    """Numbers of tensors of the base that an update takes away, as gaps between them."""
    number = cursor.varint()
    if number > layout.MAX_TENSORS:
        cursor.refuse(f"{number} removed tensors are more than {layout.MAX_TENSORS}")
    found, place = [], -1
    for _ in range(number):
        place += 1 + cursor.varint()
        if place >= layout.MAX_TENSORS:
            cursor.refuse(f"tensor {place} of the base is removed, which cannot be there")
        found.append(place)
    return tuple(found)


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


def _described(cursor: Cursor, names: Sequence[str], coder: str) -> list[Entry]:
    """Entries with types and shapes, and the usual coder."""
    described: list[Entry] = []
    elements = 0
    for name in names:
        dtype, shape = _dtype_and_shape(cursor)
        described.append(Entry(name=name, shape=shape, dtype=dtype, coder=coder, grid=None))
        elements += described[-1].count
        if elements > layout.MAX_ELEMENTS:
            cursor.refuse(f"the tensors have more than {layout.MAX_ELEMENTS} elements")
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


def _storages(cursor: Cursor, described: Sequence[Entry], *, is_update: bool) -> list[_Stored]:
    stored: list[_Stored] = []
    last, newest, newest_basis = -1, -1, -1
    for entry in described:
        item = _storage(cursor, entry, last, newest, newest_basis, is_update=is_update)
        if item.entry.tied_to is not None:
            _check_tie(cursor, item.entry.tied_to, described, stored)
        if item.grid is not None:
            last, newest = item.grid, max(item.grid, newest)
        if item.entry.basis is not None:
            newest_basis = max(item.entry.basis, newest_basis)
        stored.append(item)
    return stored


def _check_tie(cursor: Cursor, first: int, described: Sequence[Entry], stored: Sequence[_Stored]) -> None:
    """Refuse a tie of the tensor after those `stored` to a tensor that does not hold such elements."""
    number = len(stored)
    if first >= number:
        cursor.refuse(f"tensor {number} is tied to tensor {first}, which is not an earlier one")
    if stored[first].entry.tied_to is not None:
        cursor.refuse(f"tensor {number} is tied to tensor {first}, which is tied itself")
    if (described[first].dtype, described[first].shape) != (described[number].dtype, described[number].shape):
        cursor.refuse(f"tensor {number} is tied to tensor {first}, which is of another type or shape")


def _storage(cursor: Cursor, entry: Entry, last: int, newest: int, newest_basis: int, *, is_update: bool) -> _Stored:
    """How `entry` is stored; `last`, `newest` and `newest_basis` are the numbers, or -1, of the grid used last, of
    the last new grid and of the last new basis.
    """
    byte = cursor.byte()
    kind = byte & ((1 << layout.KIND_BITS) - 1)
    if kind == layout.EXACT:
        return _exact_storage(cursor, byte >> layout.KIND_BITS, entry, is_update=is_update)
    own = _coder(cursor, cursor.varint()) if byte & layout.OWN_CODER_FLAG else entry.coder
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
    more = cursor.varint() + 1 if byte & layout.MORE_FLAG else 0
    more, scaled = divmod(more, layout.SCALES_FLAG + 1)
    more, relation = divmod(more, layout.relations(is_update=is_update))
    basis = more - 1 if more else None
    if basis is not None and basis > newest_basis + 1:
        cursor.refuse(f"basis {basis} is needed but there are {newest_basis + 1} so far")
    trellis = layout.TRELLIS_CODES[byte >> layout.TRELLIS_SHIFT & (len(layout.TRELLIS_CODES) - 1)]
    scan: Scan = "columns" if byte & layout.COLUMNS_FLAG else "rows"
    entry = replace(entry, coder=own, scan=scan, trellis_bits=trellis, basis=basis, relation=layout.RELATIONS[relation])
    if entry.relation == "given" and basis is not None:
        cursor.refuse(f"{entry.name!r} has a basis, so that no base tells its bucket indices")
    return _Stored(entry=entry, grid=grid, is_scaled=bool(scaled))


def _exact_storage(cursor: Cursor, way: int, entry: Entry, *, is_update: bool) -> _Stored:
    if is_update and way == layout.EXACT_DIFFERENCE:
        if not layout.has_differences(entry.dtype):
            cursor.refuse(f"elements of {entry.name!r}, of {entry.dtype.name}, have no differences")
        return _Stored(entry=replace(entry, coder=layout.PLANES, relation="added"))
    if way >= len(layout.EXACT_NAMES):
        cursor.refuse(f"a tensor is stored in the unknown way {way}", advice=NEWER)
    entry = replace(entry, coder=layout.EXACT_NAMES[way])
    if way == layout.EXACT_TIED:
        return _Stored(entry=replace(entry, tied_to=cursor.varint()))
    if way != layout.EXACT_INLINE:
        return _Stored(entry=entry)
    if entry.restored_bytes > layout.INLINE_BYTES:
        cursor.refuse(f"a tensor of {entry.restored_bytes} bytes stands in the header")
    return _Stored(entry=entry, inline=cursor.take(entry.restored_bytes))


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
