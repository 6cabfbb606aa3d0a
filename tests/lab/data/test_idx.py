"""IDX files: what is read back, and every way a file can be wrong."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from metaq.errors import DataError
from metaq.lab.data.idx import parse_idx, read_idx, sha256_of_idx

from .conftest import to_idx

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def parse(data: bytes, dimensions: int = 3) -> np.ndarray:
    return parse_idx(io.BytesIO(data), origin="some-file", dimensions=dimensions)


@given(
    values=arrays_of.arrays(np.uint8, arrays_of.array_shapes(min_dims=1, max_dims=3, max_side=6)), gzipped=st.booleans()
)
def test_what_was_written_is_read(values: np.ndarray, gzipped: bool) -> None:
    data = gzip.compress(to_idx(values)) if gzipped else to_idx(values)
    assert np.array_equal(parse(data, values.ndim), values)


def test_checksum_is_that_of_the_file() -> None:
    assert sha256_of_idx(np.array([1, 2], dtype=np.uint8)) == (
        "7d8d5bbc33d5b40c823ac6678cbbc756ecb1462a2b5bb7feefb0e7a953dbb0f9"
    )


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_truncation_is_refused(wrap: object) -> None:
    data = wrap(to_idx(IMAGES))  # type: ignore[operator]
    for length in range(len(data)):
        with pytest.raises(DataError, match="some-file: "):
            parse(data[:length])


def test_every_truncation_before_compression_is_refused() -> None:
    data = to_idx(IMAGES)
    for length in range(len(data)):
        with pytest.raises(DataError, match="some-file: "):
            parse(gzip.compress(data[:length]))


def test_every_flipped_bit_of_a_gzip_file_is_harmless_or_refused() -> None:
    data = bytearray(gzip.compress(to_idx(IMAGES)))
    for position in range(8 * len(data)):
        data[position // 8] ^= 1 << position % 8
        with contextlib.suppress(DataError):
            assert np.array_equal(parse(bytes(data)), IMAGES)
        data[position // 8] ^= 1 << position % 8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "starts with 0x;", id="empty"),
        pytest.param(b"<!DOCTYPE html>" * 9, "starts with 0x3c21444f", id="web page"),
        pytest.param(to_idx(IMAGES[0]), "starts with 0x00000802", id="other dimensions"),
        pytest.param(b"\0\0\x09" + to_idx(IMAGES)[3:], "starts with 0x00000903", id="other dtype"),
        pytest.param(to_idx(IMAGES) + b"\0", "more follow", id="too long"),
        pytest.param(gzip.compress(to_idx(IMAGES) + b"\0"), "more follow", id="too long in gzip"),
        pytest.param(gzip.compress(to_idx(IMAGES)) + b"rest", "damaged", id="more after gzip"),
        pytest.param(to_idx(IMAGES[:0]), "holds nothing", id="no images"),
        pytest.param(to_idx(IMAGES[:, :0]), "holds nothing", id="no rows"),
        pytest.param(b"\0\0\x08\x03" + struct.pack(">3I", *3 * [2**32 - 1]), "more than the file can hold", id="huge"),
        pytest.param(
            gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2**20, 2**10, 2**10)),
            "more than the file can hold",
            id="huge in gzip",
        ),
    ],
)
def test_wrong_contents_are_named(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"some-file: .*{words}"):
        parse(data)


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(to_idx(IMAGES) + bytes(1 << 26))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more follow"):
            parse(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_an_unreadable_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: cannot be read"):
        read_idx(tmp_path / "absent", dimensions=1)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, dimensions=1)
