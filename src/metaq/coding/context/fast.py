"""The fast profile: static tables and four interleaved states, for tensors that have to be there at once.

A chunk is coded as *blocks*, each with a table of its own. What goes into a block is up to the encoder: whole streams,
the rows of a stream that are alike in scale, or the symbols that one of the two quantisers of dependent quantisation
chose. What is coded is the difference of a symbol and the central one of its alphabet, so that streams can share one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import BitReader, bit_lengths, exp_golomb, pack
from metaq.coding.chunks import StreamShape, check_range, check_shapes, checked_streams
from metaq.coding.context import fast_kernel as kernel
from metaq.coding.context.row_classes import row_classes
from metaq.coding.varint import decode_varint, encode_varint
from metaq.compiled import Bytes, Floats, Integers, Symbols
from metaq.errors import CodecError
from metaq.tensors.trellis import transitions

INT32 = np.iinfo(np.int32)

ESCAPE_FLAG, SHIFT_FLAG = 16, 32
MAX_SHIFT = 31

MANY_TOKENS = 64
"""Only streams with more different symbols than this are tried with their lowest bits left out of the table."""

WORTHLESS_BITS = 6
"""Many tokens of which none is more frequent than once in ``2**WORTHLESS_BITS`` need no trial: fewer are better."""

COARSEST = 5
"""Tables are tried whose states are at most ``2**COARSEST`` times fewer than the symbols."""

TALLY_HALF = 2048
"""Blocks are planned from counts of residuals clipped to ``[-TALLY_HALF, TALLY_HALF)``."""

MAX_JOINED = 1 << 15
"""Parts of streams that are longer have tables of their own: what sharing could save is nothing to them."""

MAX_CANDIDATES = 64
"""Blocks that a short part is tried to join; more would take longer than the bytes are worth."""

TABLE_BITS, TOKEN_BITS = 64.0, 5.0
"""What a table and each of its tokens are taken to cost while blocks are planned."""


class FastCoder:
    """Tabled asymmetric numeral systems with a table a block; see :class:`metaq.coding.chunks.ChunkCoder`."""

    name = "fast"
    identifier = 2

    def encode_chunk(self, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape]) -> bytes:
        checked = checked_streams("fast", streams, shapes)
        residuals = [stream - np.int32(shape.central) for stream, shape in zip(checked, shapes, strict=True)]
        layouts, lengths = _plan(residuals, shapes)
        if lengths.size == 1:
            whole = residuals[0] if len(residuals) == 1 else np.concatenate(residuals)
            return encode_varint(0) + _encode_block(whole)
        ends = np.cumsum(lengths)
        places = ends - lengths
        pool = np.empty(ends[-1], dtype=np.int32)
        for values, shape, layout in zip(residuals, shapes, layouts, strict=True):
            if layout.split:
                kernel.split(values, *_trellis(shape), layout.row_length, layout.blocks, places, pool)
            else:
                kernel.split_rows(values, layout.row_length, layout.blocks, places, pool)
        parts = [_encode_block(pool[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
        return _layouts_to_bytes(lengths, shapes, layouts) + b"".join(parts)

    def decode_chunk(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[Symbols]:
        layouts, blocks, pool = _read_blocks(payload, shapes)
        streams, _ = _merge(pool, blocks, shapes, layouts)
        offset = blocks[0].offset
        for symbols, shape in zip(streams, shapes, strict=True):
            if shape.central != offset:
                symbols += np.int32(shape.central - offset)
            check_range("fast", *kernel.min_and_max(symbols), shape)
        return streams

    def code_lengths(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[float]:
        """What a block takes beside its symbols, its table most of all, is shared out in proportion to them."""
        layouts, blocks, pool = _read_blocks(payload, shapes)
        _, taken = _merge(pool, blocks, shapes, layouts)
        sums = np.concatenate([[0.0], *(_symbol_bits(block, pool) for block in blocks)]).cumsum()
        width = (len(blocks) - 1).bit_length()
        found = [float((sums[end] - sums[start]).sum()) for start, end in pairwise(taken)]
        told = [_layout_fields(*each, width)[1].sum() for each in zip(shapes, layouts, strict=True)] if layouts else [0]
        return [bits + float(more) for bits, more in zip(found, cycle(told))]


# What is in which block.


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Where the symbols of a stream are: whether those of the two quantisers are in different blocks; symbols of a row,
    or of the stream if it is not divided by rows; and the block of the symbols of quantiser 0 and 1 of every row, int64
    of shape (2 * rows,), equal if not split.
    """

    split: bool
    row_length: int
    blocks: Integers


