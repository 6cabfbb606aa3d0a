"""Files made to harm: right checksums, wrong content."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq import container
from metaq.coding.header_bytes import MAX_EXPANSION, encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor, TiedTensor

CONSTANT, SMALL = 0, 1
GRID = b"\x01" + b"\5" + b"\x3f"
"""Five buckets, centre 0, and a radius of one byte: 2**-15."""

HUGE = 1 << 62
PLAIN, SAME, EARLIER, COLUMNS, OWN = 1, 2, 3, 4, 64
TIED = 3 << 2


def number(*values: int) -> bytes:
    return b"".join(encode_varint(value) for value in values)


def name(text: bytes = b"w", *, shared: int = 0) -> bytes:
    return number(shared, len(text) << 3) + text


def shape(*sizes: int, dtype: int = 0) -> bytes:
    return bytes([dtype | min(len(sizes), 7) << 5]) + (number(len(sizes)) if len(sizes) >= 7 else b"") + number(*sizes)


def one(
    sizes: bytes,
    *,
    label: bytes | None = None,
    stored: bytes = b"\1",
    grids: bytes = GRID,
    chunks: Sequence[int] = (1,),
) -> bytes:
    return (name() if label is None else label) + sizes + stored + grids + number(*chunks)


def based(sizes: bytes, *, scales: bytes = b"", chunks: Sequence[int] = (1,)) -> bytes:
    """A tensor with scales and a basis of three columns."""
    stored = bytes([PLAIN | 128]) + number(2)
    return one(sizes, stored=stored, grids=number(3) + b"\1\1\5\5\x3f\x3f" + scales, chunks=chunks)


def file(
    fields: bytes,
    *payloads: bytes,
    tensors: int = 1,
    metadata: int = 0,
    coder: int = CONSTANT,
    chunk_bits: int = 20,
    promised: int | None = None,
) -> bytes:
    raw = number(tensors, metadata) + bytes([coder << 5 | chunk_bits]) + fields
    stored = number(len(raw) if promised is None else promised) + encode_header_bytes(raw)
    head = b"\x8fMTQ\1" + number(len(stored)) + stored
    if len(payloads) > 1:
        head = sealed(head + b"".join(struct.pack("<I", zlib.crc32(payload)) for payload in payloads))
    return sealed(head + b"".join(payloads))


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def refusal(data: bytes, *, max_bytes: int = container.DEFAULT_MAX_BYTES) -> str:
    # What the model of the header takes is made once and kept.
    encode_header_bytes(b"")
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            container.decode(data, max_bytes=max_bytes, source="model.metaq")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith("model.metaq: ")
    assert message.endswith(".")
    return message


def test_the_builder_makes_sound_files() -> None:
    found = container.decode(file(one(shape(3, 2)), b"\x02")).tensors[0]
    assert isinstance(found, QuantizedTensor)
    assert found.indices.tolist() == [[2, 2]] * 3
    assert found.grid == BucketGrid(center=0.0, radius=2.0**-15, count=5)


TWO = name(b"a") + name(b"b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file(b"", tensors=HUGE), "more than 262144"),
        (file(b"", tensors=1000), "cut off"),
        (file(b"", tensors=0, metadata=HUGE), "cut off"),
        (file(one(shape(1 << 34)), b"\2"), "elements"),
        (file(one(shape(1 << 32, 1 << 32)), b"\2"), "elements"),
        (file(one(shape(0, 1 << 62), chunks=())), "elements"),
        (file(one(shape(*[1 << 21] * 3)), b"\2"), "elements"),
        (file(TWO + shape(1 << 33) + shape(1), b"\2", tensors=2), "elements"),
        (file(one(shape(*[1] * 33)), b"\2"), "33 dimensions"),
        (file(one(shape(3), chunks=[HUGE]), b"\2"), "add up"),
        (file(one(shape(3), chunks=[0]), b"\2"), "add up"),
        (file(one(shape(1 << 33), chunks=[1] * 2048), *[b"\2"] * 2048, chunk_bits=22), "max_bytes"),
        (file(one(shape(3)), b"\2", coder=3), "unknown coder 3"),
        (file(one(shape(3)), b"\2", coder=7), "unknown coder 7"),
        (file(one(shape(3), stored=bytes([PLAIN | OWN]) + number(200)), b"\2"), "unknown coder 200"),
        (file(one(shape(3)), b"\2", chunk_bits=23), "too large"),
        (file(one(shape(3)), b"\2", chunk_bits=31), "too large"),
        (file(one(shape(3)), b"\5"), "outside the alphabet"),
        (file(one(shape(3), chunks=[2]), b"\2\2"), "left over"),
        (file(one(shape(3), chunks=[0])), "inside a number"),
        (file(one(shape(1 << 29), chunks=[4]), b"\2aaa", coder=SMALL), "cut off"),
        (file(name() * 2, tensors=2), "twice or is out of order"),
        (file(name() + name(b"a"), tensors=2), "twice or is out of order"),
        (file(one(shape(3), label=name(shared=1)), b"\2"), "shares 1 bytes"),
        (file(one(shape(3), label=number(0, HUGE)), b"\2"), "promised"),
        (file(one(shape(3), label=number(0, 7)), b"\2"), "unknown ending 7"),
        (file(one(shape(3), label=name(b"\xff\xfe")), b"\2"), "not valid UTF-8"),
        (file(one(shape(dtype=31))), "element type 31"),
        (file(one(shape(3), stored=bytes([SAME]), grids=b""), b"\2"), "there is none"),
        (file(one(shape(3), stored=bytes([EARLIER, 0]), grids=b""), b"\2"), "grid 0 is needed"),
        (file(one(shape(3, dtype=9)), b"\2"), "does not fit bool"),
        (file(one(shape(3), stored=bytes([PLAIN | 128]) + number(3)), b"\2"), "basis 1 is needed"),
        (file(one(shape(3), stored=bytes([PLAIN | 128]) + number(4)), b"\2"), "basis 1 is needed"),
        (file(one(shape(3), stored=bytes([PLAIN | 128]) + number(HUGE)), b"\2"), "is needed"),
        (file(based(shape(0, 3), scales=bytes([128] * 3)), b"\2"), "cannot have scales"),
        (file(based(shape(3, 2), scales=bytes([128] * 5)), b"\2"), "cannot be combined from a basis of 3 columns"),
        (file(based(shape(1, 3), chunks=()), b"\2"), "promised"),
        (
            file(based(shape(1, 3, dtype=1), scales=b"\xff" * 4, chunks=[2]), b"\4\4"),
            "reach beyond the largest float16",
        ),
        (file(one(shape(3), stored=bytes([PLAIN | 128]) + number(0)), b"\2"), "cannot have scales"),
        (file(one(shape(0, 3), stored=bytes([PLAIN | 128]) + number(0)), b"\2"), "cannot have scales"),
        (file(one(shape(1, 3), stored=bytes([PLAIN | 128]) + number(0), chunks=())), "promised"),
        (file(one(shape(1, 1 << 32), stored=bytes([PLAIN | 128]) + number(0)), b"\2"), "promised"),
        (
            file(one(shape(1, 1, dtype=1), stored=bytes([PLAIN | 128]) + number(0), grids=GRID + b"\xff\xff"), b"\2"),
            "does not fit",
        ),
        (file(one(shape(2), stored=bytes([1 << 6]), grids=b""), bytes(8)), "unknown way 16"),
        (
            file(one(shape(17), stored=bytes([2 << 2]) + bytes(68), grids=b"", chunks=())),
            "68 bytes stands in the header",
        ),
        (file(one(shape(2), stored=bytes([2 << 2]) + bytes(7), grids=b"", chunks=())), "promised"),
        (file(one(shape(0), stored=bytes([0]), grids=b"", chunks=[0])), "no elements but a chunk"),
        (
            file(one(shape(2), stored=bytes([0]), grids=b"", chunks=[7]), bytes(7)),
            "7 bytes were found where 8 are needed",
        ),
        (file(one(shape(2, dtype=9), stored=bytes([0]), grids=b"", chunks=[2]), b"\1\2"), "truth value"),
        (file(one(shape(2, dtype=9), stored=bytes([2 << 2, 1, 2]), grids=b"", chunks=())), "truth value"),
        (file(one(shape(2), stored=bytes([1 << 2]), grids=b"", chunks=[3]), b"abc"), "zstd"),
        (file(one(shape(3), stored=bytes([PLAIN | 2 << 3]), grids=b"\x01\4\x3f"), b"\2"), "cannot have a trellis"),
        (file(one(shape(3)) + b"\0", b"\2"), "left over"),
        (file(number(1) + b"k\7", tensors=0, metadata=1), "unknown kind 7"),
        (file(number(1) + b"k\2", tensors=0, metadata=1), "promised"),
        (file((number(1) + b"k" + b"\1\1") * 2, tensors=0, metadata=2), "twice or is out of order"),
        (file(number(1) + b"k\0" + number(HUGE), tensors=0, metadata=1), "promised"),
        (file(one(shape(3)), b"\2", promised=0), "left over|damaged"),
        (file(one(shape(3)), b"\2", promised=HUGE), "not possible"),
        (file(one(shape(3)), b"\2", promised=1 << 28), "cannot hold"),
    ],
)
def test_malicious_headers_are_refused(data: bytes, message: str) -> None:
    found = refusal(data)
    assert any(part in found for part in message.split("|")), found


FLOAT8 = 15


def test_types_of_eight_bits_are_quantised_within_their_range() -> None:
    assert "does not fit float8" in refusal(file(one(shape(3, dtype=FLOAT8), grids=b"\x09\x05\x64\x00"), b"\2"))


def test_types_of_eight_bits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.metaq"
    path.write_bytes(file(one(shape(3, dtype=FLOAT8)), b"\4"))
    (restored,) = (tensor.restore() for _, tensor in container.stream(path))
    # 0.8 of a radius of 2**-15 is less than half the smallest number of the type.
    assert restored.tolist() == [0, 0, 0]
    (found,) = container.read(path).tensors
    assert found.restore().tolist() == [0, 0, 0]


def tied(*stored: bytes, shapes: bytes | None = None) -> bytes:
    """A file of as many tensors of three elements, the first of which that is not tied has the grid and the chunk."""
    names = b"".join(name(bytes([letter])) for letter in range(97, 97 + len(stored)))
    sizes = shape(3) * len(stored) if shapes is None else shapes
    fields = names + sizes + b"".join(stored) + GRID + number(1)
    return file(fields, b"\2", tensors=len(stored))


def tie(first: int) -> bytes:
    return bytes([TIED]) + number(first)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tied(tie(0), b"\1"), "tensor 0 is tied to tensor 0, which is not an earlier one"),
        (tied(tie(1), b"\1"), "tensor 0 is tied to tensor 1, which is not an earlier one"),
        (tied(b"\1", tie(1)), "tensor 1 is tied to tensor 1, which is not an earlier one"),
        (tied(b"\1", tie(HUGE)), "which is not an earlier one"),
        (tied(b"\1", tie(0), tie(1)), "tensor 2 is tied to tensor 1, which is tied itself"),
        (tied(b"\1", tie(0), shapes=shape(3) + shape(4)), "another type or shape"),
        (tied(b"\1", tie(0), shapes=shape(3) + shape(3, 1)), "another type or shape"),
        (tied(b"\1", tie(0), shapes=shape(3) + shape(3, dtype=1)), "another type or shape"),
        (tied(b"\1", bytes([5 << 2])), "unknown way 5"),
    ],
)
def test_ties_that_lead_nowhere_are_refused(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_ties_are_read_and_count_for_the_limit_of_memory() -> None:
    data = tied(b"\1", tie(0), tie(0))
    first, second, third = container.decode(data).tensors
    assert isinstance(second, TiedTensor)
    assert isinstance(third, TiedTensor)
    assert second.first is third.first is first
    names = b"".join(name(bytes([letter])) for letter in range(97, 97 + 26))
    bomb = names + shape(1 << 28) * 26 + b"\1" + tie(0) * 25 + GRID + number(1) * 64
    assert "max_bytes" in refusal(file(bomb, *[b"\2"] * 64, tensors=26, chunk_bits=22))


def test_more_chunks_than_bytes_are_refused_before_they_are_listed() -> None:
    assert "sizes of the chunks are cut off" in refusal(file(one(shape(1 << 33)), b"\2", coder=SMALL, chunk_bits=0))


PLANES = bytes([4 << 2])
FLOAT32, UINT8, BOOL, COMPLEX128 = 0, 5, 9, 14


def planes(payload: bytes, *sizes: int, dtype: int = UINT8) -> bytes:
    """A file of a tensor in planes that is one chunk."""
    return file(one(shape(*sizes, dtype=dtype), stored=PLANES, grids=b"", chunks=[len(payload)]), payload)


def test_the_builder_makes_sound_planes() -> None:
    assert container.decode(planes(b"\0\0abc", 3)).tensors[0].restore().tobytes() == b"abc"
    # Three elements of four bits that are zero and four that are not; a palette of one element.
    assert container.decode(planes(b"\0\2\0\4\x44\x21\3", 3)).tensors[0].restore().tolist() == [1, 2, 3]
    fields = container.decode(planes(b"\2\3\1\0\7\0\0\0", 5)).tensors[0]
    assert fields.restore().tolist() == [7] * 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (planes(b"", 3), "empty"),
        (planes(b"\0", 3), "ends within the form"),
        (planes(b"\0\0ab", 3), "3 bytes are promised"),
        (planes(b"\0\0abcd", 3), "left over"),
        (planes(b"\1\0abc", 3), "coder 1"),
        (planes(b"\3\0abc", 3), "coder 3"),
        (planes(b"\0\4abc", 3), "no form"),
        (planes(b"\0\x0e\0\x48abc", 3), "no form"),
        (planes(b"\0\x10abc", 3), "no form"),
        (planes(b"\0\x20abc", 3), "no form"),
        (planes(b"\0\x80abc", 3), "no form"),
        (planes(b"\0\1" + number(HUGE), 3), "promised"),
        (planes(b"\0\1\0", 3), "zstd"),
        (planes(b"\0\2\0\x44\x44\1\2\3\4", 3), "left over"),
        (planes(b"\0\2\0\4\x44\xff\xff", 3), "filled up with zeros"),
        (planes(b"\0\2\0\4\x45", 3), "no field of 4 bits"),
        (planes(b"\0\2\0\x40", 3), "no field of 8 bits"),
        (planes(b"\0\2\0\xc8", 3), "no field of 8 bits"),
        (planes(b"\0\2\0\x91\x0f", 3, dtype=FLOAT32), "no field of 32 bits"),
        (planes(b"\0\2\0\x7f\1" + bytes(99), 3, dtype=COMPLEX128), "63 bits as they are"),
        (planes(b"\2\2\0" + bytes([0x81] * 9 + [55]), 3, dtype=COMPLEX128), "9 coded fields"),
        (planes(b"\0\2\0\x88", 3), "coder 0"),
        (planes(b"\0\2\0\x88\0", 3), "coder 0"),
        (planes(b"\2\2\0\x88", 3), "inside a number"),
        (planes(b"\2\2\5\4\x84\0\0\0", 3), "rows of 4"),
        (planes(b"\2\2" + number(HUGE) + b"\4\x84\0\0\0", 3), "rows of"),
        (planes(b"\2\x12\0\4\x84\0\0\0", 3), "rows of 0"),
        (planes(b"\2\x12\3\4\x84\0\0\0", 3), "rows of 2"),
        (planes(b"\2\3\0\0", 3), "palette of 0"),
        (planes(b"\2\3" + number(1 << 17) + b"\0", 3), "palette of 131072"),
        (planes(b"\2\3\2\0\1\2\0\0\6", 3), "do not fit an alphabet of 2"),
        (planes(b"\0\0\0\1\2", 3, dtype=BOOL), "truth value"),
        (file(one(shape(0), stored=PLANES, grids=b"", chunks=())), "no elements"),
        (file(one(shape(1 << 33), stored=PLANES, grids=b""), b"\0", chunk_bits=0), "cut off"),
        (
            file(one(shape(1 << 31), stored=PLANES, grids=b"", chunks=[3] * 1024), *[b"\0\0a"] * 1024, chunk_bits=22),
            "promised",
        ),
        (
            file(one(shape(1 << 33), stored=PLANES, grids=b"", chunks=[1] * 4096), *[b"\0"] * 4096, chunk_bits=22),
            "max_bytes",
        ),
    ],
)
def test_malicious_planes_are_refused(data: bytes, message: str) -> None:
    assert message in refusal(data, max_bytes=1 << 34)


@settings(max_examples=400)
@given(
    form=st.binary(max_size=12),
    payload=st.binary(max_size=30),
    coder=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 6), max_size=3),
    dtype=st.integers(0, 16),
)
def test_random_planes_never_crash(form: bytes, payload: bytes, coder: int, sizes: list[int], dtype: int) -> None:
    read_or_refused(planes(bytes([coder]) + form + payload, *sizes, dtype=dtype))


@pytest.mark.parametrize(
    "grid",
    [
        bytes([0x00, 5]),
        bytes([0x08, 5]) + struct.pack(">d", float("nan")),
        bytes([0x08, 5]) + struct.pack(">d", float("inf")),
        bytes([0x08, 5]) + struct.pack(">d", -1.0),
        bytes([0x88, 5]) + struct.pack(">dd", float("nan"), 1.0),
        bytes([0x88, 5]) + struct.pack(">dd", 1e300, 1.0),
        bytes([0x01, 0]) + b"\x3f",
        bytes([0x01, 1]) + b"\x3f",
        bytes([0x01]) + number(1 << 40) + b"\x3f",
        bytes([0x0C]) + number(HUGE) + struct.pack(">e", 1.0),
        bytes([0x0D]) + number(HUGE) + struct.pack(">f", float("inf")),
        bytes([0x0F, 5]),
        bytes([0xC1, 5]) + b"\x3f",
        bytes([0x0B, 5]) + number(2) + bytes([23]),
        bytes([0x0B, 5]) + number(HUGE) + bytes([1]),
        bytes([0x08, 5]) + struct.pack(">d", 1e300),
    ],
)
def test_bad_grids_are_refused(grid: bytes) -> None:
    assert "grid" in refusal(file(one(shape(3), grids=grid), b"\2"))


def test_memory_is_limited_by_the_caller() -> None:
    data = file(one(shape(1000)), b"\2")
    assert "12000 bytes of memory" in refusal(data, max_bytes=11_999)
    assert container.decode(data, max_bytes=12_000).tensors[0].shape == (1000,)


def test_names_that_grow_from_each_other_are_stopped() -> None:
    length = 1 << 14
    names = name(b"a" * length) + b"".join(name(b"b", shared=length + step) for step in range(2000))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="names have more than"):
            container.decode(file(names, tensors=2001))
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_a_header_bomb_is_stopped() -> None:
    packed = encode_header_bytes(bytes(1 << 16))
    for promised in (100, MAX_EXPANSION * (len(packed) + 8) + 1, 1 << 28, 1 << 40):
        stored = number(promised) + packed
        assert "header" in refusal(sealed(b"\x8fMTQ\1" + number(len(stored)) + stored))


@settings(max_examples=200)
@given(rest=st.binary(max_size=80), version=st.sampled_from([1, 1, 2]))
def test_random_bytes_with_a_right_checksum_never_crash(rest: bytes, version: int) -> None:
    read_or_refused(sealed(b"\x8fMTQ" + bytes([version]) + rest))


@settings(max_examples=200)
@given(
    fields=st.binary(max_size=80), payload=st.binary(max_size=20), tensors=st.integers(0, 3), coder=st.integers(0, 2)
)
def test_random_headers_that_unpack_never_crash(fields: bytes, payload: bytes, tensors: int, coder: int) -> None:
    read_or_refused(file(fields, payload, tensors=tensors, coder=coder))


@settings(max_examples=300)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), length=st.integers(0, 3))
def test_sound_headers_with_a_few_wrong_bytes_never_crash(position: int, value: int, length: int) -> None:
    stored = b"\1\2" + tie(0)
    fields = bytearray(TWO + name(b"c") + shape(4, 4) + shape(6, dtype=1) + shape(4, 4) + stored + GRID + number(1, 1))
    position %= len(fields)
    fields[position : position + length] = bytes([value])
    read_or_refused(file(bytes(fields), b"\2", b"\3", tensors=3))


@settings(max_examples=200)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), length=st.integers(0, 3))
def test_sound_files_with_a_few_wrong_bytes_never_crash(position: int, value: int, length: int) -> None:
    grid = BucketGrid(center=0.0, radius=1.5, count=5)
    tensors = [
        QuantizedTensor(name=f"w{n}", indices=np.full((4, 4), n % 5), grid=grid, dtype=Dtype.float16) for n in range(3)
    ]
    body = bytearray(container.encode(tensors, metadata={"a": 1, "b": "text"}, coder="fast")[:-4])
    position = 5 + position % (len(body) - 5)
    body[position : position + length] = bytes([value])
    read_or_refused(sealed(bytes(body)))


def read_or_refused(data: bytes) -> None:
    try:
        file = container.decode(data, max_bytes=1 << 20)
    except FormatError:
        return
    for tensor in file.tensors:
        tensor.restore()
