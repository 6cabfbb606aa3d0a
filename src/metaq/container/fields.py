"""All of a file before its chunks as bytes; :mod:`metaq.container.header` reads its fields."""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from math import prod

from metaq.coding.header_bytes import encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.container import chunking, layout
from metaq.container.coders import CODERS
from metaq.container.contents import Entry, Metadata, UpdateFacts
from metaq.container.grids import grids_bytes
from metaq.container.header import with_places
from metaq.errors import ConfigError
from metaq.tensors.coverage import Described
from metaq.tensors.grid import BucketGrid

INTEGER_BITS = 62


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """Size of the payload of a chunk, and its CRC-32."""

    size_bytes: int
    checksum: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All of a file but its chunks.

    Bases and entries are in the order of the file, tensors by their names; where their payloads are is not looked at.
    `inline` are the elements of the tensors that stand in the header, in their order. For metadata, coder and
    chunk_bits see :func:`metaq.container.write`.
    """

    bases: tuple[Entry, ...]
    entries: tuple[Entry, ...]
    inline: tuple[bytes, ...]
    metadata: Metadata
    coder: str
    chunk_bits: int
    update: UpdateFacts | None = None

    def plans(self) -> list[chunking.Plan]:
        """What every chunk holds, in the order of the file."""
        return chunking.plan_chunks([*self.bases, *self.entries], self.chunk_bits)

    def head(self, chunks: Sequence[StoredChunk]) -> bytes:
        """All that stands before the chunks; raises :class:`ConfigError` if the format cannot hold it."""
        check_elements(entry.shape for entry in (*self.bases, *self.entries))
        fields = self.fields([chunk.size_bytes for chunk in chunks])
        if len(fields) > layout.MAX_HEADER_BYTES:
            raise ConfigError(f"metadata and names take more than {layout.MAX_HEADER_BYTES} bytes; shorten them.")
        stored = encode_varint(len(fields)) + encode_header_bytes(fields)
        head = layout.MAGIC + bytes([layout.VERSION])
        if self.update is not None:
            head = layout.UPDATE_MAGIC + bytes([layout.VERSION]) + self.update.base + self.update.result
        head += encode_varint(len(stored)) + stored
        if len(chunks) > 1:
            head += b"".join(packed_checksum(chunk.checksum) for chunk in chunks)
            head += packed_checksum(zlib.crc32(head))
        return head

    def fields(self, chunk_sizes: Sequence[int]) -> bytes:
        """The header as docs/format.md has it, before it is coded; the chunks have these sizes in bytes."""
        names = [utf8(entry.name) for entry in self.entries]
        return b"".join(
            [
                encode_varint(len(self.entries)) + encode_varint(len(self.metadata)),
                b"" if self.update is None else _removed_bytes(self.update.removed),
                bytes([CODERS[self.coder].identifier << layout.CHUNK_BITS_WIDTH | self.chunk_bits]),
                *(_name_bytes(name, previous) for name, previous in zip(names, [b"", *names], strict=False)),
                *(_shape_bytes(entry) for entry in self.entries),
                self._storage_bytes(),
                *(encode_varint(size) for size in chunk_sizes),
                _metadata_bytes(self.metadata),
            ]
        )

    def _storage_bytes(self) -> bytes:
        grids = _Grids()
        left = iter(self.inline)
        out = bytearray()
        for entry in self.entries:
            if entry.grid is None:
                is_difference = entry.relation == "added"
                way = layout.EXACT_DIFFERENCE if is_difference else layout.EXACT_NAMES.index(entry.coder)
                out.append(layout.EXACT | way << layout.KIND_BITS)
                out += next(left) if way == layout.EXACT_INLINE else b""
                out += encode_varint(entry.tied_to) if entry.tied_to is not None else b""
                continue
            kind, number = grids.refer_to(entry.grid)
            columns = layout.COLUMNS_FLAG if entry.scan == "columns" else 0
            trellis = layout.TRELLIS_CODES.index(entry.trellis_bits) << layout.TRELLIS_SHIFT
            own = layout.OWN_CODER_FLAG if entry.coder != self.coder else 0
            more = 0 if entry.basis is None else entry.basis + 1
            more = layout.relations(is_update=self.update is not None) * more + layout.RELATIONS.index(entry.relation)
            more = (layout.SCALES_FLAG + 1) * more + (layout.SCALES_FLAG if entry.scales is not None else 0)
            out.append(kind | columns | trellis | own | (layout.MORE_FLAG if more else 0))
            out += (encode_varint(CODERS[entry.coder].identifier) if own else b"") + number
            out += encode_varint(more - 1) if more else b""
        scales = b"".join(entry.scales.raw for entry in self.entries if entry.scales is not None)
        sizes = b"".join(encode_varint(basis.shape[0]) for basis in self.bases)
        every = grids.new + [basis.grid for basis in self.bases if basis.grid is not None]
        return bytes(out) + sizes + grids_bytes(every) + scales

    def placed(self, chunks: Sequence[StoredChunk]) -> list[Entry]:
        """The bases and the tensors with their coded bytes."""
        return with_places([*self.bases, *self.entries], self.plans(), [chunk.size_bytes for chunk in chunks], 0)


def packed_checksum(value: int) -> bytes:
    """A CRC-32 as it stands in a file."""
    return struct.pack("<I", value)


def check_tensors(ordered: Sequence[Described]) -> None:
    """Raise :class:`ConfigError` where tensors in the order of their names are too many, or have names or dimensions
    that a file cannot hold.
    """
    for tensor, following in pairwise(ordered):
        if tensor.name == following.name:
            raise ConfigError(f"{tensor.name}: two tensors have this name; give each its own.")
    for tensor in ordered:
        if len(tensor.shape) > layout.MAX_DIMENSIONS:
            raise ConfigError(f"{tensor.name}: {len(tensor.shape)} dimensions are more than {layout.MAX_DIMENSIONS}.")
    if len(ordered) > layout.MAX_TENSORS or sum(len(utf8(tensor.name)) for tensor in ordered) > layout.MAX_NAME_BYTES:
        raise ConfigError(
            f"tensors: more than {layout.MAX_TENSORS}, or {layout.MAX_NAME_BYTES} bytes of names; "
            "split the model into several files."
        )


def check_elements(shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise :class:`ConfigError` where tensors and bases of these shapes have too many elements for a file."""
    if sum(map(prod, shapes)) > layout.MAX_ELEMENTS:
        raise ConfigError(f"tensors: more than {layout.MAX_ELEMENTS} elements; split the model into several files.")


