"""What all coders have in common: round trips, refusals, and code lengths that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaq.coding.chunks import ChunkCoder, StreamShape
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.container.coders import CODERS, check_name, name_of
from metaq.container.coders import encode_chunk as encode
from metaq.errors import CodecError, ConfigError

EVERY_CODER = pytest.mark.parametrize("coder", CODERS.values(), ids=CODERS.keys())


def shape_of(stream: NDArray[np.int32], alphabet_size: int, row_length: int = 0) -> StreamShape:
    return StreamShape(count=stream.size, alphabet_size=alphabet_size, row_length=row_length)


def samples(coder: ChunkCoder) -> tuple[list[NDArray[np.int32]], list[StreamShape]]:
    """A matrix, a vector and a short stream that the coder can hold."""
    generator = np.random.default_rng(5)
    streams = [generator.binomial(8, 0.2, count).astype(np.int32) for count in (90, 40, 3)]
    if coder.name == "constant":
        streams = [np.full_like(stream, number) for number, stream in enumerate(streams)]
    return streams, [shape_of(stream, 9, row) for stream, row in zip(streams, (9, 0, 0), strict=True)]


@EVERY_CODER
def test_streams_come_back(coder: ChunkCoder) -> None:
    streams, shapes = samples(coder)
    payload = encode(coder.name, streams, shapes)
    assert payload == coder.encode_chunk(streams, shapes)
    for found, stream in zip(coder.decode_chunk(payload, shapes), streams, strict=True):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, stream)


@EVERY_CODER
@pytest.mark.parametrize("count", [1, 2, 100_000])
@pytest.mark.parametrize("symbol", [0, 127, 254])
def test_one_symbol_only_comes_back_from_few_bytes(coder: ChunkCoder, count: int, symbol: int) -> None:
    stream = np.full(count, symbol, dtype=np.int32)
    payload = encode(coder.name, [stream], [shape_of(stream, 255)])
    assert 0 < len(payload) < 30


@EVERY_CODER
def test_truncations_and_further_bytes_are_refused(coder: ChunkCoder) -> None:
    streams, shapes = samples(coder)
    payload = coder.encode_chunk(streams, shapes)
    for damaged in [payload[:length] for length in range(len(payload))] + [payload + b"\0", payload + b"garbage"]:
        try:
            found = coder.decode_chunk(damaged, shapes)
        except CodecError:
            continue
        # Arithmetic codes have no holes: a piece of one can be the code of other symbols, and is theirs alone.
        assert coder.name == "small"
        assert coder.encode_chunk(found, shapes) == damaged
        assert not all(np.array_equal(one, other) for one, other in zip(found, streams, strict=True))


@EVERY_CODER
@settings(max_examples=150)
@given(
    payload=st.binary(max_size=60),
    counts=st.lists(st.integers(1, 1000), min_size=1, max_size=3),
    alphabet_size=st.sampled_from([1, 2, 255, 70_000, 1 << 31]),
    row_length=st.integers(0, 100),
)
def test_random_bytes_never_crash(
    coder: ChunkCoder, payload: bytes, counts: list[int], alphabet_size: int, row_length: int
) -> None:
    shapes = [StreamShape(count=count, alphabet_size=alphabet_size, row_length=row_length) for count in counts]
    try:
        streams = coder.decode_chunk(payload, shapes)
    except CodecError:
        with pytest.raises(CodecError):
            coder.code_lengths(payload, shapes)
        return
    assert [stream.size for stream in streams] == counts
    assert all(stream.min() >= 0 and stream.max() < alphabet_size for stream in streams)


@EVERY_CODER
def test_symbols_outside_the_alphabet_are_refused(coder: ChunkCoder) -> None:
    for symbol in (3, -1):
        stream = np.full(2, symbol, dtype=np.int64)
        with pytest.raises(CodecError, match="do not fit an alphabet of 3"):
            encode(coder.name, [stream], [StreamShape(count=2, alphabet_size=3)])


@EVERY_CODER
def test_code_lengths_add_up_to_the_payload(coder: ChunkCoder) -> None:
    streams, shapes = samples(coder)
    for number in range(1, len(streams) + 1):
        payload = coder.encode_chunk(streams[:number], shapes[:number])
        lengths = coder.code_lengths(payload, shapes[:number])
        assert len(lengths) == number
        assert min(lengths) > 0
        # What belongs to no stream: the recipe of a chunk, how many blocks it has, and the rounding to whole bytes.
        assert -8 < 8 * len(payload) - math.fsum(lengths) <= 32


@pytest.mark.parametrize("name", ["small", "fast"])
def test_code_lengths_are_those_of_the_symbols(name: str) -> None:
    generator = np.random.default_rng(6)
    narrow, wide = (np.clip(np.round(generator.laplace(127, scale, 60_000)), 0, 254) for scale in (1, 20))
    streams = [narrow.astype(np.int32), wide.astype(np.int32)]
    shapes = [shape_of(stream, 255, 300) for stream in streams]
    lengths = CODERS[name].code_lengths(CODERS[name].encode_chunk(streams, shapes), shapes)
    for length, stream in zip(lengths, streams, strict=True):
        assert length == pytest.approx(zero_order_entropy_bits(stream), rel=0.01)


def test_fast_shares_out_escapes_low_bits_and_both_quantisers() -> None:
    generator = np.random.default_rng(7)
    outliers = np.where(generator.random(9000) < 0.01, generator.integers(0, 1 << 20, 9000), 1 << 19).astype(np.int32)
    spread = generator.integers(0, 1 << 20, 5000).astype(np.int32)
    rows = np.round(np.repeat([1.0, 40.0], 20)[:, None] * generator.laplace(size=(40, 400))).astype(np.int32) + 500
    streams = [outliers, spread, rows.reshape(-1)]
    shapes = [
        StreamShape(count=9000, alphabet_size=1 << 20),
        StreamShape(count=5000, alphabet_size=1 << 20),
        StreamShape(count=16_000, alphabet_size=1001, row_length=400, trellis_bits=3),
    ]
    coder = CODERS["fast"]
    payload = coder.encode_chunk(streams, shapes)
    lengths = coder.code_lengths(payload, shapes)
    assert 0 <= 8 * len(payload) - math.fsum(lengths) <= 80
    alone = [len(coder.encode_chunk([stream], [shape])) for stream, shape in zip(streams, shapes, strict=True)]
    for length, size_bytes in zip(lengths, alone, strict=True):
        assert length / 8 == pytest.approx(size_bytes, rel=0.02)


def test_the_constant_coder_refuses_different_symbols() -> None:
    stream = np.array([1, 2], dtype=np.int32)
    with pytest.raises(CodecError, match="the symbols differ"):
        CODERS["constant"].encode_chunk([stream], [shape_of(stream, 3)])


def test_identifiers_are_what_files_hold() -> None:
    assert {name: coder.identifier for name, coder in CODERS.items()} == {"constant": 0, "small": 1, "fast": 2}
    assert [name_of(identifier) for identifier in range(4)] == ["constant", "small", "fast", None]


def test_unknown_coders_are_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        check_name("smal")
    with pytest.raises(ConfigError, match="choose one of: constant, fast, small"):
        check_name("qqq")


def test_what_does_not_decode_to_its_symbols_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.arange(5, dtype=np.int32)
    monkeypatch.setattr(CODERS["fast"], "decode_chunk", lambda *_: [stream[::-1]])
    with pytest.raises(CodecError, match="does not give the symbols back"):
        encode("fast", [stream], [shape_of(stream, 5)])


@pytest.mark.parametrize(
    ("symbols", "bits"),
    [([], 0.0), ([5], 0.0), ([5, 5, 5], 0.0), ([0, 1], 2.0), ([0, 0, 0, 1], 4 * 0.8112781244591328)],
)
def test_entropy(symbols: list[int], bits: float) -> None:
    assert zero_order_entropy_bits(np.array(symbols, dtype=np.int64)) == pytest.approx(bits, rel=1e-15)
