"""Which form makes a piece smallest: an encoder's choice, from counts of bits and a quick look by Zstandard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metaq.coding.context import fast
from metaq.coding.planes.chunk import Coded, in_form
from metaq.coding.planes.elements import Elements, ElementShape, Turn, turned
from metaq.coding.planes.form import MAX_CODED_FIELDS, MAX_PALETTE, Field, Form, Kind, Way
from metaq.coding.planes.packing import MAX_WIDTH

MOST_MANTISSA_BITS = 4
"""Of a floating number, that are coded with its exponent."""

TABLE_BITS, SYMBOL_BITS = 64.0, 4.5
"""What a table and each of its symbols are taken to cost, beside telling which symbols these are."""

WORTHWHILE = 0.985
"""A field is coded if that takes less than this of it."""

WIDEST_OF_ROWS = 12
"""A field that is zero in some rows is no wider, so that the coder sees them."""

SAMPLE = 1 << 12
MOST_DIFFERENT = 0.5
"""A palette is tried if no more than this of a sample are different."""

QUICK_LEVEL = 3
PACKED_GAIN = 0.99
"""A Zstandard frame is taken if it is smaller than this of the best that can be read without the package."""

THOROUGH_BYTES = 1 << 17
"""Up to this size Zstandard is tried at its highest level at once."""

MIN_ARRANGED = 1 << 13
ARRANGED_GAIN = 0.998
"""Other rows, or columns, than those of the tensor are taken if that leaves less than this of what is coded."""


@dataclass(frozen=True)
class _Candidate:
    """A form and about what it takes, in bits."""

    form: Form
    size_bits: float


def coded(elements: Elements, shape: ElementShape) -> Coded:
    """`elements`, of shape (n,), n >= 1, in the form that is best."""
    raw = _Candidate(Form(way=Way.raw), float(shape.count * shape.bits))
    best = min(raw, *_planes(elements, shape), *_palettes(elements, shape), key=lambda each: each.size_bits)
    found = in_form(elements, shape, best.form)
    if found.symbols and shape.count >= MIN_ARRANGED:
        best = _arranged(found, shape, best.size_bits)
    frame = _frame(elements, PACKED_GAIN * best.size_bits)
    if frame is not None:
        return Coded(form=Form(way=Way.zstd, size=len(frame)), body=frame)
    return found if best.form is found.form else in_form(elements, shape, best.form)


def _planes(elements: Elements, shape: ElementShape) -> Iterator[_Candidate]:
    if shape.exponent_bits:
        yield _float_planes(turned(elements, Turn.sign_last), shape)
        return
    turn = Turn.sign_flipped if shape.is_signed and int(elements.max()) >> (shape.bits - 1) else Turn.none
    for width, of_width in ((8, turn), (4, Turn.none)):
        if shape.bits // width <= MAX_CODED_FIELDS:
            yield _even_planes(turned(elements, of_width), shape, of_width, width)


def _even_planes(keys: Elements, shape: ElementShape, turn: Turn, width: int) -> _Candidate:
    """Fields of one width: bytes, or halves of them, which packed integers of four bits are."""
    parts = [_judged(_part(keys, shift, width), width) for shift in range(shape.bits - width, -1, -width)]
    return _candidate(turn, parts)


def _float_planes(keys: Elements, shape: ElementShape) -> _Candidate:
    """The exponent with some bits of the mantissa, what follows, bytes at the end that pay, zeros, and the sign."""
    used = int(np.bitwise_or.reduce(keys))
    zeros = _trailing_zeros(used >> 1, shape.bits - 1 - shape.exponent_bits)
    top, counts = _top_width(keys, shape, zeros)
    left = shape.bits - 1 - top - zeros
    tail: list[tuple[Field, float]] = [_judged(_part(keys, 0, 1), 1)]
    if zeros:
        tail.insert(0, (Field(Kind.zero, zeros), 0.0))
    shift = 1 + zeros
    width, size_bits = _zeros_of_rows(keys, shape, shift, min(left, WIDEST_OF_ROWS))
    if width:
        tail.insert(0, (Field(Kind.coded, width), size_bits))
        shift, left = shift + width, left - width
    while left >= 8:
        judged = _judged(_part(keys, shift, 8), 8)
        if judged[0].kind is Kind.raw:
            break
        tail.insert(0, judged)
        shift, left = shift + 8, left - 8
    if left:
        tail.insert(0, (Field(Kind.raw, left), float(keys.size * left)))
    return _candidate(Turn.sign_last, [(Field(Kind.coded, top), _coded_bits(counts)), *tail])


def _zeros_of_rows(keys: Elements, shape: ElementShape, shift: int, most: int) -> tuple[int, float]:
    """Width, or 0, of a field from bit `shift` up that is zero in whole rows, and its bits if they cost nothing."""
    if not 0 < shape.row_length < keys.size or keys.size % shape.row_length:
        return 0, 0.0
    used = np.bitwise_or.reduce(keys.reshape(-1, shape.row_length), axis=1)
    zeros = [np.count_nonzero(_part(used, shift, width) == 0) for width in range(1, most + 1)]
    saved = [width * each for width, each in enumerate(zeros, start=1)]
    width = 1 + int(np.argmax(saved)) if saved else 0
    if not width or shape.row_length * saved[width - 1] < (1 - WORTHWHILE) * keys.size * width:
        return 0, 0.0
    return width, float(shape.row_length * (width * used.size - saved[width - 1]))


def _trailing_zeros(used: int, most: int) -> int:
    """Lowest bits that are zero in `used`, at most so many."""
    return min((used & -used).bit_length() - 1, most) if used else most


def _top_width(keys: Elements, shape: ElementShape, zeros: int) -> tuple[int, NDArray[np.int64]]:
    """Width of the field of the exponent with the bits of the mantissa that are worth it, and its counts."""
    widest = min(shape.exponent_bits + MOST_MANTISSA_BITS, shape.bits - 1 - zeros)
    counts = np.bincount(_part(keys, shape.bits - widest, widest), minlength=1 << widest)
    best = (widest, counts)
    best_bits = _coded_bits(counts)
    for width in range(widest - 1, shape.exponent_bits - 1, -1):
        counts = counts.reshape(-1, 2).sum(axis=1)
        size_bits = _coded_bits(counts) + keys.size * (widest - width)
        if size_bits < best_bits:
            best, best_bits = (width, counts), size_bits
    return best


def _palettes(elements: Elements, shape: ElementShape) -> Iterator[_Candidate]:
    sample = elements[:: max(elements.size // SAMPLE, 1)]
    if np.unique(sample).size > max(MOST_DIFFERENT * sample.size, 1):
        return
    counts = np.unique(elements, return_counts=True)[1]
    if counts.size <= MAX_PALETTE:
        form = Form(way=Way.palette, size=int(counts.size))
        yield _Candidate(form, _coded_bits(counts) + shape.bits * counts.size)


def _frame(elements: Elements, best_bits: float) -> bytes | None:
    """A Zstandard frame of the elements if it is smaller than `best_bits`."""
    # Imported late, so that a file is read without it.
    from metaq.coding import zstd

    raw = elements.tobytes()
    if len(raw) > THOROUGH_BYTES and 8 * len(zstd.compress(raw, QUICK_LEVEL)) >= best_bits:
        return None
    frame = zstd.compress(raw)
    return frame if 8 * len(frame) < best_bits else None


def _arranged(found: Coded, shape: ElementShape, size_bits: float) -> _Candidate:
    """The form with the rows or columns by which the first of what is coded takes least, instead of `size_bits` in all
    where these do not count.
    """
    stream = found.symbols[0]
    plain_bits = _coded_bits(np.bincount(stream))
    own_bits = fast.estimated_bits(stream, found.form.streams(shape)[0])
    best, best_bits = found.form, ARRANGED_GAIN * own_bits
    for row_length in dict.fromkeys([shape.row_length, shape.kernel_length]):
        if not 1 < row_length < shape.count or shape.count % row_length:
            continue
        for by_columns in (False, True):
            told = None if row_length == shape.row_length else row_length
            form = replace(found.form, row_length=told, by_columns=by_columns)
            symbols = np.ascontiguousarray(stream.reshape(-1, row_length).T).reshape(-1) if by_columns else stream
            arranged_bits = fast.estimated_bits(symbols, form.streams(shape)[0])
            if arranged_bits < best_bits:
                best, best_bits = form, arranged_bits
    return _Candidate(best, size_bits - plain_bits + min(best_bits, own_bits, plain_bits))


def _part(keys: Elements, shift: int, width: int) -> NDArray[np.int64]:
    """A field of every element."""
    number = keys.dtype.type
    return ((keys >> number(shift)) & number((1 << width) - 1)).astype(np.int64)


def _judged(part: NDArray[np.int64], width: int) -> tuple[Field, float]:
    """What is best done with a field, and the bits that it takes."""
    counts = np.bincount(part, minlength=1)
    if counts[0] == part.size:
        return Field(Kind.zero, width), 0.0
    raw_bits = float(part.size * width)
    coded_bits = _coded_bits(counts)
    return (
        (Field(Kind.raw, width), raw_bits)
        if coded_bits > WORTHWHILE * raw_bits
        else (Field(Kind.coded, width), coded_bits)
    )


def _candidate(turn: Turn, parts: list[tuple[Field, float]]) -> _Candidate:
    """Planes of these fields; neighbours of a kind that is not coded become one."""
    fields: list[Field] = []
    for field, _ in parts:
        if fields and fields[-1].kind is field.kind is not Kind.coded:
            fields[-1] = Field(field.kind, fields[-1].width + field.width)
        else:
            fields.append(field)
    form = Form(way=Way.planes, turn=turn, fields=tuple(fields))
    # A single field that is not coded is better left alone, or is a palette of one.
    is_possible = form.raw_width <= MAX_WIDTH and (len(fields) > 1 or fields[0].kind is Kind.coded)
    return _Candidate(form, sum(size_bits for _, size_bits in parts) if is_possible else np.inf)


def _coded_bits(counts: NDArray[np.int64]) -> float:
    """About what a field takes whose symbols occur so often."""
    places = np.flatnonzero(counts)
    used = counts[places].astype(np.float64)
    spread = np.log2((places[-1] - places[0] + 1) / used.size)
    return float(used @ (np.log2(used.sum()) - np.log2(used)) + TABLE_BITS + (SYMBOL_BITS + spread) * used.size)
