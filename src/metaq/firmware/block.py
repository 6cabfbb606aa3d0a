"""How much memory the decoder in C needs for a file, and which of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metaq.coding.chunks import StreamShape
from metaq.coding.context.small import deep_slots
from metaq.coding.planes.elements import element_shape
from metaq.coding.planes.form import Way, read_form
from metaq.coding.varint import decode_varint
from metaq.config import require
from metaq.container import Chunk, Contents, Entry
from metaq.container.layout import PREAMBLE_BYTES

SMALL, FAST = 1, 2
"""Numbers of the coders of a chunk in planes."""

MOST_SYMBOLS = 32767
"""Largest alphabet that the decoder has with small tables."""

SPARE = 8
"""Of so many slots in use, one more is there, so that free ones are found soon."""

WIDE_SLOTS, WIDE_DIGIT_SLOTS = 2 + 48 + 96 + 576, 8
"""Of the wide recipe, for every length of a symbol."""

POWERS, MIXING, EXPERTS = 193 * 8, 6 * 17 * 8 * 4, 2 * (24 + 576) * 8
"""Bytes of the tables of logistic functions, and of mixing weights and experts of the deep recipe."""

FAST_TABLES = 4096 * 4 + 4097 * 2 + 4096 * 2
BLOCKS = 1024
"""The coder fast has so many blocks of symbols at most where an encoder of this project has made the file."""

WINDOW = 64
"""Places behind those that are looked back to."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Bytes of the structures of ``metaq.c``, compiled for small memory, by the bytes of a pointer.

    The decoder is smaller without the coder fast and without planes.
    """

    word: int
    tensor: int
    basis: int
    chunk: int
    decoder: int
    plain_decoder: int
    small: int
    block: int


MACHINES = (
    Machine(word=4, tensor=88, basis=112, chunk=28, decoder=456, plain_decoder=336, small=1424, block=12),
    Machine(word=8, tensor=112, basis=136, chunk=48, decoder=592, plain_decoder=400, small=1560, block=24),
)
"""32 and 64 bits."""

SCRATCH, GRID, SLOT = 64 * 4, 24, 8


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a file needs of the decoder.

    Attributes
    ----------
    block_bytes
        Size of its block by the bytes of a pointer.
    slots
        Slots of the coder small that are in use at most.
    left_out
        Macros of the parts that it can do without.
    packed
        Chunks that it cannot read, as they hold Zstandard frames.
    """

    block_bytes: dict[int, int]
    slots: int
    left_out: tuple[str, ...]
    packed: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class _Coded:
    """Streams that a coder decodes at once: its name, and for ``small`` the slots in use, None of the wide recipe."""

    coder: str
    shapes: tuple[StreamShape, ...]
    slots: int | None = None
    elements_bytes: int = 0  # of exact tensors, which are there as a whole
    transposed_bytes: int = 0


def needs_of(data: bytes, contents: Contents) -> Needs:
    """What the bytes of a file need; raises :class:`metaq.errors.ConfigError` for what the small decoder lacks."""
    found = [_coded(data, contents, chunk) for chunk in contents.chunks]
    coded = [each for each in found if each is not None]
    entries = contents.parts
    coders = {each.coder for each in coded}
    left_out = {
        "METAQ_NO_BASIS": not contents.bases,
        "METAQ_NO_TRELLIS": not any(entry.trellis_bits for entry in entries),
        "METAQ_NO_FAST": "fast" not in coders,
        "METAQ_NO_PLANES": not any(each.elements_bytes for each in coded),
    }
    is_plain = left_out["METAQ_NO_FAST"] and left_out["METAQ_NO_PLANES"]
    return Needs(
        block_bytes={
            each.word: _opened(data, contents, each)
            + max((_decoded(part, each, is_plain=is_plain) for part in coded), default=0)
            for each in MACHINES
        },
        slots=max((_slots(each) for each in coded if each.coder == "small"), default=0),
        left_out=tuple(name for name, is_free in left_out.items() if is_free),
        packed=frozenset(number for number, each in enumerate(found) if each is None),
    )


def _coded(data: bytes, contents: Contents, chunk: Chunk) -> _Coded | None:
    """What a chunk holds; None if that are Zstandard frames, which the decoder has no function for."""
    payload = data[chunk.offset_bytes : chunk.offset_bytes + chunk.size_bytes]
    if chunk.coder == "zstd":
        return None
    shapes = tuple(piece.shape for piece in chunk.pieces)
    if chunk.coder == "planes":
        return _planes(payload, contents, chunk)
    if chunk.coder in ("small", "fast"):
        most = max(chunk.pieces, key=lambda piece: piece.shape.alphabet_size)
        _require_alphabet(contents.parts[most.tensor], most.shape)
    return _Coded(coder=chunk.coder, shapes=shapes, slots=_counted(chunk.coder, payload, shapes))


