"""What is written comes back, the same bytes for the same tensors, and old files survive failures."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq import container, decode
from metaq.container.coders import CHUNK_CODERS
from metaq.errors import CodecError, ConfigError, FormatError, OutputError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Tensor

GRID = BucketGrid(center=0.0, radius=1.5, count=255)
LENET5 = {
    "conv1.weight": (6, 1, 5, 5),
    "conv1.bias": (6,),
    "conv2.weight": (16, 6, 5, 5),
    "conv2.bias": (16,),
    "fc1.weight": (120, 256),
    "fc1.bias": (120,),
    "fc2.weight": (84, 120),
    "fc2.bias": (84,),
    "fc3.weight": (10, 84),
    "fc3.bias": (10,),
}


def quantized(name: str, shape: tuple[int, ...], *, grid: BucketGrid = GRID, seed: int = 0) -> QuantizedTensor:
    rng = np.random.default_rng(seed)
    values = np.clip(grid.count // 2 + np.round(rng.laplace(0, 0.4, shape)), 0, grid.count - 1)
    return QuantizedTensor(name=name, indices=np.asarray(values, dtype=np.int64), grid=grid, dtype=Dtype.float32)


def exact(name: str, dtype: Dtype, shape: tuple[int, ...], *, seed: int = 0) -> ExactTensor:
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=np.int64))
    raw = rng.integers(0, 2 if dtype is Dtype.bool else 256, count * dtype.itemsize, dtype=np.uint8)
    return ExactTensor(name=name, values=raw.view(dtype.storage).reshape(shape), dtype=dtype)


def mixed() -> list[Tensor]:
    tensors: list[Tensor] = [exact(f"exact.{dtype.name}", dtype, (3, 2)) for dtype in Dtype]
    tensors += [
        quantized("scalar", ()),
        quantized("empty", (0, 7)),
        quantized("deep", (1, 2, 1, 3, 1, 2, 1, 2)),
        quantized("other", (40, 30), grid=BucketGrid(center=0.25, radius=0.1, count=1001), seed=1),
        quantized("again", (40, 30), seed=2),
        exact("no elements", Dtype.float16, (0,)),
        exact("counter", Dtype.int64, ()),
        ExactTensor(name="zeros", values=np.zeros((50, 50), dtype="<f4"), dtype=Dtype.float32),
        quantized("", (2,)),
        quantized("Gewicht.größe.权重", (5,)),
    ]
    return tensors


def assert_same(left: Tensor, right: Tensor) -> None:
    assert type(left) is type(right)
    assert (left.name, left.dtype, left.shape) == (right.name, right.dtype, right.shape)
    assert np.ascontiguousarray(left.restore()).tobytes() == np.ascontiguousarray(right.restore()).tobytes()
    if isinstance(left, QuantizedTensor) and isinstance(right, QuantizedTensor):
        assert left.grid == right.grid
        np.testing.assert_array_equal(left.indices, right.indices)


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    report = container.write(path, mixed(), metadata={"net": "lenet5", "seed": -7, "accuracy": 99.25, "größe": "ü"})
    file = container.read(path)
    assert container.describe(path).entries == file.entries
    expected = sorted(mixed(), key=lambda tensor: tensor.name.encode())
    for written, found in zip(expected, file.tensors, strict=True):
        assert_same(written, found)
    assert file.metadata == {"net": "lenet5", "seed": -7, "accuracy": 99.25, "größe": "ü"}
    assert file.version == 1
    assert path.stat().st_size == file.file_bytes == report.file_bytes
    assert file.header_bytes == report.header_bytes
    assert [entry.name for entry in file.entries] == [tensor.name for tensor in file.tensors]


def test_the_entries_say_where_tensors_kept_exactly_are(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    values = np.random.default_rng(0).integers(0, 256, 500).astype("u1")
    report = container.write(path, [*mixed(), ExactTensor(name="bytes", values=values, dtype=Dtype.uint8)])
    contents = container.describe(path)
    assert sum(chunk.size_bytes for chunk in contents.chunks) + report.header_bytes == report.file_bytes
    (entry,) = (entry for entry in contents.entries if entry.coder == "raw")
    data = path.read_bytes()
    assert data[entry.offset_bytes : entry.offset_bytes + entry.coded_bytes] == values.tobytes()


def mixed_in_order() -> list[Tensor]:
    return sorted(mixed(), key=lambda tensor: tensor.name.encode())


def test_order_does_not_matter() -> None:
    metadata: dict[str, str | int | float] = {"b": 1, "a": "x"}
    expected = container.encode(mixed(), metadata=metadata)
    for seed in range(4):
        shuffled = mixed()
        random.Random(seed).shuffle(shuffled)
        assert container.encode(shuffled, metadata=dict(reversed(metadata.items()))) == expected


def test_layout_in_memory_does_not_matter() -> None:
    tensor = quantized("w", (30, 20))
    fortran = QuantizedTensor(name="w", indices=np.asfortranarray(tensor.indices), grid=GRID, dtype=Dtype.float32)
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    big_endian = ExactTensor(name="e", values=np.asfortranarray(values.astype(">f4")), dtype=Dtype.float32)
    little = ExactTensor(name="e", values=values, dtype=Dtype.float32)
    assert container.encode([fortran, big_endian]) == container.encode([tensor, little])


@pytest.mark.parametrize("coder", CHUNK_CODERS)
def test_a_chosen_coder_is_used(coder: str) -> None:
    file = container.decode(container.encode(mixed(), coder=coder))
    assert {entry.coder for entry in file.entries if entry.grid is not None} == {coder}
    for written, found in zip(mixed_in_order(), file.tensors, strict=True):
        assert_same(written, found)


def lenet5(grid_of: Callable[[int], BucketGrid]) -> list[QuantizedTensor]:
    return [
        quantized(name, shape, grid=grid_of(number), seed=number) for number, (name, shape) in enumerate(LENET5.items())
    ]


def stepped(step_size: float, count: int) -> BucketGrid:
    return BucketGrid(center=0.0, radius=step_size * count / 2, count=count)


@pytest.mark.parametrize("seed", range(4))
def test_a_lenet5_needs_few_bytes_beside_its_payloads(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    counts, steps = 2 * rng.integers(1, 21, 10) + 1, rng.uniform(0.01, 0.2, 10)
    path = tmp_path / "own.metaq"
    own = lenet5(lambda number: stepped(float(np.float16(steps[number])), int(counts[number])))
    assert container.write(path, own, coder="fast").header_bytes <= 65
    assert [entry.grid for entry in container.describe(path).entries] == [
        tensor.grid for tensor in sorted(own, key=lambda tensor: tensor.name)
    ]
    longer = lenet5(lambda number: stepped(float(np.float32(steps[number])), int(counts[number])))
    assert container.write(path, longer, coder="fast").header_bytes <= 85
    one = lenet5(lambda _: BucketGrid(center=-0.11, radius=1.114, count=140))
    assert container.write(path, one, coder="fast").header_bytes <= 40


@settings(max_examples=100)
@given(
    center=st.floats(-1e6, 1e6),
    radius=st.one_of(st.floats(1e-3, 1e6), st.floats(2**-10, 60_000, width=16), st.floats(2**-10, 1e6, width=32)),
    count=st.integers(2, 300),
    names=st.lists(st.text(st.characters(exclude_categories=("Cs",))), unique=True, min_size=1, max_size=6),
)
def test_grids_and_names_come_back_bit_for_bit(center: float, radius: float, count: int, names: list[str]) -> None:
    try:
        grid = BucketGrid(center=center, radius=radius, count=count)
    except ConfigError:
        return
    tensors = [quantized(name, (2,), grid=grid if number % 2 else GRID) for number, name in enumerate(names)]
    file = container.decode(container.encode(tensors))
    assert [tensor.name for tensor in file.tensors] == sorted(names, key=str.encode)
    for tensor in file.tensors:
        assert isinstance(tensor, QuantizedTensor)
        assert repr(tensor.grid) == repr(GRID if names.index(tensor.name) % 2 == 0 else grid)


@settings(max_examples=60)
@given(
    metadata=st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",))),
        st.one_of(
            st.text(st.characters(exclude_categories=("Cs",))),
            st.integers(-(1 << 62), (1 << 62) - 1),
            st.floats(allow_nan=False),
        ),
        max_size=5,
    )
)
def test_metadata_come_back(metadata: dict[str, str | int | float]) -> None:
    assert repr(container.decode(container.encode([], metadata=metadata)).metadata) == repr(
        {key: metadata[key] for key in sorted(metadata, key=str.encode)}
    )


def test_many_tensors_make_a_short_header(tmp_path: Path) -> None:
    tensors = [quantized(f"layer{number}.block.weight", (4, 4), seed=number) for number in range(100)]
    report = container.write(tmp_path / "m.metaq", tensors, coder="fast")
    assert report.header_bytes < 100 * 2
    assert len(container.read(tmp_path / "m.metaq").tensors) == 100


def test_what_the_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"w: two tensors have this name"):
        container.encode([quantized("w", (2,)), quantized("w", (3,))])
    with pytest.raises(ConfigError, match="surrogate"):
        container.encode([quantized("\ud800", (2,))])
    with pytest.raises(ConfigError, match="33 dimensions"):
        container.encode([quantized("w", (1,) * 33)])
    with pytest.raises(ConfigError, match="metadata: flag: True"):
        container.encode([], metadata={"flag": True})
    with pytest.raises(ConfigError, match="metadata: big"):
        container.encode([], metadata={"big": 1 << 62})
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        container.encode([], coder="smal")
    with pytest.raises(CodecError, match="w: constant: the symbols differ"):
        container.encode([quantized("w", (40,))], coder="constant")
    wrong = QuantizedTensor(name="w", indices=np.array([255]), grid=GRID, dtype=Dtype.float32)
    with pytest.raises(CodecError, match=r"w: .*do not fit"):
        container.encode([wrong])
    with pytest.raises(ConfigError, match="w: float64 values cannot stand for float32"):
        container.encode([ExactTensor(name="w", values=np.zeros(2), dtype=Dtype.float32)])
    wide = BucketGrid(center=0.0, radius=1e6, count=5)
    half = QuantizedTensor(name="w", indices=np.zeros(2, dtype=np.int64), grid=wide, dtype=Dtype.float16)
    with pytest.raises(ConfigError, match="w: its buckets reach beyond the largest float16"):
        container.encode([half])


def test_large_tensors_of_one_index_are_coded_as_constants() -> None:
    tensors = [
        QuantizedTensor(name=name, indices=np.full(count, 127), grid=GRID, dtype=Dtype.float32)
        for name, count in (("large", 1000), ("small", 10))
    ]
    data = container.encode(tensors, chunk_bits=8)
    assert [entry.coder for entry in container.decode(data).entries] == ["constant", "small"]
    kept = container.decode(container.encode(tensors, chunk_bits=8, coders={"large": "fast"}))
    assert kept.entries[0].coder == "fast"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, [quantized("w", (9,))])
    before = path.read_bytes()

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), full)
    with pytest.raises(OutputError, match="No space left"):
        container.write(path, [quantized("other", (90,))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        container.write(tmp_path / "missing" / "model.metaq", [])


def test_numpy_alone_restores_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, mixed())
    loaded = decode.load(path)
    assert list(loaded) == [tensor.name for tensor in mixed_in_order()]
    for tensor in mixed():
        assert loaded[tensor.name].dtype == tensor.dtype.storage
        assert loaded[tensor.name].tobytes() == np.ascontiguousarray(tensor.restore()).tobytes()
        assert loaded[tensor.name].flags.writeable
    assert decode.inspect(path) == container.describe(path)


def test_decoding_imports_neither_torch_nor_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, [quantized("w", (4, 4))])
    script = (
        "import sys; sys.modules['torch'] = None; from metaq import decode; "
        f"decode.load({str(path)!r}); decode.inspect({str(path)!r}); "
        "print([name for name in sys.modules if name in ('metaq.compression', 'metaq.lab', 'sklearn', 'matplotlib')])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_missing_file_is_a_format_error(tmp_path: Path) -> None:
    for reader in (container.read, container.describe, decode.load, decode.inspect):
        with pytest.raises(FormatError, match="no such file"):
            reader(tmp_path / "missing.metaq")
        with pytest.raises(FormatError, match="cannot be read"):
            reader(tmp_path)


def test_streamed_tensors_may_be_written_to_unless_that_is_not_needed(tmp_path):
    quantized = QuantizedTensor(
        name="q", indices=np.arange(30) % 5, grid=BucketGrid(center=0.0, radius=1.0, count=5), dtype=Dtype.float32
    )
    generator = np.random.default_rng(0)
    held = [
        ExactTensor(name=name, values=values.astype("u1"), dtype=Dtype.uint8)
        for name, values in {
            "inline": np.arange(9),
            "raw": generator.integers(0, 256, 500),
            "zstd": np.zeros(500),
        }.items()
    ]
    container.write(tmp_path / "m.metaq", [*held, quantized])
    for is_writable in (True, False):
        found = dict(container.stream(tmp_path / "m.metaq", is_writable=is_writable))
        assert [entry.coder for entry in found] == ["inline", "small", "raw", "zstd"]
        writable = {entry.name: tensor.restore().flags.writeable for entry, tensor in found.items()}
        assert writable == {"inline": is_writable, "q": True, "raw": is_writable, "zstd": is_writable}
    assert all(tensor.restore().flags.writeable for tensor in container.read(tmp_path / "m.metaq").tensors[:1])