def _plan(residuals: list[Symbols], shapes: Sequence[StreamShape]) -> tuple[list[_Layout], Integers]:
    """Layouts that make the chunk small, and the number of symbols in each block."""
    trellis = any(shape.trellis_bits for shape in shapes)
    promising = [row_classes(values, shape) for values, shape in zip(residuals, shapes, strict=True)]
    if not trellis and len(shapes) == 1 and not promising[0]:
        return [], np.array([shapes[0].count])
    classed = [_classed(*each) for each in zip(residuals, shapes, promising, strict=True)]
    tallies = [counts for _, counts in classed]
    split = trellis and _split_pays(tallies, shapes)
    blocks = _Blocks()
    layouts = []
    for shape, (of_rows, counts) in zip(shapes, classed, strict=True):
        split_here = split and shape.trellis_bits > 0
        parts = counts if split_here else counts.sum(axis=1, keepdims=True)
        if len(counts) > 1 and _cost_by_rows_bits(of_rows, parts) >= _cost_bits(parts.sum(axis=0)):
            of_rows, parts = np.zeros(1, dtype=np.int64), parts.sum(axis=0, keepdims=True)
        numbers = [[blocks.place(part, quantizer) for quantizer, part in enumerate(pair)] for pair in parts]
        layouts.append(_layout(shape, of_rows.size > 1, split_here, np.array(numbers)[of_rows]))
    return layouts, np.array([counts.sum() for counts in blocks.counts])


def _layout(shape: StreamShape, by_rows: bool, split: bool, numbers: Integers) -> _Layout:
    """Layout from the blocks of every row, int64 of shape (rows, 1 or 2), -1 where a part has no symbols."""
    pairs = np.repeat(numbers, 2, axis=1) if numbers.shape[1] == 1 else numbers.copy()
    if split:
        # The two of a row have to differ even where one is never used.
        pairs[:, 0] = np.where(pairs[:, 0] < 0, pairs[:, 1] == 0, pairs[:, 0])
        pairs[:, 1] = np.where(pairs[:, 1] < 0, pairs[:, 0] == 0, pairs[:, 1])
    row_length = shape.row_length if by_rows else shape.count
    return _Layout(split=split, row_length=row_length, blocks=pairs.reshape(-1))


class _Blocks:
    """Blocks filled so far, as counts; a part joins the one whose statistics suit it if that saves its table."""

    def __init__(self) -> None:
        self.counts: list[Integers] = []
        self._quantizers: list[int] = []

    def place(self, counts: Integers, quantizer: int) -> int:
        """Number of the block for a part of one quantiser, which is in it from then on; -1 if it has no symbols."""
        size = counts.sum()
        if size == 0:
            return -1
        best, best_bits = len(self.counts), _cost_bits(counts)
        # Clipped counts at the ends say too little of what a table would cost.
        if size <= MAX_JOINED and not counts[[0, -1]].any():
            for number, block in enumerate(self.counts[:MAX_CANDIDATES]):
                if self._quantizers[number] == quantizer and not block[[0, -1]].any():
                    added_bits = _cost_bits(block + counts) - _cost_bits(block)
                    if added_bits <= best_bits:
                        best, best_bits = number, added_bits
        if best == len(self.counts):
            self.counts.append(counts)
            self._quantizers.append(quantizer)
        else:
            self.counts[best] = self.counts[best] + counts
        return best


def _cost_bits(counts: Integers) -> float:
    """Estimate for blocks with these counts, one a row of the last axis."""
    totals = counts.sum(axis=-1)
    used = counts[counts > 0]
    coded = float((totals * np.log2(np.maximum(totals, 1))).sum() - (used * np.log2(used)).sum())
    return coded + TABLE_BITS * float((totals > 0).sum()) + TOKEN_BITS * used.size


