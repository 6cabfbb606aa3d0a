from __future__ import annotations

import numpy as np
import pytest

from metaq import container
from metaq.report import allocation
from metaq.report.allocation import allocate, whole_shares
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, TiedTensor

GRID = BucketGrid(center=0.0, radius=1.5, count=15)


def quantized(name, shape, spread, *, seed=0):
    rng = np.random.default_rng(seed)
    indices = np.clip(np.round(rng.normal(7, spread, size=shape)), 0, 14).astype(np.int64)
    return QuantizedTensor(name=name, indices=indices, grid=GRID, dtype=Dtype.float32)


def allocated(tensors, **options):
    data = container.encode(tensors, **options)
    file = container.decode(data)
    found = allocate(file, lambda offset, size: data[offset : offset + size])
    assert found.file_bytes == len(data)
    assert min(found.parts) >= 0
    for number, entry in enumerate(file.bases + file.entries):
        alone = [chunk for chunk in file.chunks if [piece.tensor for piece in chunk.pieces] == [number]]
        assert not alone or entry.count == 0 or found.parts[number] == sum(chunk.size_bytes for chunk in alone)
    return found


def mixture():
    first = quantized("b.weight", (40, 30), 1.0)
    exact = ExactTensor(name="c", values=np.arange(500, dtype="<i8"), dtype=Dtype.int64)
    inline = ExactTensor(name="d", values=np.zeros(3, dtype="<f4"), dtype=Dtype.float32)
    empty = quantized("e", (0, 4), 1.0)
    return [quantized("a.bias", (30,), 0.2), first, exact, inline, empty, TiedTensor(name="f", first=first)]


@pytest.mark.parametrize("coder", ["small", "fast"])
def test_the_bytes_of_all_parts_are_the_file(coder):
    parts = allocated(mixture(), coder=coder).parts
    assert parts[1] > parts[0]
    assert parts[2] > 0
    assert parts[3:] == (0, 0, 0)


def test_tensors_of_one_chunk_have_what_they_added_to_it():
    tensors = [quantized("a", (50, 20), 1.5), quantized("b", (50, 20), 1.5, seed=1), quantized("c", (50, 20), 0.0)]
    found = allocated(tensors)
    assert found.methods == {"measured"}
    alone = len(container.encode(tensors[:1])) - len(container.encode([quantized("a", (0, 20), 1.5)]))
    assert abs(found.parts[0] - alone) <= 4
    assert found.parts[2] < found.parts[1] / 20


def test_what_is_too_long_to_be_coded_again_is_estimated(monkeypatch):
    monkeypatch.setattr(allocation, "MOST_SYMBOLS_CODED_AGAIN", 100)
    found = allocated([quantized("a", (50, 20), 1.5), quantized("b", (50, 20), 0.3)])
    assert found.methods == {"estimated"}
    assert found.parts[0] > 2 * found.parts[1]


def test_a_file_of_another_encoder_is_estimated():
    tensors = [quantized("a", (50, 20), 1.5), quantized("b", (50, 20), 1.5, seed=1)]
    data = container.encode(tensors)
    file = container.decode(data)
    found = allocate(file, lambda _offset, size: bytes(size))
    assert found.methods == {"estimated"}
    assert found.file_bytes == len(data)


def test_tensors_in_several_chunks_are_added_up():
    tensors = [quantized("a", (100, 40), 1.0), quantized("b", (10, 4), 1.0), quantized("c", (10, 4), 1.0)]
    found = allocated(tensors, chunk_bits=10)
    assert "alone" in found.methods
    assert found.checksums > 8
    assert found.parts[0] > 10 * found.parts[1]


def test_a_basis_has_its_own_bytes():
    rng = np.random.default_rng(0)
    basis = Basis(indices=rng.integers(0, 15, size=(16, 16)), grid=GRID)
    rotated = QuantizedTensor(
        name="a", indices=rng.integers(6, 9, size=(8, 16)), grid=GRID, dtype=Dtype.float32, basis=basis
    )
    found = allocated([rotated])
    assert len(found.parts) == 2
    assert found.parts[0] > found.parts[1] > 0


@pytest.mark.parametrize("total", [0, 1, 17, 1000])
def test_whole_shares_add_up_and_keep_proportions(total):
    weights = np.random.default_rng(total).uniform(0, 5, size=12).tolist()
    shares = whole_shares(total, weights)
    assert sum(shares) == total
    assert all(abs(share - total * weight / sum(weights)) <= 1 for share, weight in zip(shares, weights, strict=True))