def utf8(text: str) -> bytes:
    """`text` in UTF-8; raises :class:`ConfigError` if that is not possible."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text!r}: a name or a text holds half a surrogate pair; use proper Unicode.") from error


def _name_bytes(name: bytes, previous: bytes) -> bytes:
    ending = max((number for number, end in enumerate(layout.ENDINGS) if name.endswith(end)), default=0)
    stem = name[: len(name) - len(layout.ENDINGS[ending])]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(stem, previous, strict=False)))
    middle = stem[shared:]
    return encode_varint(shared) + encode_varint(len(middle) << layout.ENDING_BITS | ending) + middle


def _shape_bytes(entry: Entry) -> bytes:
    number = len(entry.shape)
    many = number >= layout.MANY_DIMENSIONS
    first = entry.dtype.value | min(number, layout.MANY_DIMENSIONS) << layout.DTYPE_BITS
    more = encode_varint(number) if many else b""
    return bytes([first]) + more + b"".join(encode_varint(size) for size in entry.shape)


class _Grids:
    """Grids referred to so far."""

    def __init__(self) -> None:
        self.new: list[BucketGrid] = []
        self._numbers: dict[bytes, int] = {}
        self._last = b""

    def refer_to(self, grid: BucketGrid) -> tuple[int, bytes]:
        """How a tensor on `grid` is stored, and the bytes that name an earlier grid."""
        # Bits, not values: 0.0 and -0.0 are equal but must both come back as they were.
        key = struct.pack(">ddI", grid.center, grid.radius, grid.count)
        last, self._last = self._last, key
        if key == last:
            return layout.SAME_GRID, b""
        if key in self._numbers:
            return layout.EARLIER_GRID, encode_varint(self._numbers[key])
        self._numbers[key] = len(self.new)
        self.new.append(grid)
        return layout.NEW_GRID, b""


def _removed_bytes(numbers: Sequence[int]) -> bytes:
    gaps = (number - previous - 1 for previous, number in pairwise((-1, *numbers)))
    return encode_varint(len(numbers)) + b"".join(map(encode_varint, gaps))


def _metadata_bytes(metadata: Metadata) -> bytes:
    out = bytearray()
    for key, value in sorted((utf8(key), value) for key, value in metadata.items()):
        out += encode_varint(len(key)) + key + _value_bytes(key.decode(), value)
    return bytes(out)


def _value_bytes(key: str, value: object) -> bytes:
    if isinstance(value, str):
        text = utf8(value)
        return bytes([layout.METADATA_STRING]) + encode_varint(len(text)) + text
    if isinstance(value, float):
        return bytes([layout.METADATA_FLOAT]) + struct.pack("<d", value)
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << INTEGER_BITS) <= value < 1 << INTEGER_BITS:
        folded = 2 * value if value >= 0 else -2 * value - 1
        return bytes([layout.METADATA_INTEGER]) + encode_varint(folded)
    raise ConfigError(f"metadata: {key}: {value!r} is not a string, a float or an integer of at most 63 bits.")