def _split_pays(tallies: list[Integers], shapes: Sequence[StreamShape]) -> bool:
    both = sum(
        (counts.sum(axis=0) for counts, shape in zip(tallies, shapes, strict=True) if shape.trellis_bits),
        start=np.zeros((2, 2 * TALLY_HALF), dtype=np.int64),
    )
    return _cost_bits(both) < _cost_bits(both.sum(axis=0))


def _tally(values: Symbols, shape: StreamShape, classes: Integers) -> Integers:
    """Clipped residuals by class of row and quantiser, int64 of shape (classes, 2, 2 * TALLY_HALF)."""
    number = int(classes.max()) + 1
    counts = np.zeros((2 * number, 2 * TALLY_HALF), dtype=np.int64)
    row_length = values.size // classes.size
    kernel.tally(values, *_trellis(shape), row_length, classes, counts)
    return counts.reshape(number, 2, -1)


def _cost_by_rows_bits(classes: Integers, counts: Integers) -> float:
    """Estimate for a stream with a block for every class of rows, and these for every row."""
    return _cost_bits(counts) + float(classes.size * counts.shape[1] * len(counts).bit_length())


def _classed(values: Symbols, shape: StreamShape, promising: Sequence[Integers]) -> tuple[Integers, Integers]:
    """The `promising` classes of rows that cost least, or a single one, and the tally of them."""
    classes = promising or [np.zeros(1, dtype=np.int64)]
    tallied = [(each, _tally(values, shape, each)) for each in classes]
    return min(tallied, key=lambda pair: _cost_by_rows_bits(pair[0], pair[1].sum(axis=1, keepdims=True)))


def estimated_bits(symbols: Symbols, shape: StreamShape) -> float:
    """About what a stream takes as a chunk, by rows where that is less."""
    residuals = symbols - np.int32(shape.central)
    classes, counts = _classed(residuals, shape, row_classes(residuals, shape))
    counts = counts.sum(axis=1, keepdims=True)
    whole = _cost_bits(counts.sum(axis=0))
    return min(whole, _cost_by_rows_bits(classes, counts)) if len(counts) > 1 else whole


def _trellis(shape: StreamShape) -> tuple[Symbols, int]:
    """Transitions of the trellis, and the number of symbols after which it begins anew."""
    table = transitions(shape.trellis_bits) if shape.trellis_bits else np.zeros(2, dtype=np.int32)
    return table, shape.row_length or shape.count


def _layouts_to_bytes(lengths: Integers, shapes: Sequence[StreamShape], layouts: list[_Layout]) -> bytes:
    head = encode_varint(lengths.size - 1) + b"".join(encode_varint(int(length)) for length in lengths[:-1])
    width = (lengths.size - 1).bit_length()
    fields = [_layout_fields(*each, width) for each in zip(shapes, layouts, strict=True)]
    return head + pack(*map(np.concatenate, zip(*fields, strict=True)))


def _layout_fields(shape: StreamShape, layout: _Layout, width: int) -> tuple[Integers, Integers]:
    """Values and widths of the fields of one stream."""
    by_rows = layout.row_length < shape.count
    flags = [int(by_rows)] * (shape.usable_row > 0) + [int(layout.split)] * (shape.trellis_bits > 0)
    numbers = layout.blocks if layout.split else layout.blocks[::2]
    return np.insert(numbers, 0, flags), np.repeat([1, width], [len(flags), numbers.size])


def _layouts_from_bytes(payload: bytes, shapes: Sequence[StreamShape]) -> tuple[list[_Layout], Integers, int]:
    """Layouts (none if there is one block only), symbols of every block, and the byte after them."""
    total = sum(shape.count for shape in shapes)
    others, position = decode_varint(payload, 0)
    if others == 0:
        return [], np.array([total]), position
    lengths = []
    left = total
    for _ in range(others):
        length, position = decode_varint(payload, position)
        left -= length
        if length == 0 or left < 1:
            raise CodecError(f"fast: {others + 1} blocks are promised that do not share {total} symbols.")
        lengths.append(length)
    lengths.append(left)
    reader = BitReader(payload, position)
    layouts = [_read_layout(reader, shape, others) for shape in shapes]
    return layouts, np.array(lengths), reader.finish_byte()


