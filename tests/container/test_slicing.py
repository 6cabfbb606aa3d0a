"""Rows of tensors: the same as in the whole tensor, from no more chunks than hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metaq import container
from metaq.container.slicing import read_rows
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor
from metaq.tensors.scales import Scales

GRID = BucketGrid(center=0.0, radius=1.5, count=15)
ROWS, COLUMNS = 23, 6


def varied() -> list[Tensor]:
    random = np.random.default_rng(0)
    indices = random.integers(0, 15, (ROWS, COLUMNS))
    exponents = random.integers(-6, 6, ROWS + COLUMNS).astype(np.int8)
    scales = Scales(rows=exponents[:ROWS], columns=exponents[ROWS:])
    basis = Basis(indices=random.integers(0, 15, (COLUMNS, COLUMNS)), grid=GRID)
    plain = QuantizedTensor(name="plain", indices=indices, grid=GRID, dtype=Dtype.float32)
    return [
        plain,
        replace(plain, name="trellis", trellis_bits=3, dtype=Dtype.bfloat16),
        replace(plain, name="scaled", trellis_bits=8, scales=scales),
        replace(plain, name="combined", basis=basis),
        replace(plain, name="all", basis=basis, trellis_bits=7, scales=scales, dtype=Dtype.float16),
        replace(plain, name="columns", scan="columns", trellis_bits=4),
        replace(plain, name="cube", indices=indices.reshape(ROWS, 2, 3), trellis_bits=2),
        replace(plain, name="vector", indices=indices.reshape(-1)),
        replace(plain, name="vector with a trellis", indices=indices.reshape(-1), trellis_bits=2),
        replace(plain, name="nothing", indices=indices[:, :0]),
        TiedTensor(name="tied", first=plain),
        ExactTensor(name="exact", values=random.normal(size=(ROWS, COLUMNS)), dtype=Dtype.float64),
        ExactTensor(name="truths", values=random.random((ROWS, 2, 3)) < 0.5, dtype=Dtype.bool),
        ExactTensor(name="inline", values=np.arange(4, dtype="<i8"), dtype=Dtype.int64),
    ]


@pytest.mark.parametrize("chunk_bits", [2, 4, 6, 20])
def test_rows_are_those_of_the_whole_tensor(tmp_path: Path, chunk_bits: int) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, varied(), chunk_bits=chunk_bits)
    for tensor in varied():
        wanted = tensor.restore()
        for start, stop in ((0, 1), (1, 3), (len(wanted) // 2, len(wanted)), (2, 2), (0, len(wanted))):
            found = read_rows(path, tensor.name, start, stop)
            assert (found.name, found.dtype, found.shape) == (tensor.name, tensor.dtype, wanted[start:stop].shape)
            assert found.restore().tobytes() == wanted[start:stop].tobytes(), tensor.name


@pytest.mark.parametrize("name", ["plain", "trellis", "scaled", "vector", "cube", "exact"])
def test_other_chunks_are_not_read(tmp_path: Path, name: str) -> None:
    (tensor,) = (each for each in varied() if each.name == name)
    path = tmp_path / "model.metaq"
    container.write(path, [tensor], chunk_bits=4)
    data = bytearray(path.read_bytes())
    chunks = container.describe(path).chunks
    assert len(chunks) > 5
    data[chunks[0].offset_bytes] ^= 1
    data[chunks[-1].offset_bytes] ^= 1
    wanted = tensor.restore()
    start, stop = len(wanted) // 2, len(wanted) // 2 + 3
    assert read_rows(bytes(data), name, start, stop).restore().tobytes() == wanted[start:stop].tobytes()
    for rows in ((0, 1), (len(wanted) - 1, len(wanted))):
        with pytest.raises(FormatError, match="checksum"):
            read_rows(bytes(data), name, *rows)


def test_the_memory_is_that_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    # A header can promise much: 16 GB of the same value, of which only some rows are asked for.
    indices = np.broadcast_to(np.zeros((), dtype=np.int64), (1 << 12, 1 << 10))
    huge = QuantizedTensor(name="huge", indices=indices, grid=GRID, dtype=Dtype.float32)
    container.write(path, [huge], coder="constant", chunk_bits=12)
    assert read_rows(path, "huge", 5, 7, max_bytes=8 << 10).shape == (2, 1 << 10)
    with pytest.raises(FormatError, match="8192 bytes of memory, more than the limit of 8191"):
        read_rows(path, "huge", 5, 7, max_bytes=(8 << 10) - 1)
