"""The ``small`` profile: every symbol is predicted from its context, and what earlier streams taught is kept.

There are two recipes. The deep one (:mod:`metaq.coding.context.deep_kernel`) knows more, for small tensors and for
large ones with structure; the wide one (:mod:`metaq.coding.context.wide_kernel`) is several times as fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape, check_shapes, checked_streams
from metaq.coding.context import deep_kernel, wide_kernel
from metaq.coding.context.binary import COUNT_MASK, DECISIONS_PER_BIT, ONE, TAIL_BITS, BinaryCode
from metaq.coding.context.deep_model import ROW_NODE, Model, Stream, begin_stream, new_model
from metaq.coding.context.prediction import (
    COEFFICIENT_WIDTH,
    LAGS,
    LOWEST_COEFFICIENT,
    MAX_PERIOD,
    MIN_PERIOD,
    Prediction,
    fit,
)
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.compiled import Floats, Integers, Symbols, workspace
from metaq.errors import CodecError
from metaq.tensors.trellis import transitions

MAX_SYMBOLS = 1 << 26
"""Of a chunk; files have chunks of at most 2**22."""

DEEP_SYMBOLS = 1 << 17
"""Chunks of more symbols are modelled deeply only where a sample says that it pays."""

SAMPLE_SYMBOLS = 1 << 14
WORTHWHILE = 0.98
DEEP_LOOK, WIDE_LOOK = 1 << 13, 1 << 18
"""Symbols that an estimate codes by either recipe."""

SEGMENT = 4096
"""Symbols between two looks at the room left in the buffer."""

SYMBOL_BYTES = 140
"""More than a symbol can take: at most 65 decisions of at most 17 bits."""


@dataclass
class _Memory:
    """What one stream leaves to the next: 1 for every element of the last vector, and every row of the last matrix,
    that was not all the mode, else 0; and the mode of the last stream less the central symbol.
    """

    vector: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    matrix: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mode_offset: int = 0


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What the encoder chooses for a stream with rows: whether the base follows the row, and the prediction."""

    follows_rows: bool = False
    prediction: Prediction = field(default_factory=Prediction)


