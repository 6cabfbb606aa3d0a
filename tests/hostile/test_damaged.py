"""Files that were sound once: cut, flipped, extended, or of another version."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq import container, decode
from metaq.coding.header_bytes import decode_header_bytes, encode_header_bytes
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor

Make = Callable[..., bytes]
MAX_BYTES = 1 << 20
SPARE_BYTES = 64 << 20


def small_file(*, chunk_bits: int = 4) -> bytes:
    """Tensors of several coders in several chunks, one of them cut, one in the header, and one tied."""
    grid, wide = BucketGrid(center=0.0, radius=1.5, count=5), BucketGrid(center=0.25, radius=0.7, count=9)
    indices = np.array([[2, 2, 2, 1], [2, 3, 2, 2], [2, 2, 0, 4]])
    tensors: list[Tensor] = [
        QuantizedTensor(name="conv.weight", indices=np.tile(indices, (2, 1)), grid=grid, dtype=Dtype.float32),
        QuantizedTensor(name="fc.bias", indices=indices[0], grid=wide, dtype=Dtype.float16),
        QuantizedTensor(
            name="fc.weight", indices=indices, grid=grid, dtype=Dtype.bfloat16, scan="columns", trellis_bits=2
        ),
        QuantizedTensor(name="head.weight", indices=indices, grid=wide, dtype=Dtype.float32),
        ExactTensor(name="mean", values=np.arange(17, dtype="<f4"), dtype=Dtype.float32),
        ExactTensor(name="steps", values=np.array(7, dtype="<i8"), dtype=Dtype.int64),
    ]
    assert isinstance(tensors[0], QuantizedTensor)
    tensors.append(TiedTensor(name="tied", first=tensors[0]))
    return container.encode(
        tensors, metadata={"net": "x"}, coder="fast", coders={"head.weight": "small"}, chunk_bits=chunk_bits
    )


def exact_file(*, chunk_bits: int) -> bytes:
    """Tensors in planes: raw, packed, cut into fields, and by a palette."""
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(12, 8)).astype("<f4")
    held = {
        "a": (normal, Dtype.float32),
        "b": ((normal.view("<u4") >> 16).astype("<u2"), Dtype.bfloat16),
        "c": (np.round(normal * 3).astype("i1"), Dtype.int8),
        "d": (generator.integers(0, 256, (9, 8)).astype("u1"), Dtype.uint8),
        "e": (np.tile(generator.integers(0, 1 << 16, (1, 30)), (4, 1)).astype("<u2"), Dtype.uint16),
        "f": (generator.choice(normal[0, :3], 70), Dtype.float32),
    }
    tensors = [ExactTensor(name=name, values=values, dtype=dtype) for name, (values, dtype) in held.items()]
    return container.encode(tensors, coder="fast", chunk_bits=chunk_bits)


MADE = [pytest.param(small_file, 4, id="cut"), pytest.param(small_file, 20, id="whole"),
        pytest.param(exact_file, 7, id="exact, cut"), pytest.param(exact_file, 20, id="exact")]  # fmt: skip


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def resealed(data: bytes, original: bytes, path: Path) -> bytes:
    """`data` with the checksums that it would have if it were laid out as `original`."""
    path.write_bytes(original)
    chunks = container.describe(path).chunks
    body = bytearray(data[:-4])
    if len(chunks) > 1:
        start = chunks[0].offset_bytes - 4 - 4 * len(chunks)
        for number, chunk in enumerate(chunks):
            payload = body[chunk.offset_bytes : chunk.offset_bytes + chunk.size_bytes]
            body[start + 4 * number : start + 4 * number + 4] = struct.pack("<I", zlib.crc32(payload))
        end = start + 4 * len(chunks)
        body[end : end + 4] = struct.pack("<I", zlib.crc32(body[:end]))
    return sealed(bytes(body))


def flips(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        yield (int.from_bytes(data, "little") ^ 1 << bit).to_bytes(len(data), "little")


def outcome(data: bytes, path: Path) -> str:
    """Read `data` in every way: ``"refused"``, or ``"read"`` if all of them give the same tensors."""
    try:
        file = container.decode(data, max_bytes=MAX_BYTES)
    except FormatError as error:
        message = str(error)
        return "refused" if "byte " in message or "max_bytes" in message else message
    path.write_bytes(data)
    loaded = decode.load(path, max_bytes=MAX_BYTES)
    assert list(loaded) == [tensor.name for tensor in file.tensors]
    for tensor in file.tensors:
        assert loaded[tensor.name].tobytes() == np.asarray(tensor.restore()).tobytes()
        assert loaded[tensor.name].shape == tensor.shape
    return "read"


@pytest.mark.parametrize(("make", "chunk_bits"), MADE)
def test_every_truncation_is_refused(make: Make, chunk_bits: int, tmp_path: Path) -> None:
    data = make(chunk_bits=chunk_bits)
    path = tmp_path / "cut.metaq"
    for length in range(len(data)):
        with pytest.raises(FormatError, match=r"data: .*byte \d+"):
            container.decode(data[:length])
        path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            container.describe(path)


@pytest.mark.parametrize("chunk_bits", [4, 20])
def test_every_flipped_bit_is_refused(chunk_bits: int) -> None:
    for bit, damaged in enumerate(flips(small_file(chunk_bits=chunk_bits))):
        with pytest.raises(FormatError, match=r"not a \.metaq file" if bit < 32 else "checksum"):
            container.decode(damaged)


def test_a_flipped_bit_in_the_header_is_seen_without_the_rest(tmp_path: Path) -> None:
    data = small_file()
    path = tmp_path / "flipped.metaq"
    path.write_bytes(data)
    start = container.describe(path).chunks[0].offset_bytes
    for bit, damaged in enumerate(flips(data)):
        path.write_bytes(damaged)
        if bit >= 8 * start:
            # What lies behind is not looked at.
            container.describe(path)
            continue
        with pytest.raises(FormatError):
            container.describe(path)


@pytest.mark.parametrize(("make", "chunk_bits"), MADE)
def test_flipped_bits_with_right_checksums_are_refused_or_read_alike(
    make: Make, chunk_bits: int, tmp_path: Path
) -> None:
    original = make(chunk_bits=chunk_bits)
    path = tmp_path / "flipped.metaq"
    tracemalloc.start()
    try:
        found = [outcome(resealed(damaged, original, path), path) for damaged in flips(original[:-4])]
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES + SPARE_BYTES
    finally:
        tracemalloc.stop()
    assert {"refused"} <= set(found) <= {"read", "refused"}
    assert found.count("refused") > len(found) // (4 if make is small_file else 12)


@pytest.mark.parametrize("chunk_bits", [4, 20])
def test_flipped_bits_of_the_unpacked_header_are_refused_or_read_alike(chunk_bits: int, tmp_path: Path) -> None:
    original = small_file(chunk_bits=chunk_bits)
    path = tmp_path / "flipped.metaq"
    path.write_bytes(original)
    chunks = container.describe(path).chunks
    stored_bytes, start = decode_varint(original, 5)
    size_bytes, position = decode_varint(original, start)
    fields = decode_header_bytes(original[position : start + stored_bytes], size_bytes)
    payloads = [original[chunk.offset_bytes : chunk.offset_bytes + chunk.size_bytes] for chunk in chunks]
    assert framed(fields, payloads) == original
    found = [outcome(framed(damaged, payloads), path) for damaged in flips(fields)]
    assert {"read", "refused"} == set(found)


def framed(fields: bytes, payloads: list[bytes]) -> bytes:
    stored = encode_varint(len(fields)) + encode_header_bytes(fields)
    head = b"\x8fMTQ\x01" + encode_varint(len(stored)) + stored
    if len(payloads) > 1:
        head = sealed(head + b"".join(struct.pack("<I", zlib.crc32(payload)) for payload in payloads))
    return sealed(head + b"".join(payloads))


def test_wrong_inner_checksums_are_refused_whatever_the_outer_one_says() -> None:
    data = small_file()
    stored_bytes, start = decode_varint(data, 5)
    damaged = bytearray(data[:-4])
    damaged[start + stored_bytes] ^= 1
    with pytest.raises(FormatError, match="checksum of the header"):
        container.decode(sealed(bytes(damaged)))
    damaged = bytearray(data[:-4])
    damaged[-1] ^= 1
    with pytest.raises(FormatError, match=r"chunk of tensor 'mean'.*its checksum"):
        container.decode(sealed(bytes(damaged)))


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"PK", bytes(100)])
def test_trailing_bytes_are_refused(extra: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="checksum"):
        container.decode(small_file() + extra)
    with pytest.raises(FormatError, match="add up"):
        container.decode(sealed(small_file()[:-4] + extra))
    (tmp_path / "longer.metaq").write_bytes(small_file() + extra)
    with pytest.raises(FormatError, match="checksum"):
        container.describe(tmp_path / "longer.metaq")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x8f", "is cut off"),
        (b"\x8fMTQ", "is cut off"),
        (b"\x8fMTQ\x01\x01\x00\x00\x00\x00", "is cut off"),
        (b"PK\x03\x04 a zip file", "not a .metaq file"),
        (b"\x89PNG\r\n\x1a\n", "not a .metaq file"),
        (b"{}", "not a .metaq file"),
        (bytes(1000), "not a .metaq file"),
    ],
)
def test_foreign_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    path.write_bytes(data)
    for reader in (container.read, container.describe, decode.load, decode.inspect, next_of_stream):
        with pytest.raises(FormatError, match=message) as caught:
            reader(path)
        assert str(path) in str(caught.value)


def next_of_stream(path: Path) -> object:
    return next(decode.stream(path))


def test_a_newer_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    data = bytearray(small_file()[:-4])
    data[4] = 2
    path = tmp_path / "newer.metaq"
    path.write_bytes(sealed(bytes(data)))
    for reader in (container.read, container.describe, decode.load):
        with pytest.raises(FormatError, match=r"version, byte 4: 2 is newer than this metaq reads; upgrade"):
            reader(path)


def test_what_follows_the_metadata_is_refused() -> None:
    fields = b"\0\0\x34 what a later version adds"
    with pytest.raises(FormatError, match="left over"):
        container.decode(framed(fields, []))


@pytest.mark.parametrize("load", [metaq.load, decode.load])
def test_the_last_checksum_of_several_chunks_counts_too(load):
    torch.manual_seed(0)
    tensors = {f"t{number}": torch.randint(0, 2**31 - 1, (9,)) for number in range(3)}
    data = metaq.compress({**tensors, "x": torch.randn(300, 300)}, coder="fast", target_bits_per_weight=4).data
    assert len(container.describe(data).chunks) > 1
    load(data)
    with pytest.raises(FormatError, match="checksum"):
        load(data[:-1] + bytes([data[-1] ^ 1]))
