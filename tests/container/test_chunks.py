"""Chunks: how they are formed, cut tensors, scans and trellises, and reading no more than is asked for."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from metaq import container, decode
from metaq.coding.chunks import StreamShape
from metaq.container import coders
from metaq.container.chunking import plan_chunks
from metaq.container.contents import Entry
from metaq.container.restoring import place
from metaq.errors import CodecError, ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Scan

GRID = BucketGrid(center=0.125, radius=1.5, count=15)


class PlainCoder:
    """Chunks of int32 as they are, so that these tests do not depend on what a coder does."""

    name = "plain"
    identifier = 6

    def encode_chunk(self, streams: Sequence[NDArray[np.int32]], shapes: Sequence[StreamShape]) -> bytes:
        assert [stream.size for stream in streams] == [shape.count for shape in shapes]
        assert all(shape.count > 0 for shape in shapes)
        return b"".join(stream.astype("<i4").tobytes() for stream in streams)

    def decode_chunk(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[NDArray[np.int32]]:
        counts = [shape.count for shape in shapes]
        if len(payload) != 4 * sum(counts):
            raise CodecError("plain: the payload has another size.")
        return np.split(np.frombuffer(payload, dtype="<i4").astype(np.int32), np.cumsum(counts)[:-1])

    def code_lengths(self, _payload: bytes, shapes: Sequence[StreamShape]) -> list[float]:
        return [32.0 * shape.count for shape in shapes]


@pytest.fixture(autouse=True)
def plain_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(coders.CODERS, "plain", PlainCoder())


def entry(name: str, shape: tuple[int, ...], *, coder: str = "plain", scan: Scan = "rows") -> Entry:
    return Entry(name=name, shape=shape, dtype=Dtype.float32, coder=coder, grid=GRID, scan=scan)


def quantized(
    name: str, shape: tuple[int, ...], *, scan: Scan = "rows", trellis_bits: int = 0, dtype: Dtype = Dtype.float32
) -> QuantizedTensor:
    draws = np.random.default_rng(sum(map(ord, name))).laplace(7, 2, shape)
    indices = np.asarray(np.clip(np.round(draws), 0, 14), dtype=np.int64)
    return QuantizedTensor(name=name, indices=indices, grid=GRID, dtype=dtype, scan=scan, trellis_bits=trellis_bits)


def varied() -> list[QuantizedTensor | ExactTensor]:
    return [
        quantized("a", (3, 5)),
        quantized("b", (13, 17), scan="columns"),
        quantized("c", (11, 2, 7), scan="columns", trellis_bits=3, dtype=Dtype.bfloat16),
        quantized("d", (400,), trellis_bits=2, dtype=Dtype.float16),
        quantized("e", (0, 4)),
        quantized("f", (), scan="columns", dtype=Dtype.float64),
        quantized("g", (70, 3), trellis_bits=7),
        quantized("ga", (70, 3), trellis_bits=8),
        quantized("gb", (30,), scan="columns", trellis_bits=4),
        ExactTensor(name="h", values=np.arange(40, dtype="<i8"), dtype=Dtype.int64),
        ExactTensor(name="i", values=np.array(3.5, dtype="<f4"), dtype=Dtype.float32),
        quantized("j", (6,)),
    ]


def places(plans: Sequence[tuple[str, Sequence[container.Piece]]]) -> list[list[tuple[int, int, int, int]]]:
    return [[(p.tensor, p.start, p.shape.count, p.shape.row_length) for p in pieces] for _, pieces in plans]


def test_chunks_collect_consecutive_tensors_and_cut_large_ones_by_rows() -> None:
    entries = [
        entry("a", (3,)),
        entry("b", (2, 2)),
        entry("c", (0,)),
        entry("d", (4,)),
        entry("e", (7, 3)),
        entry("f", (1,)),
    ]
    assert places(plan_chunks(entries, 3)) == [
        [(0, 0, 3, 0), (1, 0, 4, 2)],
        [(3, 0, 4, 0)],
        [(4, 0, 6, 3)],
        [(4, 6, 6, 3)],
        [(4, 12, 6, 3)],
        [(4, 18, 3, 3)],
        [(5, 0, 1, 0)],
    ]


def test_streams_without_rows_or_with_long_ones_are_cut_anywhere() -> None:
    assert places(plan_chunks([entry("a", (10,))], 2)) == [[(0, 0, 4, 0)], [(0, 4, 4, 0)], [(0, 8, 2, 0)]]
    assert places(plan_chunks([entry("a", (2, 5))], 2)) == [[(0, 0, 4, 0)], [(0, 4, 4, 0)], [(0, 8, 2, 0)]]
    by_columns = [entry("a", (2, 5), scan="columns")]
    assert places(plan_chunks(by_columns, 2)) == [[(0, 0, 4, 2)], [(0, 4, 4, 2)], [(0, 8, 2, 2)]]


def test_tensors_of_other_coders_have_chunks_of_their_own_and_part_nothing() -> None:
    exact = Entry(name="b", shape=(90,), dtype=Dtype.int8, coder="raw", grid=None)
    entries = [
        entry("a", (3,)),
        exact,
        entry("c", (2,), coder="other"),
        entry("d", (3,)),
        entry("e", (2,), coder="other"),
    ]
    assert places(plan_chunks(entries, 3)) == [
        [(0, 0, 3, 0), (3, 0, 3, 0)],
        [(1, 0, 90, 0)],
        [(2, 0, 2, 0), (4, 0, 2, 0)],
    ]


@pytest.mark.parametrize("chunk_bits", [0, 3, 5, 6, 7, 20])
@pytest.mark.parametrize("coder", ["plain", "small"])
def test_every_cut_restores_the_same(coder: str, chunk_bits: int, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    report = container.write(path, varied(), coder=coder, chunk_bits=chunk_bits, coders={"a": "fast", "j": "plain"})
    file = container.read(path)
    chunks_bytes = sum(chunk.size_bytes for chunk in file.chunks)
    assert chunks_bytes + report.header_bytes == report.file_bytes == path.stat().st_size
    assert {e.name: e.coder for e in file.entries}["a"] == "fast"
    loaded = decode.load(path)
    for wanted, found in zip(varied(), file.tensors, strict=True):
        assert wanted.restore().tobytes() == found.restore().tobytes() == loaded[wanted.name].tobytes()
        assert loaded[wanted.name].shape == wanted.shape
        if isinstance(wanted, QuantizedTensor):
            assert isinstance(found, QuantizedTensor)
            assert (wanted.scan, wanted.trellis_bits) == (found.scan, found.trellis_bits)
            np.testing.assert_array_equal(wanted.indices, found.indices)


def test_exact_tensors_in_planes_share_chunks_and_are_cut_by_their_bytes() -> None:
    kinds = {"a": Dtype.float32, "b": Dtype.uint8, "c": Dtype.bfloat16, "d": Dtype.complex128, "e": Dtype.bool}
    shapes = {"a": (3, 2), "b": (4, 1), "c": (9, 2), "d": (3,), "e": (2,)}
    entries = [Entry(name=n, shape=shapes[n], dtype=kinds[n], coder="planes", grid=None) for n in kinds]
    whole = Entry(name="w", shape=(99,), dtype=Dtype.uint8, coder="zstd", grid=None)
    assert places(plan_chunks([*entries, whole], 4)) == [
        [(0, 0, 6, 2), (1, 0, 4, 1)],
        [(2, 0, 16, 2)],
        [(2, 16, 2, 2)],
        [(3, 0, 2, 0)],
        [(3, 2, 1, 0)],
        [(4, 0, 2, 0)],
        [(5, 0, 99, 0)],
    ]
    assert [len(chunk) for chunk in places(plan_chunks(entries, 20))] == [5]
    # An element of more symbols than a chunk may have is a chunk.
    assert places(plan_chunks(entries[3:4], 0)) == [[(0, n, 1, 0)] for n in range(3)]


def test_the_coders_of_metaq_take_chunks_of_every_kind() -> None:
    for coder in coders.CHUNK_CODERS:
        file = container.decode(container.encode(varied(), coder=coder, chunk_bits=7))
        for wanted, found in zip(varied(), file.tensors, strict=True):
            assert wanted.restore().tobytes() == found.restore().tobytes()


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_any_run_of_a_scan_is_put_into_place(rows: int, size: int) -> None:
    wanted = np.arange(rows * 7).reshape(rows, 7)
    for by_columns in (False, True):
        found = np.zeros_like(wanted)
        scanned = wanted.T.reshape(-1) if by_columns else wanted.reshape(-1)
        for start in range(0, scanned.size, size):
            place(found, by_columns, start, scanned[start : start + size])
        np.testing.assert_array_equal(found, wanted)


def test_single_tensors_are_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, varied(), coder="plain", chunk_bits=5)
    chunks = container.describe(path).chunks
    data = bytearray(path.read_bytes())
    for chunk in chunks:
        if any(piece.tensor in (1, 9) for piece in chunk.pieces):
            data[chunk.offset_bytes] ^= 1
    path.write_bytes(data)
    assert container.describe(path).chunks == chunks
    for tensor in varied():
        if tensor.name in "bh":
            with pytest.raises(FormatError, match=rf"chunk of tensor '{tensor.name}'.*byte \d+: its checksum"):
                decode.load(path, names=[tensor.name])
        else:
            assert decode.load(path, names=[tensor.name])[tensor.name].tobytes() == tensor.restore().tobytes()
    assert list(decode.load(path, names=["j", "c"])) == ["c", "j"]
    with pytest.raises(FormatError, match="checksum"):
        container.read(path)
    with pytest.raises(ConfigError, match="did you mean"):
        decode.load(path, names=["aa"])


def test_a_file_of_one_chunk_is_checked_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, [quantized("w", (40,))], coder="plain")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    for reader in (container.describe, container.read, lambda p: list(container.stream(p))):
        with pytest.raises(FormatError, match="checksum"):
            reader(path)


@pytest.mark.slow
def test_streaming_takes_the_memory_of_one_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    indices = np.full((3000, 4000), 7, dtype=np.int64)
    indices[::7, ::3] = 8
    tensors = [
        QuantizedTensor(name=name, indices=indices, grid=GRID, dtype=Dtype.float32, scan=scan, trellis_bits=bits)
        for name, scan, bits in (("a", "rows", 0), ("b", "columns", 3), ("c", "rows", 0))
    ]
    container.write(path, tensors, coder="plain")
    largest = 4 * indices.size
    with pytest.raises(FormatError, match="memory"):
        next(container.stream(path, max_bytes=largest - 1))
    tracemalloc.start()
    try:
        streamed = container.stream(path, max_bytes=largest)
        # Not by zip, which keeps the tensor before until it has the next.
        for wanted in tensors:
            restored = next(streamed)[1]
            peak = tracemalloc.get_traced_memory()[1]
            assert peak < largest + (64 << 20)
            assert np.array_equal(restored.restore()[::500], wanted.restore()[::500])
            del restored
            tracemalloc.reset_peak()
        assert next(streamed, None) is None
    finally:
        tracemalloc.stop()


def test_what_a_trellis_needs_is_checked() -> None:
    even = BucketGrid(center=0.0, radius=1.0, count=4)
    tensor = QuantizedTensor(
        name="w", indices=np.zeros(3, dtype=np.int64), grid=even, dtype=Dtype.float32, trellis_bits=2
    )
    with pytest.raises(ConfigError, match="odd number of buckets"):
        container.encode([tensor], coder="plain")
    with pytest.raises(ConfigError, match="2 to 8"):
        container.encode([quantized("w", (3,), trellis_bits=1)], coder="plain")
    with pytest.raises(ConfigError, match="chunk_bits"):
        container.encode([], coder="plain", chunk_bits=23)
    with pytest.raises(ConfigError, match="there is no tensor 'v'"):
        container.encode([quantized("w", (3,))], coder="plain", coders={"v": "small"})


PROGRAM = """
import sys, zlib
for name in {blocked}:
    sys.modules[name] = None
from metaq import decode
from metaq.compiled import IS_COMPILED
assert IS_COMPILED == ("numba" not in {blocked})
for name, values in decode.stream({path!r}):
    print(name, zlib.crc32(values.tobytes()))
"""


def decoded_without(path: Path, blocked: tuple[str, ...]) -> list[str]:
    program = PROGRAM.format(blocked=blocked, path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


@pytest.mark.parametrize("coder", ["small", "fast"])
def test_numpy_alone_decodes(coder: str, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    text = np.frombuffer(b"names and shapes " * 60, dtype="u1")
    tensors = [*varied(), ExactTensor(name="text", values=text, dtype=Dtype.uint8)]
    container.write(path, tensors, coder=coder, chunk_bits=7)
    blocked = ("numba", "llvmlite", "torch", "constriction", "zstandard")
    assert decoded_without(path, blocked) == decoded_without(path, ())
