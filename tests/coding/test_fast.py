"""The fast profile: round trips, sizes, damage, and a decoder written from the format description alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.coding.context import fast, fast_kernel
from metaq.coding.context.fast import FastCoder
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.errors import CodecError
from metaq.tensors.trellis import transitions

Symbols = NDArray[np.int32]
CODER = FastCoder()
PADDING = np.zeros(8, dtype=np.uint8)


def shape_of(symbols: Symbols, alphabet_size: int, row_length: int = 0, trellis_bits: int = 0) -> StreamShape:
    return StreamShape(
        count=symbols.size, alphabet_size=alphabet_size, row_length=row_length, trellis_bits=trellis_bits
    )


def check(streams: Sequence[Symbols], shapes: Sequence[StreamShape]) -> bytes:
    payload = CODER.encode_chunk(streams, shapes)
    assert CODER.encode_chunk(streams, shapes) == payload
    decoded = CODER.decode_chunk(payload, shapes)
    assert [each.dtype for each in decoded] == [np.int32] * len(shapes)
    for symbols, back in zip(streams, decoded, strict=True):
        np.testing.assert_array_equal(back, symbols)
    return payload


def laplacian(seed: int, count: int, scale: float, alphabet_size: int = 255) -> Symbols:
    drawn = np.round(np.random.default_rng(seed).laplace(0, scale, count)) + (alphabet_size - 1) // 2
    return drawn.clip(0, alphabet_size - 1).astype(np.int32)


def dependent(seed: int, count: int, scales: tuple[float, float], trellis_bits: int, row_length: int = 0) -> Symbols:
    """Symbols around 127 whose scale depends on the quantiser that the parities before them in the row choose."""
    drawn = np.random.default_rng(seed).laplace(0, 1, count)
    table = transitions(trellis_bits)
    out, state = [], 0
    for place, value in enumerate(drawn):
        state = 0 if row_length and place % row_length == 0 else state
        level = round(value * scales[state & 1])
        out.append(level + 127)
        state = int(table[2 * state + (level & 1)])
    return np.array(out).clip(0, 254).astype(np.int32)


# A decoder from the description, in plain integers.


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.bit = data, 0

    def byte(self) -> int:
        return self.field(8)

    def field(self, width: int) -> int:
        """Most significant bit first."""
        value = 0
        for _ in range(width):
            value = 2 * value + (self.data[self.bit // 8] >> (7 - self.bit % 8) & 1)
            self.bit += 1
        return value

    def low_field(self, width: int) -> int:
        """Least significant bit first."""
        value = 0
        for place in range(width):
            value |= (self.data[self.bit // 8] >> (self.bit % 8) & 1) << place
            self.bit += 1
        return value

    def golomb(self, order: int) -> int:
        zeros = 0
        while not self.field(1):
            zeros += 1
        return (1 << (zeros + order)) + self.field(zeros + order) - (1 << order)

    def varint(self) -> int:
        byte = self.byte()
        return byte if byte < 128 else byte - 128 + 128 * self.varint()

    def align(self) -> None:
        while self.bit % 8:
            assert self.field(1) == 0


def reference_block(data: Bytes, count: int) -> list[int]:
    kind = data.byte()
    k, escapes, shift = kind % 16, kind & 16, data.byte() if kind & 32 else 0
    first = data.varint()
    first = -(first // 2) - 1 if first % 2 else first // 2
    tokens = [first] * count
    if k:
        escape_mass = data.golomb(0) if escapes else 0
        masses: list[int] = []
        while escape_mass + sum(masses) < 1 << k:
            previous = masses[-1] if masses else 0
            masses.append(data.golomb(max(previous.bit_length() - 2, 0)))
        data.align()
        tokens = reference_tokens(data, count, k, [escape_mass, *masses], first)
        if escapes:
            order = data.field(5)
            absent = [first + j for j, mass in enumerate(masses) if mass == 0]
            for place in range(count):
                if tokens[place] == first - 1:
                    number = data.golomb(order)
                    distance = (number - len(absent)) // 2
                    if number < len(absent):
                        tokens[place] = absent[number]
                    elif (number - len(absent)) % 2:
                        tokens[place] = first - 1 - distance
                    else:
                        tokens[place] = first + len(masses) + distance
            data.align()
    values = [(token << shift) + data.low_field(shift) for token in tokens]
    if data.bit % 8:
        assert data.low_field(8 - data.bit % 8) == 0
    return values


def reference_tokens(data: Bytes, count: int, k: int, masses: list[int], first: int) -> list[int]:
    size = 1 << k
    owners = [0] * size
    slot = 0
    for index, mass in enumerate(masses):
        for _ in range(mass):
            owners[slot] = index
            slot = (slot + size // 2 + size // 8 + 3) % size
    numbers = list(masses)
    entries = []
    for owner in owners:
        bits = k + 1 - numbers[owner].bit_length()
        entries.append((owner, bits, (numbers[owner] << bits) - size))
        numbers[owner] += 1
    start = data.bit
    while not data.low_field(1):
        assert data.bit < start + 8
    lanes = 4 if count >= 1024 else 1
    states = [data.low_field(k) for _ in range(lanes)]
    tokens = []
    for place in range(count):
        owner, bits, base = entries[states[place % lanes]]
        tokens.append(first - 1 + owner)
        states[place % lanes] = base + data.low_field(bits)
    assert states == [0] * lanes
    assert data.bit % 8 == 0
    return tokens


def reference_decode(payload: bytes, shapes: Sequence[StreamShape]) -> list[list[int]]:
    data = Bytes(payload)
    total = sum(shape.count for shape in shapes)
    last = data.varint()
    lengths = [data.varint() for _ in range(last)]
    lengths.append(total - sum(lengths))
    numbers: list[list[tuple[int, int]]] = []
    for shape in shapes:
        rows = 1
        if last and 0 < shape.row_length < shape.count and shape.count % shape.row_length == 0 and data.field(1):
            rows = shape.count // shape.row_length
        split = last and shape.count and shape.trellis_bits and data.field(1)
        width = last.bit_length() if shape.count else 0
        numbers.append([])
        for _ in range(rows):
            block = data.field(width)
            numbers[-1].append((block, data.field(width) if split else block))
    data.align()
    blocks = [iter(reference_block(data, length)) for length in lengths]
    assert data.bit == 8 * len(payload)
    return [list(reference_stream(shape, of_rows, blocks)) for shape, of_rows in zip(shapes, numbers, strict=True)]


def reference_stream(shape: StreamShape, of_rows: list[tuple[int, int]], blocks: list[Iterator[int]]) -> Iterator[int]:
    state = 0
    for place in range(shape.count):
        if shape.row_length and place % shape.row_length == 0:
            state = 0
        residual = next(blocks[of_rows[place * len(of_rows) // shape.count][state & 1]])
        if shape.trellis_bits:
            state = int(transitions(shape.trellis_bits)[2 * state + residual % 2])
        yield residual + (shape.alphabet_size - 1) // 2


Chunk = tuple[list[Symbols], list[StreamShape]]


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    streams, shapes = [], []
    for _ in range(draw(st.integers(1, 4))):
        alphabet_size = draw(st.sampled_from([1, 2, 3, 16, 255, 4096, 1 << 16, 1 << 24, 1 << 31]))
        symbol = st.integers(0, alphabet_size - 1)
        common = draw(symbol)
        symbols = draw(st.lists(st.one_of(st.just(common), symbol), min_size=1, max_size=40))
        repeats = draw(st.sampled_from([1, 1, 1, 30]))
        streams.append(np.array(symbols * repeats, dtype=np.int32))
        row_length = draw(st.sampled_from([0, 1, 5, len(symbols)]))
        shapes.append(shape_of(streams[-1], alphabet_size, row_length, draw(st.sampled_from([0, 0, 2, 3]))))
    return streams, shapes


@settings(max_examples=60)
@given(chunk=chunks())
@example(chunk=([np.array([0, (1 << 31) - 1], dtype=np.int32)], [StreamShape(count=2, alphabet_size=1 << 31)]))
def test_any_chunk_comes_back(chunk: Chunk) -> None:
    payload = check(*chunk)
    assert reference_decode(payload, chunk[1]) == [symbols.tolist() for symbols in chunk[0]] if payload else True


def samples() -> dict[str, Chunk]:
    """Chunks that use every part of the format."""
    rows = np.concatenate([laplacian(row, 300, [0.3, 4.0, 30.0][row % 3]) for row in range(60)])
    even, odd = dependent(1, 9001, (0.6, 4.0), 3), dependent(2, 6000, (0.6, 4.0), 2)
    mixed = [laplacian(seed, 700 + seed, 0.4 if seed % 2 else 5.0, 255 if seed % 3 else 63) for seed in range(12)]
    two_peaks = np.random.default_rng(4).choice(np.array([5, 6, 60_000, 60_002], dtype=np.int32), 5000)
    scaled = np.concatenate([dependent(row, 300, (0.5 + row % 2 * 5, 2.0 + row % 2 * 9), 3) for row in range(60)])
    return {
        "laplacian": ([laplacian(0, 5003, 3.0)], [StreamShape(count=5003, alphabet_size=255)]),
        "wide": ([laplacian(0, 1500, 9e4, 1 << 22)], [StreamShape(count=1500, alphabet_size=1 << 22)]),
        "two peaks": ([two_peaks], [StreamShape(count=5000, alphabet_size=70_000)]),
        "rows": ([rows], [StreamShape(count=18_000, alphabet_size=255, row_length=300)]),
        "trellis": ([even, odd], [shape_of(even, 255, 0, 3), shape_of(odd, 255, 0, 2)]),
        "trellis and rows": ([scaled, mixed[0]], [shape_of(scaled, 255, 300, 3), shape_of(mixed[0], 63)]),
        "several": (mixed, [shape_of(mixed[seed], 255 if seed % 3 else 63) for seed in range(12)]),
    }


SAMPLES = samples()
EVERY_SAMPLE = pytest.mark.parametrize("name", SAMPLES)


@EVERY_SAMPLE
def test_a_decoder_from_the_specification_agrees(name: str) -> None:
    streams, shapes = SAMPLES[name]
    assert reference_decode(check(streams, shapes), shapes) == [symbols.tolist() for symbols in streams]


@EVERY_SAMPLE
def test_the_loops_compute_the_same_uncompiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, shapes = SAMPLES[name]
    payload = CODER.encode_chunk(streams, shapes)
    for attribute, function in list(vars(fast_kernel).items()):
        if hasattr(function, "py_func"):
            monkeypatch.setattr(fast_kernel, attribute, function.py_func)
    assert CODER.encode_chunk(streams, shapes) == payload
    for symbols, back in zip(streams, CODER.decode_chunk(payload, shapes), strict=True):
        np.testing.assert_array_equal(back, symbols)
    with pytest.raises(CodecError):
        CODER.decode_chunk(payload[:-1], shapes)


def laplacian_entropy_bits(scale: float) -> float:
    """Entropy of a rounded Laplacian variable, in closed form: a flag for 0, a sign, a geometric distance."""
    zero, ratio = 1 - math.exp(-0.5 / scale), math.exp(-1 / scale)
    flag = -zero * math.log2(zero) - (1 - zero) * math.log2(1 - zero)
    distance = -math.log2(1 - ratio) - ratio / (1 - ratio) * math.log2(ratio)
    return flag + (1 - zero) * (1 + distance)


@pytest.mark.parametrize("scale", [0.3, 0.8, 2.94, 12.0, 60.0])
def test_sizes_are_near_the_entropy_of_a_laplacian(scale: float) -> None:
    count = 1 << 18
    payload = check([laplacian(3, count, scale, 4095)], [StreamShape(count=count, alphabet_size=4095)])
    entropy_bits = zero_order_entropy_bits(laplacian(3, count, scale, 4095).astype(np.int64))
    assert entropy_bits == pytest.approx(count * laplacian_entropy_bits(scale), rel=0.02)
    assert entropy_bits <= 8 * len(payload) <= 1.005 * entropy_bits


@pytest.mark.parametrize("share", [0.5, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("count", [1023, 1024, 60_001])
def test_skewed_streams_come_back_small(share: float, count: int) -> None:
    rng = np.random.default_rng(1)
    symbols = np.where(rng.random(count) < share, 3, rng.integers(0, 1 << 31, count)).astype(np.int32)
    payload = check([symbols], [StreamShape(count=count, alphabet_size=1 << 31)])
    others = np.count_nonzero(symbols != 3)
    assert (
        len(payload) <= 24 + zero_order_entropy_bits((symbols != 3).astype(np.int64)) / 8 + 4.6 * others + count / 8192
    )


def test_uniform_symbols_of_every_width_come_back_at_their_width() -> None:
    for width in (1, 2, 5, 7, 8, 9, 12, 13, 20, 31):
        symbols = np.random.default_rng(width).integers(0, 1 << width, 3000).astype(np.int32)
        payload = check([symbols], [StreamShape(count=3000, alphabet_size=1 << width)])
        assert len(payload) <= 3000 * width / 8 * 1.02 + 40


@pytest.mark.parametrize("symbol", [0, 127, 254])
@pytest.mark.parametrize("count", [1, 5, 100_000])
def test_one_symbol_only_takes_four_bytes_at_most(symbol: int, count: int) -> None:
    symbols = np.full(count, symbol, dtype=np.int32)
    for trellis_bits in (0, 3):
        assert len(check([symbols], [shape_of(symbols, 255, 0, trellis_bits)])) <= (4 if trellis_bits == 0 else 40)


def test_streams_alike_share_a_table_and_others_do_not() -> None:
    narrow = [laplacian(seed, 400, 0.5) for seed in range(10)]
    wide = [laplacian(seed, 400, 20.0) for seed in range(10)]
    shapes = [StreamShape(count=400, alphabet_size=255)] * 10
    alone = sum(len(CODER.encode_chunk([symbols], [shapes[0]])) for symbols in narrow + wide)
    assert (
        len(check(narrow, shapes)) < len(check([np.concatenate(narrow)], [shape_of(np.concatenate(narrow), 255)])) + 3
    )
    together = len(check(narrow + wide, shapes * 2))
    assert together < 0.97 * alone
    assert together < len(CODER.encode_chunk(narrow, shapes)) + len(CODER.encode_chunk(wide, shapes)) + 16


@pytest.mark.parametrize("trellis_bits", [2, 3, 7])
def test_each_quantizer_has_its_own_statistics(trellis_bits: int) -> None:
    symbols = dependent(5, 30_000, (0.4, 6.0), trellis_bits)
    ignorant = len(check([symbols], [shape_of(symbols, 255)]))
    assert len(check([symbols], [shape_of(symbols, 255, 0, trellis_bits)])) < 0.95 * ignorant


@pytest.mark.parametrize("row_length", [7, 20])
def test_the_quantizer_starts_anew_in_every_row(row_length: int) -> None:
    symbols = dependent(5, 30_000, (0.3, 9.0), 3, row_length)
    ignorant = len(check([symbols], [shape_of(symbols, 255, 0, 3)]))
    assert len(check([symbols], [shape_of(symbols, 255, row_length, 3)])) < 0.9 * ignorant


@pytest.mark.parametrize("mean_shift", [1, 40])
def test_rows_of_different_means_have_their_own_statistics(mean_shift: int) -> None:
    generator = np.random.default_rng(3)
    shifts = mean_shift * generator.integers(0, 4, 200)
    rows = (generator.geometric(0.6, (200, 300)) + shifts[:, None]).astype(np.int32)
    payload = check([rows.reshape(-1)], [shape_of(rows.reshape(-1), 255, 300)])
    own_bits = sum(zero_order_entropy_bits(rows[shifts == shift]) for shift in np.unique(shifts))
    assert 8 * len(payload) < 1.02 * own_bits + 4000
    assert 8 * len(payload) < 0.9 * zero_order_entropy_bits(rows)
    assert fast.estimated_bits(rows.reshape(-1), shape_of(rows.reshape(-1), 255, 300)) == pytest.approx(
        8 * len(payload), rel=0.03
    )


def test_rows_of_different_scale_have_their_own_statistics() -> None:
    streams, shapes = SAMPLES["rows"]
    ignorant = len(check(streams, [shape_of(streams[0], 255)]))
    assert len(check(streams, shapes)) < 0.9 * ignorant


def test_empty_streams_are_refused() -> None:
    shape = StreamShape(count=0, alphabet_size=3)
    with pytest.raises(CodecError, match="no stream of symbols"):
        CODER.encode_chunk([np.zeros(0, dtype=np.int32)], [shape])
    with pytest.raises(CodecError, match="no stream of symbols"):
        CODER.decode_chunk(b"", [shape])


SMALL = {
    "laplacian": ([laplacian(1, 120, 1.5)], [StreamShape(count=120, alphabet_size=255)]),
    "lanes": ([laplacian(1, 1030, 0.3)], [StreamShape(count=1030, alphabet_size=255)]),
    "escapes": ([np.array([7] * 150 + [0, 900, 7, 13], dtype=np.int32)], [StreamShape(count=154, alphabet_size=901)]),
    "low bits": (
        [np.random.default_rng(1).integers(0, 1 << 20, 30).astype(np.int32)],
        [StreamShape(count=30, alphabet_size=1 << 20)],
    ),
    "blocks": (
        [dependent(3, 700, (0.3, 9.0), 3), laplacian(6, 100, 80.0)],
        [StreamShape(count=700, alphabet_size=255, trellis_bits=3), StreamShape(count=100, alphabet_size=255)],
    ),
    "constant": ([np.full(9, 4, dtype=np.int32)], [StreamShape(count=9, alphabet_size=5)]),
}


def refused_or_in_alphabet(payload: bytes, shapes: Sequence[StreamShape]) -> list[Symbols] | None:
    try:
        decoded = CODER.decode_chunk(payload, shapes)
    except CodecError:
        return None
    for symbols, shape in zip(decoded, shapes, strict=True):
        assert symbols.shape == (shape.count,)
        assert symbols.min(initial=0) >= 0
        assert symbols.max(initial=0) < shape.alphabet_size
    return decoded


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_refused(name: str) -> None:
    streams, shapes = SMALL[name]
    payload = check(streams, shapes)
    for length in range(len(payload)):
        assert refused_or_in_alphabet(payload[:length], shapes) is None
    for extra in (b"\0", b"\xff", bytes(9)):
        with pytest.raises(CodecError):
            CODER.decode_chunk(payload + extra, shapes)


@pytest.mark.parametrize("name", SMALL)
def test_every_bit_flip_is_refused_or_decodes_to_other_symbols(name: str) -> None:
    streams, shapes = SMALL[name]
    payload = check(streams, shapes)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        decoded = refused_or_in_alphabet(bytes(damaged), shapes)
        if decoded is not None:
            assert not all(np.array_equal(*pair) for pair in zip(decoded, streams, strict=True))


@settings(max_examples=400)
@given(
    payload=st.binary(max_size=60),
    count=st.integers(0, 3000),
    alphabet_size=st.sampled_from([1, 2, 255, 70_000, 1 << 31]),
    row_length=st.integers(0, 100),
    trellis_bits=st.sampled_from([0, 2, 3]),
)
def test_random_bytes_never_crash(
    payload: bytes, count: int, alphabet_size: int, row_length: int, trellis_bits: int
) -> None:
    shape = StreamShape(count=count, alphabet_size=alphabet_size, row_length=row_length, trellis_bits=trellis_bits)
    refused_or_in_alphabet(payload, [shape])
    refused_or_in_alphabet(b"\x01\x05" + payload, [shape, shape])


@pytest.mark.parametrize("table_bits", [*range(1, 4), 13, 15])
def test_unknown_precisions_are_refused(table_bits: int) -> None:
    with pytest.raises(CodecError, match="no block starts with"):
        CODER.decode_chunk(bytes([0, table_bits]) + bytes(50), [StreamShape(count=5, alphabet_size=9)])


def test_streams_that_are_not_what_their_shapes_say_are_refused() -> None:
    three = np.zeros(3, dtype=np.int32)
    for symbols, shape in [
        (three, StreamShape(count=4, alphabet_size=2)),
        (three.astype(np.float64), StreamShape(count=3, alphabet_size=2)),
        (three + np.int32(2), StreamShape(count=3, alphabet_size=2)),
        (three - np.int32(1), StreamShape(count=3, alphabet_size=2)),
        (three, StreamShape(count=3, alphabet_size=0)),
        (three, StreamShape(count=3, alphabet_size=(1 << 31) + 1)),
    ]:
        with pytest.raises(CodecError, match="fast: "):
            CODER.encode_chunk([symbols], [shape])  # type: ignore[list-item]
    with pytest.raises(CodecError, match="1 streams are given with 0 shapes"):
        CODER.encode_chunk([three], [])


@pytest.mark.parametrize("log", range(fast_kernel.MIN_TABLE_BITS, fast_kernel.MAX_TABLE_BITS + 1))
def test_slots_are_shared_out_by_mass(log: int) -> None:
    rng = np.random.default_rng(log)
    cuts = np.sort(rng.integers(0, (1 << log) + 1, 9))
    masses = np.diff(np.concatenate([[0], cuts, [1 << log]]))
    owners = fast_kernel.spread(masses, log)
    np.testing.assert_array_equal(np.bincount(owners, minlength=masses.size), masses)


def test_identity() -> None:
    assert (CODER.name, CODER.identifier) == ("fast", 2)
    assert fast.MAX_SHIFT < 32
