"""Payloads from strangers: refused with a sentence, or decoded to something within the alphabet."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.coding import CODERS, Coder
from metaq.coding.bits import BitReader
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

EVERY_CODER = pytest.mark.parametrize("coder", CODERS.values(), ids=CODERS.keys())
OWN = ["constant", "packed", "huffman", "range", "rans"]


def sample(coder: Coder) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    if coder.name == "constant":
        return np.full(90, 7)
    return np.random.default_rng(5).binomial(9, 0.2, 90)


@EVERY_CODER
def test_truncation_is_refused(coder: Coder) -> None:
    symbols = sample(coder)
    payload = coder.encode(symbols, 10, row_length=9).payload
    for length in range(len(payload)):
        try:
            decoded = coder.decode(payload[:length], count=symbols.size, alphabet_size=10, row_length=9)
        except CodecError:
            continue
        # Arithmetic codes have no holes: a piece of one can be the code of other symbols, and is theirs alone.
        assert coder.name in ("range", "rans")
        assert not np.array_equal(decoded, symbols)


@EVERY_CODER
def test_trailing_bytes_are_refused(coder: Coder) -> None:
    symbols = sample(coder)
    payload = coder.encode(symbols, 10, row_length=9).payload
    for extra in (b"\0", b"\x01", b"\xff", b"\0\0\0\0", b"garbage"):
        with pytest.raises(CodecError):
            coder.decode(payload + extra, count=symbols.size, alphabet_size=10, row_length=9)
    with pytest.raises(CodecError):
        coder.decode(payload, count=0, alphabet_size=10)


@pytest.mark.parametrize("name", OWN)
def test_only_the_encoders_own_bytes_are_accepted(name: str) -> None:
    coder = CODERS[name]
    symbols = sample(coder)
    payload = coder.encode(symbols, 10, row_length=9).payload
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded = coder.decode(bytes(damaged), count=90, alphabet_size=10, row_length=9)
        except CodecError:
            continue
        assert not np.array_equal(decoded, symbols)
        assert decoded.min() >= 0
        assert decoded.max() < 10


@EVERY_CODER
@settings(max_examples=150)
@given(
    payload=st.binary(max_size=60),
    count=st.integers(0, 3000),
    alphabet_size=st.sampled_from([1, 2, 255, 70_000, 1 << 31]),
    row_length=st.integers(0, 100),
)
def test_random_bytes_never_crash(
    coder: Coder, payload: bytes, count: int, alphabet_size: int, row_length: int
) -> None:
    try:
        symbols = coder.decode(payload, count=count, alphabet_size=alphabet_size, row_length=row_length)
    except CodecError:
        return
    assert symbols.shape == (count,)
    assert count == 0 or (symbols.min() >= 0 and symbols.max() < alphabet_size)


@pytest.mark.parametrize("name", ["packed", "huffman", "gzip", "lzma"])
def test_counts_that_the_bytes_cannot_hold_take_no_memory(name: str) -> None:
    coder = CODERS[name]
    payload = coder.encode(sample(coder), 10).payload
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            coder.decode(payload, count=1 << 33, alphabet_size=10)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_a_deflate_bomb_is_stopped_at_the_promised_size() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"\0" + deflate.compress(bytes(1 << 26)) + deflate.flush()
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="do not end where they should"):
            CODERS["gzip"].decode(bomb, count=10, alphabet_size=255)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "promised", [{"write_content_size": True}, {"write_content_size": False, "write_checksum": True}]
)
def test_a_zstd_frame_that_promises_a_size_or_a_checksum_is_refused(promised: dict[str, bool]) -> None:
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, **promised)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(10))
    with pytest.raises(CodecError, match="names its own size or has a checksum"):
        CODERS["zstd"].decode(b"\0" + frame, count=10, alphabet_size=255)


def test_a_table_cannot_ask_for_more_than_its_bytes() -> None:
    with pytest.raises(CodecError, match="entries is promised"):
        BitReader(b"\xff\xff", 0).exp_golomb(1 << 40, (0, 0))


@given(value=st.integers(0, (1 << 63) - 1), rest=st.binary(max_size=3))
def test_varints_come_back(value: int, rest: bytes) -> None:
    data = encode_varint(value)
    assert decode_varint(b"x" + data + rest, 1) == (value, 1 + len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 20])
def test_bad_varints_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_varint(data, 0)


def test_numbers_that_do_not_fit_a_varint_are_refused() -> None:
    for value in (-1, 1 << 63):
        with pytest.raises(CodecError):
            encode_varint(value)
