"""Files made to harm: right checksum, wrong content."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq import container
from metaq.coding.varint import encode_varint
from metaq.errors import FormatError, MetaqError
from metaq.grid import BucketGrid
from metaq.tensors import Dtype, QuantizedTensor

GRID = bytes([1, 5]) + b"\x3f"
"""Five buckets, centre 0, and a radius of one byte: 2**-15."""

CONSTANT, RANGE, ADAPTIVE = 1, 4, 9


def number(*values: int) -> bytes:
    return b"".join(encode_varint(value) for value in values)


def name(text: bytes = b"w", *, shared: int = 0) -> bytes:
    return number(shared, len(text) << 3) + text


def quantized(shape: tuple[int, ...], size: int, *, label: bytes | None = None, coder: int = CONSTANT) -> bytes:
    first = bytes([min(len(shape), 7) << 5]) + (number(len(shape)) if len(shape) >= 7 else b"")
    return (name() if label is None else label) + first + number(*shape) + number(coder << 2 | 1) + GRID + number(size)


def exact(dtype: int, shape: tuple[int, ...], size: int, *, stored: int = 0) -> bytes:
    return name() + bytes([len(shape) << 5 | dtype]) + number(*shape, stored << 2, size)


def file(header: bytes, payload: bytes = b"", *, tensors: int = 1, metadata: int = 0) -> bytes:
    header = number(tensors, metadata) + header
    body = b"\x8fMTQ\x01\x00\x00" + number(len(header)) + header + payload
    return body + struct.pack("<I", zlib.crc32(body))


def refusal(data: bytes, *, max_bytes: int = container.DEFAULT_MAX_BYTES) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            container.decode(data, max_bytes=max_bytes, source="model.metaq")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith("model.metaq: ")
    assert message.endswith(".")
    return message


def test_the_builder_makes_sound_files() -> None:
    found = container.decode(file(quantized((3, 2), 1), b"\x02")).tensors[0]
    assert isinstance(found, QuantizedTensor)
    assert found.indices.tolist() == [[2, 2]] * 3
    assert found.grid == BucketGrid(center=0.0, radius=2.0**-15, count=5)


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file(b"", tensors=HUGE), "cut off"),
        (file(b"", tensors=0, metadata=HUGE), "cut off"),
        (file(quantized((1 << 34,), 1), b"\2"), "elements"),
        (file(quantized((1 << 32, 1 << 32), 1), b"\2"), "elements"),
        (file(quantized((0, 1 << 62), 0)), "elements"),
        (file(quantized((1 << 21,) * 3, 1), b"\2"), "elements"),
        (file(quantized((1,) * 33, 1), b"\2"), "33 dimensions"),
        (file(quantized((3,), HUGE), b"\2"), "add up"),
        (file(quantized((3,), 0), b"\2"), "add up"),
        (file(quantized((1 << 33,), 1), b"\2"), "max_bytes"),
        (file(quantized((3,), 1, coder=0), b"\2"), "unknown coder 0"),
        (file(quantized((3,), 1, coder=200), b"\2"), "unknown coder 200"),
        (file(quantized((3,), 1), b"\5"), "outside the alphabet"),
        (file(quantized((3,), 2), b"\2\2"), "left over"),
        (file(quantized((3,), 0)), "inside a number"),
        (file(quantized((1 << 29,), 4, coder=ADAPTIVE), b"\2aaa"), "cannot hold"),
        (file(quantized((3,), 1) * 2, b"\2\2", tensors=2), "twice or is out of order"),
        (
            file(quantized((3,), 1) + quantized((3,), 1, label=name(b"a")), b"\2\2", tensors=2),
            "twice or is out of order",
        ),
        (file(quantized((3,), 1, label=name(shared=1)), b"\2"), "shares 1 bytes"),
        (file(quantized((3,), 1, label=number(0, HUGE)), b"\2"), "promised"),
        (file(quantized((3,), 1, label=number(0, 7)), b"\2"), "unknown ending 7"),
        (file(quantized((3,), 1, label=name(b"\xff\xfe")), b"\2"), "not valid UTF-8"),
        (file(name() + bytes([31]) + number(0, 0)), "element type 31"),
        (file(name() + bytes([0]) + number(7, 0)), "grid"),
        (file(name() + bytes([0]) + number(CONSTANT << 2 | 2, 1), b"\2"), "there is none"),
        (file(name() + bytes([0]) + number(CONSTANT << 2 | 3, 0, 1), b"\2"), "grid 0 is needed"),
        (file(name() + bytes([9]) + number(CONSTANT << 2 | 1) + GRID + number(1), b"\2"), "does not fit bool"),
        (file(exact(0, (2,), 8, stored=2), bytes(8)), "unknown way 2"),
        (file(exact(0, (2,), 7), bytes(7)), "7 bytes were found where 8 are needed"),
        (file(exact(9, (2,), 2), b"\1\2"), "truth value"),
        (file(exact(0, (2,), 3, stored=1), b"abc"), "zstd"),
        (file(quantized((3,), 1) + b"\0", b"\2"), "left over"),
        (file(name(b"k") + b"\7", tensors=0, metadata=1), "promised|kind"),
        (file(number(1) + b"k\7", tensors=0, metadata=1), "unknown kind 7"),
        (file(number(1) + b"k\2", tensors=0, metadata=1), "promised"),
        (file((number(1) + b"k" + b"\1\1") * 2, tensors=0, metadata=2), "twice or is out of order"),
        (file(number(1) + b"k\0" + number(HUGE), tensors=0, metadata=1), "promised"),
    ],
)
def test_malicious_headers_are_refused(data: bytes, message: str) -> None:
    assert any(part in refusal(data) for part in message.split("|"))


@pytest.mark.parametrize(
    "grid",
    [
        bytes([0, 5]),
        bytes([8, 5]) + struct.pack(">d", float("nan")),
        bytes([8, 5]) + struct.pack(">d", float("inf")),
        bytes([8, 5]) + struct.pack(">d", -1.0),
        bytes([8 * 11 + 8, 5]) + struct.pack(">dd", float("nan"), 1.0),
        bytes([8 * 11 + 8, 5]) + struct.pack(">dd", 1e300, 1.0),
        bytes([1, 0]) + b"\x3f",
        bytes([1, 1]) + b"\x3f",
        bytes([1]) + number(1 << 40) + b"\x3f",
        bytes([121, 5]) + b"\x3f",
        bytes([128 + 1]) + b"\x3f",
        bytes([8, 5]) + struct.pack(">d", 1e300),
    ],
)
def test_bad_grids_are_refused(grid: bytes) -> None:
    data = file(name() + bytes([0]) + number(CONSTANT << 2 | 1) + grid + number(1), b"\2")
    assert "grid" in refusal(data)


def test_memory_is_limited_by_the_caller() -> None:
    data = file(quantized((1000,), 1), b"\2")
    assert "12000 bytes of memory" in refusal(data, max_bytes=11_999)
    assert container.decode(data, max_bytes=12_000).tensors[0].shape == (1000,)


def test_a_header_bomb_is_stopped() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(bytes(1 << 24)) + deflate.flush()
    for promised in (100, 1 << 24, 1 << 40):
        body = b"\x8fMTQ\x01\x00\x01" + number(len(packed), promised) + packed
        data = body + struct.pack("<I", zlib.crc32(body))
        with pytest.raises(FormatError):
            container.decode(data)


@settings(max_examples=400)
@given(rest=st.binary(max_size=80), flags=st.integers(0, 1))
def test_random_bytes_with_a_right_checksum_never_crash(rest: bytes, flags: int) -> None:
    body = b"\x8fMTQ\x01\x00" + bytes([flags]) + rest
    try:
        container.decode(body + struct.pack("<I", zlib.crc32(body)), max_bytes=1 << 20)
    except MetaqError:
        return


@settings(max_examples=400)
@given(position=st.integers(7, 10_000), value=st.integers(0, 255), length=st.integers(0, 3))
def test_sound_files_with_a_few_wrong_bytes_never_crash(position: int, value: int, length: int) -> None:
    grid = BucketGrid(center=0.0, radius=1.5, count=5)
    tensors = [
        QuantizedTensor(name=f"w{n}", indices=np.full((4, 4), n % 5), grid=grid, dtype=Dtype.float16) for n in range(3)
    ]
    body = bytearray(container.encode(tensors, metadata={"a": 1, "b": "text"}, coder="rans")[:-4])
    position %= len(body)
    body[max(position, 7) : position + length] = bytes([value])
    try:
        container.decode(bytes(body) + struct.pack("<I", zlib.crc32(body)), max_bytes=1 << 20)
    except FormatError:
        return
