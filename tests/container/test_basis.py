"""Tensors whose rows are combinations of a stored basis."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metaq import container, decode
from metaq.container.chunking import plan_chunks
from metaq.container.contents import Entry
from metaq.errors import CodecError, ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, combined, is_combination_exact
from metaq.tensors.scales import Scales, factors

GRID = BucketGrid(center=0.0, radius=1.5, count=15)
FINE = BucketGrid(center=0.0, radius=0.8, count=101)
SIZE = 12


def basis_of(size: int = SIZE, *, grid: BucketGrid = FINE, seed: int = 0) -> Basis:
    return Basis(indices=np.random.default_rng(seed).integers(0, grid.count, (size, size)), grid=grid)


def rotated(
    name: str,
    rows: int,
    basis: Basis,
    *,
    grid: BucketGrid = GRID,
    trellis_bits: int = 0,
    dtype: Dtype = Dtype.float32,
    is_scaled: bool = False,
) -> QuantizedTensor:
    middle = grid.count // 2
    draws = np.random.default_rng(sum(map(ord, name))).laplace(middle, 2, (rows, basis.size))
    indices = np.asarray(np.clip(np.round(draws), 0, grid.count - 1), dtype=np.int64)
    return QuantizedTensor(
        name=name,
        indices=indices,
        grid=grid,
        dtype=dtype,
        trellis_bits=trellis_bits,
        basis=basis,
        scales=scales_of(rows, basis.size) if is_scaled else None,
    )


def scales_of(rows: int, columns: int) -> Scales:
    exponents = (7 * np.arange(rows + columns) % 21 - 10).astype(np.int8)
    return Scales(rows=exponents[:rows], columns=exponents[rows:])


def varied() -> list[Tensor]:
    shared, other = basis_of(), basis_of(5, grid=GRID, seed=1)
    plain = np.arange(40).reshape(8, 5) % 15
    return [
        QuantizedTensor(name="a", indices=plain, grid=GRID, dtype=Dtype.float32),
        rotated("b", 40, shared),
        rotated("c", 3, other, trellis_bits=7, dtype=Dtype.bfloat16),
        rotated("d", 31, shared, trellis_bits=7, dtype=Dtype.float16),
        rotated("e", 0, shared),
        ExactTensor(name="f", values=np.arange(30, dtype="<i8"), dtype=Dtype.int64),
        ExactTensor(name="g", values=np.array(3.5, dtype="<f4"), dtype=Dtype.float32),
        rotated("h", 9, other, dtype=Dtype.float64),
        QuantizedTensor(name="i", indices=plain.reshape(-1), grid=GRID, dtype=Dtype.float32, trellis_bits=3),
        rotated("j", 40, shared, is_scaled=True),
        rotated("k", 31, other, trellis_bits=7, dtype=Dtype.bfloat16, is_scaled=True),
        QuantizedTensor(name="l", indices=plain, grid=GRID, dtype=Dtype.float32, scales=scales_of(8, 5)),
    ]


def basis_in(tensor: Tensor) -> Basis | None:
    return tensor.basis if isinstance(tensor, QuantizedTensor) else None


@pytest.mark.parametrize("chunk_bits", [0, 3, 5, 8, 20])
@pytest.mark.parametrize("coder", ["small", "fast"])
def test_all_come_back_with_their_bases(coder: str, chunk_bits: int, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    report = container.write(path, varied(), coder=coder, chunk_bits=chunk_bits)
    file, loaded = container.read(path), decode.load(path)
    for wanted, found in zip(varied(), file.tensors, strict=True):
        assert wanted.restore().tobytes() == found.restore().tobytes() == loaded[wanted.name].tobytes()
        assert wanted.shape == found.shape == loaded[wanted.name].shape
        left, right = basis_in(wanted), basis_in(found)
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            np.testing.assert_array_equal(left.indices, right.indices)
            assert left.grid == right.grid
    by_name = {tensor.name: basis_in(tensor) for tensor in file.tensors}
    assert by_name["b"] is by_name["d"] is by_name["e"]
    assert by_name["c"] is by_name["h"]
    assert container.encode(file.tensors, coder=coder, chunk_bits=chunk_bits) == path.read_bytes()
    assert report.file_bytes == path.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.float16, Dtype.bfloat16, Dtype.float64])
@pytest.mark.parametrize("trellis_bits", [0, 7])
def test_pieces_of_rows_are_combined_as_whole_tensors_are(dtype: Dtype, trellis_bits: int, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    # More than one block of symbols, and blocks that end within a row.
    tensor = rotated("w", 1000, basis_of(301, seed=2), trellis_bits=trellis_bits, dtype=dtype, is_scaled=True)
    for chunk_bits in (7, 10, 20):
        container.write(path, [tensor], coder="fast", chunk_bits=chunk_bits)
        assert decode.load(path)["w"].tobytes() == tensor.restore().tobytes()


def test_contents_show_the_bases(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, varied())
    contents = container.describe(path)
    assert {entry.name: entry.basis for entry in contents.entries if entry.basis is not None} == {
        "b": 0,
        "c": 1,
        "d": 0,
        "e": 0,
        "h": 1,
        "j": 0,
        "k": 1,
    }
    assert {entry.name for entry in contents.entries if entry.scales is not None} == {"j", "k", "l"}
    assert [(basis.shape, basis.grid, basis.coder) for basis in contents.bases] == [
        ((SIZE, SIZE), FINE, "small"),
        ((5, 5), GRID, "small"),
    ]
    assert contents.parts == contents.bases + contents.entries
    first = contents.chunks[0]
    assert [piece.tensor for piece in first.pieces] == [0, 1, 2, 3, 4, 5, *range(9, 14)]
    assert repr(decode.inspect(path)) == repr(contents)


def test_bases_are_planned_as_tensors_are() -> None:
    basis = Entry(name="basis 0", shape=(3, 3), dtype=Dtype.float64, coder="fast", grid=GRID)
    tensor = Entry(name="w", shape=(2, 3), dtype=Dtype.float32, coder="fast", grid=GRID, basis=0)
    (together,) = plan_chunks([basis, tensor], 4)
    assert [(piece.tensor, piece.shape.count, piece.shape.row_length) for piece in together[1]] == [
        (0, 9, 3),
        (1, 6, 3),
    ]
    assert [[piece.tensor for piece in pieces] for _, pieces in plan_chunks([basis, tensor], 3)] == [[0], [0], [1]]


def test_equal_bases_are_stored_once() -> None:
    first, second = basis_of(), basis_of()
    twice = [rotated("a", 4, first), rotated("b", 4, second)]
    once = [rotated("a", 4, first), rotated("b", 4, first)]
    assert container.encode(twice) == container.encode(once)
    moved = Basis(indices=first.indices, grid=BucketGrid(center=0.0, radius=0.81, count=101))
    assert len(container.decode(container.encode([rotated("a", 4, first), rotated("b", 4, moved)])).bases) == 2


def test_the_coder_of_the_file_holds_the_basis() -> None:
    tensors = [rotated("a", 4, basis_of())]
    file = container.decode(container.encode(tensors, coder="fast", coders={"a": "small"}))
    assert [part.coder for part in file.parts] == ["fast", "small"]
    with pytest.raises(CodecError, match="basis 0: constant: the symbols differ"):
        container.encode(tensors, coder="constant", coders={"a": "small"})


def test_single_tensors_are_read_with_their_bases_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, varied(), coder="fast", chunk_bits=4)
    data = bytearray(path.read_bytes())
    contents = container.describe(path)
    for chunk in contents.chunks:
        if any(piece.tensor == 1 for piece in chunk.pieces):
            data[chunk.offset_bytes] ^= 1
    path.write_bytes(data)
    assert repr(container.describe(path)) == repr(contents)
    for tensor in varied():
        if contents.entries["abcdefghijkl".index(tensor.name)].basis == 1:
            with pytest.raises(FormatError, match=r"chunk of tensor 'basis 1'.*byte \d+: its checksum"):
                decode.load(path, names=[tensor.name])
        else:
            assert decode.load(path, names=[tensor.name])[tensor.name].tobytes() == tensor.restore().tobytes()
    assert list(decode.load(path, names=["d", "b"])) == ["b", "d"]


def test_bases_count_towards_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, [rotated("a", 4, basis_of()), rotated("b", 5, basis_of())])
    restored, basis_bytes = 4 * 9 * SIZE, 8 * SIZE**2
    assert set(decode.load(path, max_bytes=restored + basis_bytes)) == {"a", "b"}
    with pytest.raises(FormatError, match="max_bytes"):
        decode.load(path, max_bytes=restored + basis_bytes - 1)
    with pytest.raises(FormatError, match="max_bytes"):
        next(decode.stream(path, max_bytes=4 * 5 * SIZE + basis_bytes - 1))
    whole = restored + 8 * 9 * SIZE + 2 * basis_bytes
    assert len(container.read(path, max_bytes=whole).tensors) == 2
    with pytest.raises(FormatError, match="max_bytes"):
        container.read(path, max_bytes=whole - 1)


@pytest.mark.slow
def test_streaming_takes_the_memory_of_one_tensor_and_the_basis(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    basis = basis_of(1024)
    tensors = [rotated(name, 5000, basis, trellis_bits=bits) for name, bits in (("a", 0), ("b", 7))]
    container.write(path, tensors, coder="fast")
    largest = 4 * 5000 * 1024 + 8 * 1024**2
    tracemalloc.start()
    try:
        for (_, restored), wanted in zip(container.stream(path, max_bytes=largest), tensors, strict=True):
            assert tracemalloc.get_traced_memory()[1] < largest + (64 << 20)
            found = restored.restore()
            del restored
            assert found.tobytes() == wanted.restore().tobytes()
            del found
            tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()


def test_combinations_are_those_of_exact_integers() -> None:
    grid, fine = (
        BucketGrid(center=0.0, radius=0.3, count=(1 << 20) - 1),
        BucketGrid(center=0.0, radius=0.7, count=(1 << 20) + 1),
    )
    basis = basis_of(200, grid=fine)
    basis.indices[:, 0] = fine.count - 1
    rows = np.random.default_rng(3).integers(0, grid.count, (3, 200))
    rows[0] = grid.count - 1
    tensor = QuantizedTensor(name="w", indices=rows, grid=grid, dtype=Dtype.float64, basis=basis)
    assert is_combination_exact(grid, basis.grid, basis.size)
    left = (2 * rows + 1 - grid.count).astype(object)
    right = (2 * basis.indices + 1 - fine.count).astype(object)
    unit = 0.3 * 0.7 / (grid.count * fine.count)
    wanted = [[float(value) * unit for value in row] for row in left @ right]
    assert np.array_equal(tensor.values(), wanted)
    assert container.decode(container.encode([tensor], coder="fast")).tensors[0].restore().tolist() == wanted


@pytest.mark.parametrize("trellis_bits", [0, 7])
def test_scales_multiply_what_the_basis_gives(trellis_bits: int) -> None:
    tensor = rotated("w", 50, basis_of(), trellis_bits=trellis_bits, dtype=Dtype.float64, is_scaled=True)
    assert tensor.scales is not None
    both = factors(tensor.scales.rows)[:, None] * factors(tensor.scales.columns)
    np.testing.assert_array_equal(tensor.values(), replace(tensor, scales=None).values() * both)


def test_a_sum_of_nothing_is_zero_without_a_sign() -> None:
    for sign in (-1.0, 1.0):
        found = combined(np.zeros((1, 1)), np.array([[sign]]), 0.5)
        assert np.signbit(found).tolist() == [[False]]


def test_what_a_basis_cannot_be_is_refused() -> None:
    def refused(tensor: QuantizedTensor, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            container.encode([tensor])

    def with_basis(indices: np.ndarray, *, grid: BucketGrid = GRID, basis: Basis, **others: str) -> QuantizedTensor:
        chosen = {"dtype": Dtype.float32, "scan": "rows"} | others
        return QuantizedTensor(name="w", indices=indices, grid=grid, basis=basis, **chosen)  # type: ignore[arg-type]

    basis = basis_of()
    sound = np.full((3, SIZE), 7)
    refused(with_basis(sound, basis=basis, scan="columns"), "w: its basis of 12 rows is for matrices")
    refused(with_basis(sound[0], basis=basis), "w: its basis of 12 rows is for matrices")
    refused(with_basis(sound[:, 1:], basis=basis), "w: its basis of 12 rows is for matrices")
    refused(with_basis(sound.reshape(1, 3, SIZE), basis=basis), "w: its basis of 12 rows is for matrices")
    for shape in ((3, SIZE), (SIZE,), (0, 0)):
        indices = np.zeros(shape, dtype=np.int64)
        refused(with_basis(sound, basis=Basis(indices=indices, grid=FINE)), "w: its basis has shape")
    shifted, even = (
        BucketGrid(center=0.1, radius=1.5, count=15),
        BucketGrid(center=0.0, radius=1.5, count=16),
    )
    many = BucketGrid(center=0.0, radius=1.5, count=(1 << 24) - 1)
    for grid in (shifted, even):
        refused(with_basis(sound, grid=grid, basis=basis), "not exact")
        refused(with_basis(sound, basis=basis_of(grid=grid)), "not exact")
    refused(with_basis(sound, grid=many, basis=basis_of(32, grid=many)), "for matrices")
    refused(with_basis(np.full((3, 64), 7), grid=many, basis=basis_of(64, grid=many)), "not exact")
    wide = BucketGrid(center=0.0, radius=30_000.0, count=15)
    refused(rotated("w", 3, basis, grid=wide, dtype=Dtype.float16), "reach beyond the largest float16")
    endless = BucketGrid(center=0.0, radius=1e200, count=15)
    refused(
        rotated("w", 3, basis_of(grid=endless), grid=endless, dtype=Dtype.float64), "reach beyond the largest float64"
    )
    near = rotated("w", 3, basis, grid=BucketGrid(center=0.0, radius=3000.0, count=15), dtype=Dtype.float16)
    assert container.encode([near])
    refused(replace(near, scales=scales_of(3, SIZE)), "reach beyond the largest float16")
    refused(replace(near, scales=scales_of(3, SIZE - 1)), "w: its scales are not one a row")
    refused(rotated("w", 0, basis, is_scaled=True), "w: its scales are not one a row")
    outside = Basis(indices=np.full((SIZE, SIZE), 101), grid=FINE)
    with pytest.raises(CodecError, match=r"basis 0: .*do not fit"):
        container.encode([rotated("w", 3, outside)], coder="fast")


def test_coefficients_may_be_larger_than_the_type_if_their_combinations_are_not() -> None:
    tiny, wide = BucketGrid(center=0.0, radius=1e-9, count=15), BucketGrid(center=0.0, radius=1e6, count=15)
    tensor = rotated("w", 3, basis_of(grid=tiny), grid=wide, dtype=Dtype.float16)
    found = container.decode(container.encode([tensor])).tensors[0]
    assert found.restore().tobytes() == tensor.restore().tobytes()


PROGRAM = """
import sys, zlib
for name in {blocked}:
    sys.modules[name] = None
from metaq import decode
for name, values in decode.stream({path!r}):
    print(name, zlib.crc32(values.tobytes()))
"""


@pytest.mark.parametrize("coder", ["small", "fast"])
def test_numpy_alone_combines(coder: str, tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    tensors = [tensor for tensor in varied() if tensor.name != "f"]
    container.write(path, tensors, coder=coder, chunk_bits=7)
    program = PROGRAM.format(blocked=("numba", "llvmlite", "torch", "constriction", "zstandard"), path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = {name: values.tobytes() for name, values in decode.stream(path)}
    assert done.stdout.splitlines() == [f"{name} {zlib.crc32(raw)}" for name, raw in here.items()]