def _planes(payload: bytes, contents: Contents, chunk: Chunk) -> _Coded | None:
    """A chunk of exact tensors, which is decoded as a whole."""
    position, elements, transposed = 1, 0, 0
    streams: list[StreamShape] = []
    bodies = 0
    for piece in chunk.pieces:
        entry = contents.parts[piece.tensor]
        shape = element_shape(entry.dtype, entry.shape, piece.shape.count, piece.shape.row_length)
        form, position = read_form(payload, position, shape)
        if form.way is Way.zstd:
            return None
        elements += shape.count * shape.itemsize
        bodies += form.body_bytes(shape)
        streams += form.streams(shape)
        transposed = max(transposed, shape.count * shape.itemsize if form.by_columns else 0)
        for stream in form.streams(shape):
            _require_alphabet(entry, stream)
    coder = {SMALL: "small", FAST: "fast"}.get(payload[0], "constant")
    slots = _counted(coder, payload[position + bodies :], streams)
    return _Coded(
        coder=coder,
        shapes=tuple(streams),
        slots=slots,
        elements_bytes=_rounded(elements),
        transposed_bytes=_rounded(transposed),
    )


def _require_alphabet(entry: Entry, shape: StreamShape) -> None:
    require(
        shape.alphabet_size <= MOST_SYMBOLS,
        f"{entry.name}: is coded with an alphabet of {shape.alphabet_size:,}, where the decoder for small "
        f"memory has up to {MOST_SYMBOLS:,}; compress the model with coarser grids.",
    )


def _counted(coder: str, payload: bytes, shapes: Sequence[StreamShape]) -> int | None:
    return deep_slots(payload, shapes) if coder == "small" else None


def _slots(coded: _Coded) -> int:
    """Slots in use at most; of the wide recipe all that there are."""
    if coded.slots is not None:
        return coded.slots
    digits = (max(shape.alphabet_size for shape in coded.shapes) - 1).bit_length() or 1
    return (WIDE_SLOTS + WIDE_DIGIT_SLOTS) * (digits + 1) + 1


def _opened(data: bytes, contents: Contents, machine: Machine) -> int:
    """Bytes of the block that are in use as long as the file is open."""
    entries, bases = contents.entries, contents.bases
    grids = len({entry.grid for entry in entries if entry.grid is not None})
    numerators = sum(entry.count * (2 if _is_narrow(entry) else 4) for entry in bases)
    widest = max((entry.shape[0] for entry in bases), default=0)
    parts = [
        SCRATCH,
        _header_bytes(data),
        # A table that is there while the header is unpacked is smaller than what a chunk needs.
        len(entries) * machine.tensor,
        *(len(entry.name.encode()) + 1 for entry in entries),
        *(len(entry.shape) * machine.word for entry in entries),
        len(bases) * (machine.basis + 2 * machine.word),
        (grids + len(bases)) * GRID,
        len(contents.chunks) * machine.chunk,
        *(numerators, 4 * widest, 2 * widest),
    ]
    return max(sum(map(_rounded, parts)), SCRATCH + _rounded(_header_bytes(data)) + POWERS)


def _decoded(coded: _Coded, machine: Machine, *, is_plain: bool) -> int:
    """Bytes of the block that are in use beside them while a chunk is decoded."""
    parts = [machine.plain_decoder if is_plain else machine.decoder, coded.elements_bytes]
    if coded.coder == "small":
        parts += _small(coded, machine)
    elif coded.coder == "fast":
        total = sum(shape.count for shape in coded.shapes)
        parts += [FAST_TABLES, 16, min(total, BLOCKS) * machine.block, (total + 1) * 4]
    return sum(map(_rounded, parts)) + coded.transposed_bytes


def _small(coded: _Coded, machine: Machine) -> Iterable[int]:
    rows = [shape for shape in coded.shapes if shape.usable_row]
    widest = max((shape.usable_row for shape in rows), default=0)
    most_rows = max((shape.count // shape.usable_row for shape in rows), default=0)
    longest = max((shape.count for shape in coded.shapes if not shape.usable_row), default=0)
    slots = _slots(coded)
    before = max(2 * widest + 2, 258) if widest else 2
    shared = [machine.small, POWERS, 2 * (before + WINDOW), (slots + slots // SPARE + 2) * SLOT]
    if coded.slots is None:
        return [*shared, 8 * widest]
    hints = [longest // 8 + 1, most_rows // 8 + 1, most_rows // 8 + 1]
    return [*shared, *2 * (2 * (before + WINDOW),), 4 * widest, *hints, MIXING, EXPERTS]


def _is_narrow(basis: Entry) -> bool:
    return basis.grid is not None and basis.grid.count <= 1 << 15


def _header_bytes(data: bytes) -> int:
    """Bytes of the header once it is unpacked."""
    return decode_varint(data, decode_varint(data, PREAMBLE_BYTES)[1])[0]


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // 8) * 8
