"""Files that were sound once: cut, flipped, extended, or of another version."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from metaq import container, decode
from metaq.errors import FormatError
from metaq.grid import BucketGrid
from metaq.tensors import Dtype, ExactTensor, QuantizedTensor


def small_file() -> bytes:
    grid = BucketGrid(center=0.0, radius=1.5, count=5)
    indices = np.array([[2, 2, 2, 1], [2, 3, 2, 2], [2, 2, 0, 4]])
    tensors = [
        QuantizedTensor(name="fc.weight", indices=indices, grid=grid, dtype=Dtype.float32),
        ExactTensor(name="steps", values=np.array(7, dtype="<i8"), dtype=Dtype.int64),
    ]
    return container.encode(tensors, metadata={"net": "x"})


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def test_every_truncation_is_refused() -> None:
    data = small_file()
    for length in range(len(data)):
        with pytest.raises(FormatError, match=r"data: .*byte \d+"):
            container.decode(data[:length])


def test_every_flipped_bit_is_refused() -> None:
    data = small_file()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError, match="not a .metaq file" if bit < 32 else "checksum"):
            container.decode(bytes(damaged))


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"PK", bytes(100)])
def test_trailing_bytes_are_refused(extra: bytes) -> None:
    with pytest.raises(FormatError, match="checksum"):
        container.decode(small_file() + extra)
    with pytest.raises(FormatError, match="add up"):
        container.decode(sealed(small_file()[:-4] + extra))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x8f", "is cut off"),
        (b"\x8fMTQ", "is cut off"),
        (b"\x8fMTQ\x01\x00\x00\x00\x00", "is cut off"),
        (b"PK\x03\x04 a zip file", "not a .metaq file"),
        (b"\x89PNG\r\n\x1a\n", "not a .metaq file"),
        (b"{}", "not a .metaq file"),
        (bytes(1000), "not a .metaq file"),
    ],
)
def test_foreign_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    path.write_bytes(data)
    for reader in (container.read, container.describe, decode.load, decode.inspect):
        with pytest.raises(FormatError, match=message) as caught:
            reader(path)
        assert str(path) in str(caught.value)


def test_a_newer_major_version_asks_for_an_upgrade() -> None:
    data = bytearray(small_file()[:-4])
    data[4] = 2
    with pytest.raises(FormatError, match="written by a newer metaq; upgrade"):
        container.decode(sealed(bytes(data)))


def test_a_newer_minor_version_is_read() -> None:
    body = b"\x8fMTQ\x01\x07\x00"
    header = b"\0\0 what a later version adds"
    file = container.decode(sealed(body + bytes([len(header)]) + header))
    assert file.version == (1, 7)
    assert file.tensors == ()
    with pytest.raises(FormatError, match="left over"):
        container.decode(sealed(b"\x8fMTQ\x01\x00\x00" + bytes([len(header)]) + header))


def test_unknown_flags_are_refused() -> None:
    data = bytearray(small_file()[:-4])
    data[6] |= 0x40
    with pytest.raises(FormatError, match="flags"):
        container.decode(sealed(bytes(data)))