class SmallCoder:
    """Context mixing and binary range coding: the smallest files, see :class:`metaq.coding.chunks.ChunkCoder`.

    Payload: one binary range code. It says whether the streams are modelled deeply, then for every stream its mode,
    the prediction, and the symbols.
    """

    name = "small"
    identifier = 1

    def encode_chunk(self, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape]) -> bytes:
        # Copies, because the functions that may also decode take no read-only array.
        own = [stream.copy() for stream in checked_streams("small", streams, shapes)]
        _check_total(shapes)
        is_deep = _is_deep(own, shapes)
        return _encode(own, shapes, _chosen_options(own, shapes) if is_deep else _no_options(shapes), is_deep=is_deep)

    def decode_chunk(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[Symbols]:
        return [stream for stream, _ in _decoded(payload, shapes)]

    def code_lengths(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[float]:
        return [size_bits for _, size_bits in _decoded(payload, shapes)]


def _decoded(payload: bytes, shapes: Sequence[StreamShape]) -> list[tuple[Symbols, float]]:
    """Every stream and the bits that it takes."""
    check_shapes("small", shapes)
    _check_total(shapes)
    code = BinaryCode(payload)
    is_deep = code.bit(0) == 1
    _check_payload(payload, shapes, is_deep)
    memory = _Memory()
    model = new_model() if is_deep else None
    streams = []
    for shape in shapes:
        before_bits = code.size_bits
        symbols = _code(np.zeros(shape.count, dtype=np.int32), shape, 0, _Options(), model, memory, code)
        streams.append((symbols, code.size_bits - before_bits))
    code.check_finished()
    return streams


def deep_slots(payload: bytes, shapes: Sequence[StreamShape]) -> int | None:
    """How many adaptive probabilities of contexts a payload of the deep recipe asks for; None for the wide one.

    Errors as for :meth:`SmallCoder.decode_chunk`.
    """
    check_shapes("small", shapes)
    _check_total(shapes)
    code = BinaryCode(payload)
    if code.bit(0) == 0:
        return None
    _check_payload(payload, shapes, True)
    memory, model = _Memory(), new_model()
    for shape in shapes:
        _code(np.zeros(shape.count, dtype=np.int32), shape, 0, _Options(), model, memory, code)
    code.check_finished()
    # Those of whole rows come after the nodes of symbols, and are of no context.
    rows = slice(ROW_NODE, ROW_NODE + deep_kernel.UNKNOWN_HINT + 1)
    return int(np.count_nonzero(model.table & COUNT_MASK) - np.count_nonzero(model.table[rows] & COUNT_MASK))


def flag_probabilities(streams: Sequence[Symbols], shapes: Sequence[StreamShape]) -> list[Floats]:
    """How likely every symbol is to be another than the central one, as the deep recipe predicts it on its way.

    Probabilities are in (0, 1), float64 of shape (n,) for each stream of shape (n,), whose symbols are in its alphabet.
    In a row of central symbols alone, it is the share of a symbol in the probability that the row is another.
    """
    code, memory, model = BinaryCode(), _Memory(), new_model()
    probabilities = []
    for symbols, shape in zip(streams, shapes, strict=True):
        mode = shape.central
        stream = _deep_stream(symbols, shape, mode, _Options(), memory, np.zeros(shape.count, dtype=np.int64))
        _code_symbols(stream, shape, model, code)
        _remember(symbols, shape.usable_row, mode, memory)
        probabilities.append(stream.flags / ONE)
    return probabilities


def estimated_bits(streams: Sequence[Symbols], shapes: Sequence[StreamShape]) -> float:
    """Size of a payload but for some per cent: O(1), but for passes that are no more than copies.

    The wide recipe codes the first rows of every stream, and fewer of them show what the deep one gains; the entropy
    tells what the other rows are worth.
    """
    if not shapes:
        return 0.0
    some, few = (_first_rows(streams, shapes, most) for most in (WIDE_LOOK, DEEP_LOOK))
    wide, wide_of_few, deep_of_few = (
        8 * len(_encode(*part, _no_options(part[1]), is_deep=is_deep))
        for part, is_deep in ((some, False), (few, False), (few, True))
    )
    gain = deep_of_few / wide_of_few
    if sum(shape.count for shape in shapes) > DEEP_SYMBOLS:
        gain = min(gain, 1.0)
    seen, total = (sum(map(zero_order_entropy_bits, of_these)) for of_these in (some[0], streams))
    return gain * wide * (total / seen if seen else 1.0)


def _first_rows(
    streams: Sequence[Symbols], shapes: Sequence[StreamShape], most: int
) -> tuple[list[Symbols], list[StreamShape]]:
    """The same share of every stream, about `most` symbols: whole rows, or a part of the first."""
    share = min(most / sum(shape.count for shape in shapes), 1.0)
    counts = [max(int(share * shape.count), 1) for shape in shapes]
    cut = [
        n - n % shape.row_length if n >= shape.row_length > 0 else n for n, shape in zip(counts, shapes, strict=True)
    ]
    parts = [stream[:count].copy() for stream, count in zip(streams, cut, strict=True)]
    return parts, [shape.first(count) for shape, count in zip(shapes, cut, strict=True)]


def _check_total(shapes: Sequence[StreamShape]) -> None:
    total = sum(shape.count for shape in shapes)
    if total > MAX_SYMBOLS:
        raise CodecError(f"small: a chunk has at most {MAX_SYMBOLS} symbols, not {total}; take smaller pieces.")


def _check_payload(payload: bytes, shapes: Sequence[StreamShape], is_deep: bool) -> None:
    """Check that the payload is not too short for what it must hold, before there is any room for that."""
    # A symbol takes a decision at least; where whole rows may take one, the row does.
    row_lengths = [shape.usable_row if is_deep else 0 for shape in shapes]
    decisions = sum(
        shape.count // (row_length if row_length >= deep_kernel.MIN_FLAGGED_ROW else 1)
        for shape, row_length in zip(shapes, row_lengths, strict=True)
    )
    if decisions > DECISIONS_PER_BIT * (8 * len(payload) + TAIL_BITS):
        total = sum(shape.count for shape in shapes)
        raise CodecError(f"small: {len(payload)} bytes cannot hold {total} symbols.")


# The encoder's choices.


def _is_deep(streams: Sequence[Symbols], shapes: Sequence[StreamShape]) -> bool:
    """Whether the deep recipe is to be used: for little, and where it makes a sample of the longest stream smaller."""
    if sum(shape.count for shape in shapes) <= DEEP_SYMBOLS:
        return True
    stream, shape = max(zip(streams, shapes, strict=True), key=lambda pair: pair[1].count)
    length = shape.row_length or 1
    count = min(max(SAMPLE_SYMBOLS // length, 1) * length, shape.count)
    sample = shape.first(count)
    code, start = BinaryCode(), stream[:count]
    # With the options that a long stream has: none.
    _code(start, sample, _mode(start, sample), _Options(), new_model(), _Memory(), code)
    return len(code.finish()) < WORTHWHILE * len(_encode([start], [sample], _no_options([sample]), is_deep=False))


def _encode(
    streams: Sequence[Symbols], shapes: Sequence[StreamShape], options: Sequence[_Options], *, is_deep: bool
) -> bytes:
    code, memory = BinaryCode(), _Memory()
    model = new_model() if is_deep else None
    code.bit(int(is_deep))
    for stream, shape, each in zip(streams, shapes, options, strict=True):
        _code(stream, shape, _mode(stream, shape), each, model, memory, code)
    return code.finish()


def _no_options(shapes: Sequence[StreamShape]) -> list[_Options]:
    return [_Options()] * len(shapes)


def _chosen_options(streams: Sequence[Symbols], shapes: Sequence[StreamShape]) -> list[_Options]:
    return [_best_options(stream, shape) for stream, shape in zip(streams, shapes, strict=True)]


def _best_options(stream: Symbols, shape: StreamShape) -> _Options:
    """The options with which the stream alone takes the fewest bytes, the simplest of equals."""
    row_length = shape.usable_row
    if stream.size > DEEP_SYMBOLS or not row_length:
        return _Options()
    mode = _mode(stream, shape)
    fitted = fit(stream, mode=mode, row_length=row_length)
    options = [
        _Options(follows_rows=follows, prediction=prediction)
        for prediction in [Prediction()] + ([fitted] if fitted.period else [])
        for follows in (False, True)
    ]

    def size_bytes(each: _Options) -> int:
        code = BinaryCode()
        _code(stream, shape, mode, each, new_model(), _Memory(), code)
        return len(code.finish())

    return min(options, key=size_bytes)


def _mode(stream: Symbols, shape: StreamShape) -> int:
    # The two quantisers of a trellis are symmetric around the central symbol, be it the most common or not.
    if shape.trellis_bits:
        return shape.central
    lowest, highest = int(stream.min()), int(stream.max())
    if highest - lowest < 2 * stream.size:
        return int(np.bincount(stream - lowest).argmax()) + lowest
    used, counts = np.unique(stream, return_counts=True)
    return int(used[counts.argmax()])


# Both directions: what is given is coded, or ignored and decoded.


def _code(
    symbols: Symbols,
    shape: StreamShape,
    mode: int,
    options: _Options,
    model: Model | None,
    memory: _Memory,
    code: BinaryCode,
) -> Symbols:
    """Code a stream by the deep recipe, or without a `model` by the wide one; what its symbols are."""
    expected = shape.central + memory.mode_offset
    mode = expected + code.integer(mode - expected)
    if not 0 <= mode < shape.alphabet_size:
        raise CodecError(f"small: the mode {mode} is outside the alphabet of {shape.alphabet_size}.")
    memory.mode_offset = mode - shape.central
    if model is None:
        return _code_wide(symbols, shape, mode, code)
    if shape.usable_row:
        follows_rows = bool(code.bit(int(options.follows_rows)))
        options = _Options(follows_rows=follows_rows, prediction=_code_prediction(options.prediction, code))
    stream = _deep_stream(symbols, shape, mode, options, memory, np.zeros(0, dtype=np.int64))
    _code_symbols(stream, shape, model, code)
    values = np.asarray(stream.values, dtype=np.int32)
    _remember(values, shape.usable_row, mode, memory)
    return values


def _code_wide(symbols: Symbols, shape: StreamShape, mode: int, code: BinaryCode) -> Symbols:
    row_length = shape.usable_row
    values = workspace(symbols)
    trellis, model = _trellis(shape), wide_kernel.new_model(row_length)
    for start in range(0, shape.count, SEGMENT):
        stop = min(start + SEGMENT, shape.count)
        code.reserve(SYMBOL_BYTES * (stop - start))
        stream = (values, start, stop, row_length, mode, shape.alphabet_size)
        if wide_kernel.code_wide(*stream, trellis, model, code.state, code.data) < 0:
            raise CodecError(f"small: a symbol is outside the alphabet of {shape.alphabet_size}.")
    return np.asarray(values, dtype=np.int32)


def _code_symbols(stream: Stream, shape: StreamShape, model: Model, code: BinaryCode) -> None:
    begin_stream(stream, model)
    index = 0
    while index < shape.count:
        stop = min(index + SEGMENT, shape.count)
        code.reserve(SYMBOL_BYTES * (stop - index))
        index = int(deep_kernel.code_deep(index, stop, stream, model, code.state, code.data))
        if index < 0:
            raise CodecError(f"small: a symbol is outside the alphabet of {shape.alphabet_size}.")


def _deep_stream(
    symbols: Symbols, shape: StreamShape, mode: int, options: _Options, memory: _Memory, flags: Integers
) -> Stream:
    row_length = shape.usable_row
    period = options.prediction.period
    facts = [row_length, mode, int(options.follows_rows), period, shape.alphabet_size - 1, shape.central]
    row_hints, column_hints = _hints(shape, memory)
    return Stream(
        values=workspace(symbols),
        facts=workspace(np.array(facts, dtype=np.int64)),
        coefficients=workspace(np.array(options.prediction.coefficients, dtype=np.int64)),
        row_hints=workspace(row_hints),
        column_hints=workspace(column_hints),
        trellis=_trellis(shape),
        residuals=workspace(np.zeros(shape.count, dtype=np.int32)),
        errors=workspace(np.zeros(shape.count, dtype=np.int32)),
        columns=workspace(np.zeros(row_length, dtype=np.int64)),
        flags=workspace(flags),
        given=workspace(np.zeros(0, dtype=np.int32) if shape.hints is None else shape.hints),
    )


def _code_prediction(prediction: Prediction, code: BinaryCode) -> Prediction:
    period = code.number(prediction.period)
    if period == 0:
        return Prediction()
    if not MIN_PERIOD <= period <= MAX_PERIOD:
        raise CodecError(f"small: a period is {period}, not {MIN_PERIOD} to {MAX_PERIOD}.")
    given = prediction.coefficients if prediction.period else (0,) * LAGS
    coefficients = [code.bits(each - LOWEST_COEFFICIENT, COEFFICIENT_WIDTH) + LOWEST_COEFFICIENT for each in given]
    return Prediction(period=period, coefficients=tuple(coefficients))


def _hints(shape: StreamShape, memory: _Memory) -> tuple[Integers, Integers]:
    """For every row and column 1 if it, or the unit it belongs to, was in use in the base, or without one in earlier
    streams, 0 if not; or nothing.
    """
    row_length = shape.usable_row
    if not row_length:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if shape.hints is not None:
        is_used = shape.hints.reshape(-1, row_length) != 0
        return is_used.any(axis=1).astype(np.int64), is_used.any(axis=0).astype(np.int64)
    rows = _units(shape.count // row_length, memory.vector, memory.matrix)
    columns = _units(row_length, memory.matrix, memory.vector)
    return rows, columns


def _units(count: int, *candidates: Integers) -> Integers:
    """The first of `candidates` that divides `count`, each of its elements repeated; or nothing."""
    for units in candidates:
        if units.size and count % units.size == 0:
            return np.repeat(units, count // units.size)
    return np.zeros(0, dtype=np.int64)


def _remember(values: Symbols, row_length: int, mode: int, memory: _Memory) -> None:
    differs = values != mode
    if row_length:
        memory.matrix = differs.reshape(-1, row_length).any(axis=1).astype(np.int64)
    else:
        memory.vector = differs.astype(np.int64)


def _trellis(shape: StreamShape) -> Integers:
    table = transitions(shape.trellis_bits).astype(np.int64) if shape.trellis_bits else np.zeros(0, dtype=np.int64)
    return workspace(table)
