"""Numbers, tables and frames from strangers."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from metaq.coding import zstd
from metaq.coding.bits import BitReader
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError


@pytest.mark.parametrize(
    "promised", [{"write_content_size": True}, {"write_content_size": False, "write_checksum": True}]
)
def test_a_zstd_frame_that_promises_a_size_or_a_checksum_is_refused(promised: dict[str, bool]) -> None:
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, **promised)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(10))
    with pytest.raises(CodecError, match="names its own size or has a checksum"):
        zstd.decompress(frame, 10)


def test_a_zstd_frame_comes_back_and_is_refused_where_it_is_damaged() -> None:
    raw = bytes(range(256)) * 9
    for frame in (zstd.compress(raw), zstd.compress_blocks([raw[:1000], raw[1000:]], len(raw))):
        assert zstd.decompress(frame, len(raw)) == raw
        for damaged in (frame[:-1], frame + b"\0", b""):
            with pytest.raises(CodecError, match="damaged"):
                zstd.decompress(damaged, len(raw))
        with pytest.raises(CodecError, match="damaged"):
            zstd.decompress(frame, len(raw) - 1)


def test_numbers_cannot_ask_for_more_than_their_bytes() -> None:
    with pytest.raises(CodecError, match="numbers are promised"):
        BitReader(b"\xff\xff", 0).exp_golomb(1 << 40, 0)


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
