"""Files from where they come from: paths, bytes and open files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metaq import container, decode
from metaq.errors import ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor

READERS = (decode.load, decode.inspect, lambda file: dict(decode.stream(file)), container.read, container.describe)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    grid = BucketGrid(center=0.0, radius=1.0, count=9)
    indices = np.random.default_rng(0).integers(0, 9, (30, 10))
    weight = QuantizedTensor(name="weight", indices=indices, grid=grid, dtype=Dtype.float32)
    count = ExactTensor(name="count", values=np.array([7], dtype="<i8"), dtype=Dtype.int64)
    container.write(tmp_path / "model.metaq", [weight, count], chunk_bits=6)
    return tmp_path / "model.metaq"


class Piecemeal(io.BytesIO):
    """Gives a few bytes at a time, as files without a buffer may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 7))


def test_the_reader_is_there_without_an_import_of_its_own() -> None:
    code = "import metaq; print(metaq.decode.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "load\n", done.stderr


def test_an_address_is_told_from_a_path() -> None:
    for reader in READERS:
        with pytest.raises(FormatError, match="an address is no path; download the file first"):
            reader("https://example.org/model.metaq")


def test_all_of_a_file_counts_wherever_it_comes_from(path: Path) -> None:
    raw = path.read_bytes()
    wanted = decode.load(path)
    words = memoryview(raw + bytes(-len(raw) % 4)).cast("I")
    assert isinstance(words, memoryview)
    for data in (str(path), raw, bytearray(raw), memoryview(raw), io.BytesIO(raw), Piecemeal(raw)):
        found = decode.load(data)
        assert {name: values.tobytes() for name, values in found.items()} == {
            name: values.tobytes() for name, values in wanted.items()
        }
        assert decode.inspect(data) == decode.inspect(path)
        assert [name for name, _ in decode.stream(data, names=["weight"])] == ["weight"]
    with path.open("rb") as buffered, path.open("rb", buffering=0) as unbuffered:
        for file in (buffered, unbuffered):
            file.seek(5)
            assert decode.load(file).keys() == wanted.keys()
            assert not file.closed


def test_every_other_thing_is_refused_in_a_sentence(path: Path, tmp_path: Path) -> None:
    class WithoutSeek(io.RawIOBase):
        """What a download is."""

    closed = io.BytesIO(path.read_bytes())
    closed.close()
    with path.open(encoding="latin-1") as text:
        for reader in READERS:
            for thing, said in (
                (3, "a int is neither a path nor bytes"),
                (None, "a NoneType is neither"),
                (text, r"model\.metaq: is open as text; open it in the mode 'rb'"),
                (WithoutSeek(), r"data: cannot seek; give the bytes that its read\(\) returns"),
            ):
                with pytest.raises(ConfigError, match=said):
                    reader(thing)
            for file, said in (
                (closed, "data: cannot be read .*closed"),
                (b"", "data: byte 0: is empty"),
                (b"model.metaq", r"data: byte 0: is not a \.metaq file"),
                (path.read_bytes()[:-1], "data: "),
                ("~/nothing.metaq", r"~/nothing\.metaq: no such file; write out the home folder"),
                (tmp_path, "cannot be read, since it is a folder; give the path of a file in it"),
                ("a\0b", "cannot be read"),
            ):
                with pytest.raises(FormatError, match=said):
                    reader(file)


def test_an_open_file_is_called_by_its_name(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with path.open("rb") as file, pytest.raises(FormatError, match=r"model\.metaq: "):
        decode.load(file)
    descriptor = os.open(path, os.O_RDONLY)
    # Its name is a number.
    with os.fdopen(descriptor, "rb") as file, pytest.raises(FormatError, match="data: "):
        decode.load(file)
