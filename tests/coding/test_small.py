"""The ``small`` coder: round trips, sizes, damage, and the same bytes however it is run."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.coding.context.small import DEEP_SYMBOLS, SmallCoder, estimated_bits
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.errors import CodecError

CODER = SmallCoder()
Streams = list[NDArray[np.int32]]

WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import numpy as np
from metaq.coding.chunks import StreamShape
from metaq.coding.context.small import SmallCoder
shape = StreamShape(count=360, alphabet_size=15, row_length=30, trellis_bits=3)
stream = np.random.default_rng(4).binomial(14, 0.5, 360).astype(np.int32)
payload = SmallCoder().encode_chunk([stream], [shape])
assert (SmallCoder().decode_chunk(payload, [shape])[0] == stream).all()
print(payload.hex())
"""


def matrix(rows: int, columns: int, alphabet_size: int = 255, seed: int = 0, scale: float = 4.0) -> Streams:
    drawn = np.random.default_rng(seed).laplace((alphabet_size - 1) // 2, scale, rows * columns)
    return [np.clip(np.round(drawn), 0, alphabet_size - 1).astype(np.int32)]


def shape_of(stream: NDArray[np.int32], alphabet_size: int = 255, row_length: int = 0, bits: int = 0) -> StreamShape:
    return StreamShape(count=stream.size, alphabet_size=alphabet_size, row_length=row_length, trellis_bits=bits)


def round_trip(streams: Streams, shapes: list[StreamShape]) -> bytes:
    payload = CODER.encode_chunk(streams, shapes)
    for stream, restored in zip(streams, CODER.decode_chunk(payload, shapes), strict=True):
        np.testing.assert_array_equal(restored, stream)
    return payload


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30)), min_size=1, max_size=4),
    alphabet_size=st.sampled_from([1, 2, 3, 255, 70_001, (1 << 31) - 1, 1 << 31]),
    share=st.sampled_from([0.0, 0.8, 1.0]),
    has_rows=st.booleans(),
    bits=st.sampled_from([0, 2, 7]),
)
def test_any_streams_come_back(
    seed: int, sizes: list[tuple[int, int]], alphabet_size: int, share: float, has_rows: bool, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    streams, shapes = [], []
    for rows, columns in sizes:
        drawn = rng.integers(0, alphabet_size, rows * columns)
        mode = int(rng.integers(0, alphabet_size))
        streams.append(np.where(rng.random(drawn.size) < share, mode, drawn).astype(np.int32))
        shapes.append(shape_of(streams[-1], alphabet_size, columns if has_rows else 0, bits))
    round_trip(streams, shapes)


@pytest.mark.parametrize("row_length", [0, 500])
def test_large_memoryless_streams_are_near_the_entropy(row_length: int) -> None:
    streams = matrix(500, 500)
    payload = round_trip(streams, [shape_of(streams[0], row_length=row_length)])
    assert len(payload) <= 1.003 * zero_order_entropy_bits(streams[0]) / 8


def ideal_bits(stream: NDArray[np.int32], scales: NDArray[np.float64]) -> float:
    """Code length of rounded Laplacian numbers around 127 for a coder that knows their scales."""

    def below(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(x < 0, np.exp(np.minimum(x, 0)) / 2, 1 - np.exp(-np.maximum(x, 0)) / 2)

    distances = stream - 127.0
    return float(-np.log2(below((distances + 0.5) / scales) - below((distances - 0.5) / scales)).sum())


def test_rows_and_columns_of_differing_scale_are_seen() -> None:
    rng = np.random.default_rng(1)
    scales = np.outer(np.geomspace(0.3, 8, 600), np.geomspace(0.5, 2, 400)).reshape(-1)
    stream = np.clip(np.round(rng.laplace(127, scales)), 0, 254).astype(np.int32)
    payload = round_trip([stream], [shape_of(stream, row_length=400)])
    assert len(payload) <= 1.02 * ideal_bits(stream, scales) / 8


def test_dead_rows_and_columns_cost_little() -> None:
    rng = np.random.default_rng(8)
    alive = np.outer(rng.random(120) < 0.2, rng.random(256) < 0.3)
    stream = np.where(alive, rng.integers(125, 130, alive.shape), 127).astype(np.int32).reshape(-1)
    assert len(round_trip([stream], [shape_of(stream, row_length=256)])) < 0.8 * zero_order_entropy_bits(stream) / 8


def test_constant_streams_cost_next_to_nothing() -> None:
    for row_length, limit in ((1000, 12), (0, 30)):
        stream = np.full(1_000_000, 3, dtype=np.int32)
        assert len(round_trip([stream], [shape_of(stream, 7, row_length)])) <= limit


def test_streams_of_a_chunk_learn_from_each_other() -> None:
    first, second = matrix(20, 30, seed=1), matrix(20, 30, seed=2)
    shapes = [shape_of(first[0], row_length=30)] * 2
    alone = len(CODER.encode_chunk(first, shapes[:1])) + len(CODER.encode_chunk(second, shapes[1:]))
    assert len(round_trip(first + second, shapes)) < 0.985 * alone


def samples() -> list[tuple[Streams, list[StreamShape]]]:
    small = matrix(8, 12, 15, scale=1.0)
    large = [np.full(DEEP_SYMBOLS + 100, 7, dtype=np.int32)]
    large[0][5000:5060] = matrix(1, 60, 15, scale=2.0)[0]
    return [(small, [shape_of(small[0], 15, 12, 3)]), (large, [shape_of(large[0], 15)])]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_damage_is_refused_or_gives_symbols_of_the_alphabet(number: int) -> None:
    streams, shapes = samples()[number]
    payload = CODER.encode_chunk(streams, shapes)
    damaged = [payload[:length] for length in range(len(payload))] + [payload + b"\0"]
    damaged += [
        payload[: bit // 8] + bytes([payload[bit // 8] ^ 1 << bit % 8]) + payload[bit // 8 + 1 :]
        for bit in range(0, 8 * len(payload), 1 if number == 0 else 3)
    ]
    for data in damaged:
        try:
            (symbols,) = CODER.decode_chunk(data, shapes)
        except CodecError:
            continue
        assert symbols.shape == streams[0].shape
        assert symbols.min() >= 0
        assert symbols.max() < 15
        assert not np.array_equal(symbols, streams[0])


def test_counts_that_the_bytes_cannot_hold_take_no_memory() -> None:
    payload = CODER.encode_chunk(*samples()[0])
    tracemalloc.start()
    try:
        for count in (1 << 26, 1 << 33):
            with pytest.raises(CodecError, match=r"cannot hold|at most"):
                CODER.decode_chunk(payload, [StreamShape(count=count, alphabet_size=15)])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_symbols_outside_the_alphabet_are_refused() -> None:
    for wrong in (-1, 15):
        with pytest.raises(CodecError, match="do not fit"):
            CODER.encode_chunk([np.array([wrong], dtype=np.int32)], [StreamShape(count=1, alphabet_size=15)])


def test_plain_python_gives_the_same_bytes() -> None:
    shape = StreamShape(count=360, alphabet_size=15, row_length=30, trellis_bits=3)
    stream = np.random.default_rng(4).binomial(14, 0.5, 360).astype(np.int32)
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == CODER.encode_chunk([stream], [shape]).hex()


def test_threads_do_not_meet() -> None:
    streams = matrix(60, 70)
    shapes = [shape_of(streams[0], row_length=70)]
    with ThreadPoolExecutor(4) as pool:
        payloads = set(pool.map(lambda _: CODER.encode_chunk(streams, shapes), range(8)))
    assert len(payloads) == 1


def _rows(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.int32]:
    """Integers around 7 whose spread depends on the row."""
    spread = generator.choice([0.1, 0.5, 2.0], size=(rows, 1))
    return np.clip(np.rint(7 + spread * generator.standard_normal((rows, columns))), 0, 14).astype(np.int32)


@pytest.mark.parametrize(("rows", "columns"), [(40, 30), (300, 200), (1500, 400)])
def test_an_estimate_is_near_the_size(rows: int, columns: int) -> None:
    generator = np.random.default_rng(0)
    streams = [_rows(generator, rows, columns).reshape(-1), generator.integers(0, 15, columns, dtype=np.int32)]
    shapes = [
        StreamShape(count=rows * columns, alphabet_size=15, row_length=columns),
        StreamShape(count=columns, alphabet_size=15),
    ]
    size_bits = 8 * len(CODER.encode_chunk(streams, shapes))
    assert abs(estimated_bits(streams, shapes) / size_bits - 1) < 0.06


def test_an_estimate_of_zeros_is_small() -> None:
    shape = StreamShape(count=1 << 19, alphabet_size=15, row_length=1 << 9)
    assert estimated_bits([np.full(1 << 19, 7, dtype=np.int32)], [shape]) < 1000
    assert estimated_bits([], []) == 0