def _read_layout(reader: BitReader, shape: StreamShape, last_block: int) -> _Layout:
    by_rows = bool(shape.usable_row and reader.unsigned(1))
    split = bool(shape.trellis_bits and reader.unsigned(1))
    row_length = shape.row_length if by_rows else shape.count
    numbers = reader.fields((1 + split) * (shape.count // row_length), last_block.bit_length())
    if numbers.max(initial=0) > last_block or (split and (numbers[::2] == numbers[1::2]).any()):
        raise CodecError(f"fast: a stream is said to be in blocks that are no two of {last_block + 1}.")
    blocks = numbers if split else np.repeat(numbers, 2)
    return _Layout(split=split, row_length=row_length, blocks=blocks)


# Tables.


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """What the tokens of a block are and what share of the states each is given.

    A residual without its lowest `shift` bits is a token; `first` is the token of index 1. `masses` by index, int64 of
    shape (m,), sum to ``2**table_bits``; index 0 is that of all tokens without mass. `table_bits` is 0 if there is a
    single token, else from ``MIN_TABLE_BITS`` to ``MAX_TABLE_BITS``.
    """

    shift: int
    first: int
    masses: Integers
    table_bits: int

    @property
    def escapes(self) -> bool:
        """Whether there are tokens without mass."""
        return bool(self.masses[0] > 0)

    def code_bits(self, tokens: Integers) -> tuple[Floats, NDArray[np.bool_]]:
        """Bits that the states take for every token, and which tokens are escaped."""
        masses = np.concatenate([[0], self.masses[1:], [0]]).take(tokens - self.first + 1, mode="clip")
        escaped = masses == 0
        return self.table_bits - np.log2(np.where(escaped, max(int(self.masses[0]), 1), masses)), escaped

    def numbers(self, tokens: Integers) -> Integers:
        """Numbers of tokens without mass: those within the table first, then by distance, above and below in turn."""
        index = tokens - self.first
        inside = self.masses[1:] == 0
        absent = int(inside.sum())
        ranks = np.cumsum(inside) - 1
        above = absent + 2 * (index - inside.size)
        below = absent + 2 * (-1 - index) + 1
        within = ranks[index.clip(0, inside.size - 1)]
        return np.where(index < 0, below, np.where(index < inside.size, within, above))

    def tokens(self, numbers: Integers) -> Integers:
        """Invert :meth:`numbers`."""
        places = np.flatnonzero(self.masses[1:] == 0)
        outside = numbers - places.size
        distance = outside >> 1
        beyond = np.where(outside & 1, self.first - 1 - distance, self.first + self.masses.size - 1 + distance)
        if places.size == 0:
            return beyond
        return np.where(outside < 0, self.first + places[numbers.clip(0, places.size - 1)], beyond)


def _fit(tokens: Integers, counts: Integers) -> _Table:
    """The table that makes a block smallest, for the residuals that occur, increasing, and how often they do."""
    best: _Table | None = None
    best_bits = 0.0
    size = int(counts.sum())
    for shift in range(MAX_SHIFT + 1):
        starts = np.flatnonzero(np.diff(tokens >> shift, prepend=(tokens[0] >> shift) - 1))
        merged, merged_counts = tokens[starts] >> shift, np.add.reduceat(counts, starts)
        if merged.size > 2 * kernel.MAX_TOKENS and int(merged_counts.max()) < size >> WORTHLESS_BITS:
            continue
        for table in _candidates(merged, merged_counts, shift):
            size_bits = shift * size + _size_bits(table, merged, merged_counts)
            if best is None or size_bits < best_bits:
                best, best_bits = table, size_bits
        if merged.size <= MANY_TOKENS:
            break
    if best is None:
        raise CodecError("fast: no table holds these symbols.")
    return best


def _candidates(tokens: Integers, counts: Integers, shift: int) -> list[_Table]:
    if tokens.size == 1:
        return [_Table(shift=shift, first=int(tokens[0]), masses=np.array([0, 1]), table_bits=0)]
    size = int(counts.sum())
    most = kernel.MAX_TABLE_BITS
    least = min(max(size.bit_length() - COARSEST, kernel.MIN_TABLE_BITS), most)
    tables = []
    for table_bits in range(least, max(min(most, size.bit_length()), least) + 1):
        rounded = (counts * (2 << table_bits) + size) // (2 * size)
        some = _table(tokens, counts, rounded, shift, table_bits)
        every = _table(tokens, counts, np.maximum(rounded, 1), shift, table_bits) if rounded.min() == 0 else None
        tables += [table for table in (some, every) if table is not None]
    return tables


def _table(tokens: Integers, counts: Integers, wanted: Integers, shift: int, table_bits: int) -> _Table | None:
    """Table in which tokens have about the masses `wanted`; None if there is no room for that."""
    mode = int(counts.argmax())
    reach = kernel.MAX_TOKENS // 2
    kept = np.flatnonzero(
        (np.maximum(wanted, np.arange(wanted.size) == mode) > 0) & (abs(tokens - tokens[mode]) <= reach)
    )
    escaped = int(counts.sum() - counts[kept].sum())
    weights = np.concatenate([[escaped], counts[kept]])
    share = ((escaped << (table_bits + 1)) + int(counts.sum())) // (2 * int(counts.sum()))
    masses = np.concatenate([[max(share, int(escaped > 0))], np.maximum(wanted[kept], 1)])
    if not _level(masses, weights, 1 << table_bits):
        return None
    first = int(tokens[kept[0]])
    dense = np.zeros(int(tokens[kept[-1]]) - first + 2, dtype=np.int64)
    dense[0] = masses[0]
    dense[tokens[kept] - first + 1] = masses[1:]
    return _Table(shift=shift, first=first, masses=dense, table_bits=table_bits)


def _level(masses: Integers, weights: Integers, total: int) -> bool:
    """Change `masses` where it costs least until they sum to `total`; False if they cannot."""
    while (excess := int(masses.sum()) - total) != 0:
        if excess > 0:
            able = np.flatnonzero(masses > 1)
            if able.size == 0:
                return False
            loss = weights[able] * np.log2(masses[able] / (masses[able] - 1))
            masses[able[np.argsort(loss, kind="stable")[:excess]]] -= 1
        else:
            able = np.flatnonzero(masses > 0)
            gain = weights[able] * np.log2((masses[able] + 1) / masses[able])
            masses[able[np.argsort(-gain, kind="stable")[:-excess]]] += 1
    return True


def _size_bits(table: _Table, tokens: Integers, counts: Integers) -> float:
    """Size of a block but for its lowest bits."""
    bits, escaped = table.code_bits(tokens)
    golomb_bits = kernel.golomb_cost(table.numbers(tokens[escaped]), counts[escaped])[1] if escaped.any() else 0
    return float(counts @ bits + _mass_fields(table)[1].sum() + golomb_bits)


def _mass_fields(table: _Table) -> tuple[Integers, Integers]:
    """Golomb codes of the masses, each in the order that the mass before it suggests."""
    if table.table_bits == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    masses = table.masses if table.escapes else table.masses[1:]
    previous = np.concatenate([[0], masses[:-1]])
    if table.escapes:
        previous[1] = 0
    return exp_golomb(masses, np.maximum(bit_lengths(previous) - 2, 0))


def _histogram(values: Symbols) -> tuple[Integers, Integers]:
    """The values that occur, increasing, and how often, both int64."""
    lowest, highest = kernel.min_and_max(values)
    span = highest - lowest + 1
    if span > max(values.size, 4 * kernel.MAX_TOKENS):
        unique, number = np.unique(values, return_counts=True)
        return unique.astype(np.int64), number.astype(np.int64)
    counts = np.zeros((4, span), dtype=np.int32)
    kernel.count(values, lowest, counts)
    dense = counts.sum(axis=0, dtype=np.int64)
    used = np.flatnonzero(dense)
    return used + lowest, dense[used]


# Blocks.


def _encode_block(values: Symbols) -> bytes:
    """Code of residuals, int32 of shape (n,), n >= 1."""
    table = _fit(*_histogram(values))
    kind = table.table_bits | ESCAPE_FLAG * table.escapes | SHIFT_FLAG * (table.shift > 0)
    head = bytes([kind, table.shift] if table.shift else [kind])
    head += encode_varint(2 * table.first if table.first >= 0 else -2 * table.first - 1)
    tokens = values >> np.int32(table.shift) if table.shift else values
    parts = [head]
    if table.table_bits:
        words = np.empty(kernel.words_for(tokens.size), dtype=np.uint32)
        start = kernel.encode(tokens, table.first - 1, table.masses, table.table_bits, words)
        parts += [pack(*_mass_fields(table)), words.astype("<u4", copy=False).view(np.uint8)[start:].tobytes()]
    if table.escapes:
        parts.append(_escapes_to_bytes(table, tokens))
    if table.shift:
        low = np.zeros((values.size * table.shift + 7) // 8, dtype=np.uint8)
        kernel.pack_low_bits(values, table.shift, low)
        parts.append(low.tobytes())
    return b"".join(parts)


def _escapes_to_bytes(table: _Table, tokens: Symbols) -> bytes:
    escaped = np.empty(tokens.size + 1, dtype=np.int64)
    number = kernel.find_escapes(tokens, table.first - 1, table.masses, escaped)
    numbers = table.numbers(escaped[:number])
    order = int(kernel.golomb_cost(numbers, np.ones(number, dtype=np.int64))[0])
    values, widths = exp_golomb(numbers, order)
    return pack(np.concatenate([[order], values]), np.concatenate([[kernel.ORDER_BITS], widths]))


@dataclass(frozen=True, eq=False)
class _Block:
    """A block that was decoded: its table, the Golomb order of its escapes or 0, where its residuals stand among those
    of all blocks, what was added to them, and the size of its code.
    """

    table: _Table
    escape_order: int
    start: int
    stop: int
    offset: int
    size_bytes: int


def _read_blocks(payload: bytes, shapes: Sequence[StreamShape]) -> tuple[list[_Layout], list[_Block], Symbols]:
    """Layouts (none if there is one block only), the blocks, and their residuals plus offset one block after another.

    Behind the residuals of several blocks there is an element more.
    """
    check_shapes("fast", shapes)
    total = sum(shape.count for shape in shapes)
    layouts, lengths, position = _layouts_from_bytes(payload, shapes)
    padded = np.zeros(len(payload) + 8, dtype=np.uint8)
    padded[:-8] = np.frombuffer(payload, dtype=np.uint8)
    offset = shapes[0].central if len(shapes) == 1 and len(lengths) == 1 else 0
    pool = np.empty(total + (len(lengths) > 1), dtype=np.int32)
    blocks = []
    start = 0
    for length in lengths.tolist():
        before, stop = position, start + length
        table, order, position = _decode_block(payload, padded, position, offset, pool[start:stop])
        blocks.append(_Block(table, order, start, stop, offset, position - before))
        start = stop
    if position != len(payload):
        raise CodecError(f"fast: {len(payload) - position} bytes are left over at the end.")
    return layouts, blocks, pool


def _merge(
    pool: Symbols, blocks: list[_Block], shapes: Sequence[StreamShape], layouts: list[_Layout]
) -> tuple[list[Symbols], list[Integers]]:
    """Streams from the symbols of all blocks, and where in `pool` each block stood before and after every stream.

    If there are several blocks, `pool` has one element more than they have.
    """
    if len(blocks) <= 1:
        counts = np.cumsum([0, *(shape.count for shape in shapes)])
        return [pool[start:stop] for start, stop in pairwise(counts)], list(counts[:, None])
    ends, places = np.array([block.stop for block in blocks]), np.array([block.start for block in blocks])
    streams, taken = [], [places.copy()]
    for shape, layout in zip(shapes, layouts, strict=True):
        values = np.empty(shape.count, dtype=np.int32)
        if layout.split:
            trellis = _trellis(shape)
            complete = kernel.merge(pool, *trellis, layout.row_length, layout.blocks, places, ends, values)
        else:
            complete = kernel.merge_rows(pool, layout.row_length, layout.blocks, places, ends, values)
        if not complete:
            raise CodecError("fast: a block has fewer symbols than the streams take from it.")
        streams.append(values)
        taken.append(places.copy())
    if not np.array_equal(places, ends):
        raise CodecError("fast: a block has more symbols than the streams take from it.")
    return streams, taken


def _symbol_bits(block: _Block, pool: Symbols) -> Floats:
    """Bits of every residual of a block, with its share of what else the block takes."""
    table = block.table
    tokens = (pool[block.start : block.stop].astype(np.int64) - block.offset) >> table.shift
    bits = np.full(tokens.size, float(table.shift))
    if table.table_bits:
        of_states, escaped = table.code_bits(tokens)
        bits += of_states
        bits[escaped] += exp_golomb(table.numbers(tokens[escaped]), block.escape_order)[1]
    total = bits.sum()
    return bits * (8 * block.size_bytes / total) if total else bits + 8 * block.size_bytes / bits.size


def _decode_block(payload: bytes, padded: Bytes, position: int, offset: int, out: Symbols) -> tuple[_Table, int, int]:
    """Fill `out` with residuals plus `offset` from byte `position` on.

    Returns the table, the Golomb order of its escapes, and the byte after the block. `padded` is the payload with eight
    bytes more.
    """
    table, position = _table_from_bytes(payload, padded, position, offset)
    base = 0 if table.shift else offset
    marker = table.first - 1 + base
    order = 0
    if table.table_bits == 0:
        out.fill(marker + 1)
    else:
        entries = kernel.decoding_table(table.masses, table.table_bits)
        end = kernel.decode(padded, position, entries, table.table_bits, marker, out)
        if end == kernel.CUT_OFF:
            raise CodecError("fast: the payload ends inside the coded symbols.")
        if end == kernel.BAD_STATE:
            raise CodecError("fast: the coded symbols do not end in the state in which they must.")
        position = int(end)
    if table.escapes:
        order, position = _read_escapes(payload, position, table, base, out)
    if table.shift == 0:
        return table, order, position
    size = (out.size * table.shift + 7) // 8
    rest = -out.size * table.shift % 8
    if position + size > len(payload) or (rest and payload[position + size - 1] >> (8 - rest)):
        raise CodecError(f"fast: {out.size} fields of {table.shift} bits are cut off or not filled up with zeros.")
    kernel.append_low_bits(padded, position, table.shift, out)
    if offset:
        out += np.int32(offset)
    return table, order, position + size


def _table_from_bytes(payload: bytes, padded: Bytes, position: int, offset: int) -> tuple[_Table, int]:
    if position >= len(payload):
        raise CodecError("fast: the payload ends before a block.")
    kind = payload[position]
    table_bits, escapes, shift = kind & 15, bool(kind & ESCAPE_FLAG), 0
    position += 1
    if kind & SHIFT_FLAG:
        if position >= len(payload) or not 0 < payload[position] <= MAX_SHIFT:
            raise CodecError("fast: a number of low bits is cut off or out of range.")
        shift = payload[position]
        position += 1
    single = table_bits == 0 and not escapes
    if kind >> 6 or not (single or kernel.MIN_TABLE_BITS <= table_bits <= kernel.MAX_TABLE_BITS):
        raise CodecError(f"fast: no block starts with the byte {kind}.")
    folded, position = decode_varint(payload, position)
    first = -(folded >> 1) - 1 if folded & 1 else folded >> 1
    masses = np.zeros(kernel.MAX_TOKENS + 1, dtype=np.int64)
    number = 2
    if single:
        masses[1] = 1
    else:
        position, number = kernel.read_masses(padded, position, table_bits, escapes, masses)
        if position < 0 or number < 3 - escapes:
            raise CodecError(f"fast: a table's masses do not sum to 2**{table_bits}.")
    table = _Table(shift=shift, first=first, masses=masses[:number].copy(), table_bits=table_bits)
    _check_range(np.array([first - 1, first + number - 2]), shift, offset)
    return table, int(position)


def _read_escapes(payload: bytes, position: int, table: _Table, base: int, out: Symbols) -> tuple[int, int]:
    """Put the escaped tokens into `out`; their Golomb order and the byte after them."""
    marker = table.first - 1 + base
    places = np.flatnonzero(out == marker)
    if places.size == 0:
        raise CodecError("fast: a table has an escape that no symbol uses.")
    reader = BitReader(payload, position)
    order = reader.unsigned(kernel.ORDER_BITS)
    tokens = table.tokens(reader.exp_golomb(places.size, order))
    _check_range(tokens, table.shift, base)
    out[places] = tokens + base
    return order, reader.finish_byte()


def _check_range(tokens: Integers, shift: int, offset: int) -> None:
    """Check that the residuals of `tokens` are int32 with and without `offset` >= 0."""
    lowest, highest = INT32.min >> shift, (INT32.max - offset) >> shift
    if int(tokens.min()) < lowest or int(tokens.max()) > highest:
        raise CodecError("fast: a table or an escape leads outside every alphabet.")
