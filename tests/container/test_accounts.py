"""Every byte of a file has one place, and a tensor takes what its code takes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from metaq import container
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.container.coders import CHUNK_CODERS
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor

GRID = BucketGrid(center=0.0, radius=1.5, count=15)
MODELS = Path(__file__).parents[2] / "models"


def quantized(name: str, shape: tuple[int, ...], spread: float, *, seed: int = 0) -> QuantizedTensor:
    drawn = np.random.default_rng(seed).normal(7, spread, size=shape)
    indices = np.clip(np.round(drawn), 0, 14).astype(np.int64)
    return QuantizedTensor(name=name, indices=indices, grid=GRID, dtype=Dtype.float32)


def mixture() -> list[Tensor]:
    first = quantized("b.weight", (40, 30), 1.0)
    exact = ExactTensor(name="c", values=np.arange(500, dtype="<i8"), dtype=Dtype.int64)
    inline = ExactTensor(name="d", values=np.zeros(3, dtype="<f4"), dtype=Dtype.float32)
    empty = quantized("e", (0, 4), 1.0)
    return [quantized("a.bias", (30,), 0.2), first, exact, inline, empty, TiedTensor(name="f", first=first)]


def accounted(tensors: list[Tensor], path: Path, *, coder: str = "small", chunk_bits: int = 20) -> container.Account:
    container.write(path, tensors, coder=coder, chunk_bits=chunk_bits)
    account, contents = container.account(path), container.describe(path)
    frame_bytes = account.magic_bytes + account.header_bytes + account.checksum_bytes
    assert frame_bytes + sum(account.parts_bytes) + account.rounding_bytes == path.stat().st_size
    assert frame_bytes == contents.header_bytes
    assert account.file_bytes == contents.file_bytes == path.stat().st_size
    assert abs(account.rounding_bytes) <= len(contents.parts)
    assert len(account.parts_bits) == len(contents.parts)
    return account


@pytest.mark.parametrize("coder", CHUNK_CODERS)
@pytest.mark.parametrize("chunk_bits", [5, 20])
def test_all_parts_are_the_file(coder: str, chunk_bits: int, tmp_path: Path) -> None:
    bias, weight, exact, *others = accounted(
        mixture(), tmp_path / "m.metaq", coder=coder, chunk_bits=chunk_bits
    ).parts_bits
    assert 0 < bias < weight
    packed = [chunk for chunk in container.describe(tmp_path / "m.metaq").chunks if chunk.coder == "planes"]
    assert len(packed) == (1 if chunk_bits == 20 else math.ceil(500 / 8))
    assert exact == 8 * sum(chunk.size_bytes for chunk in packed)
    assert others == [0, 0, 0]


def test_tensors_of_one_chunk_have_what_they_add_to_it(tmp_path: Path) -> None:
    tensors = [
        quantized(name, (50, 20), spread, seed=ord(name)) for name, spread in (("a", 1.5), ("b", 1.5), ("c", 0.0))
    ]
    account = accounted(list(tensors), tmp_path / "m.metaq")
    for number in range(3):
        container.write(tmp_path / "some.metaq", tensors[: number + 1])
        (chunk,) = container.describe(tmp_path / "some.metaq").chunks
        # The end of a code takes whole bytes, and the first bit says which recipe it is.
        assert abs(8 * chunk.size_bytes - sum(account.parts_bits[: number + 1])) <= 9
    assert account.parts_bits[0] > 0.95 * zero_order_entropy_bits(tensors[0].indices)


def test_bases_are_parts_too(tmp_path: Path) -> None:
    basis = Basis(indices=np.random.default_rng(1).integers(0, 15, (20, 20)), grid=GRID)
    rotated = quantized("a", (50, 20), 1.5)
    rotated = QuantizedTensor(name="a", indices=rotated.indices, grid=GRID, dtype=Dtype.float32, basis=basis)
    basis_bits, tensor_bits = accounted([rotated], tmp_path / "m.metaq").parts_bits
    assert basis_bits == pytest.approx(20 * 20 * math.log2(15), rel=0.2)
    assert tensor_bits == pytest.approx(zero_order_entropy_bits(rotated.indices), rel=0.1)


@pytest.mark.parametrize("name", ["lenet5-mnist", "lenet5-caffe-mnist", "lenet300-mnist"])
def test_shipped_models_are_accounted_for_to_half_a_byte(name: str) -> None:
    path = MODELS / f"{name}.metaq"
    account, contents = container.account(path), container.describe(path)
    (chunk,) = contents.chunks
    payload = path.read_bytes()[chunk.offset_bytes : chunk.offset_bytes + chunk.size_bytes]
    coded = CHUNK_CODERS[chunk.coder].code_lengths(payload, [piece.shape for piece in chunk.pieces])
    assert all(abs(size - bits / 8) <= 0.5 for size, bits in zip(account.parts_bytes, coded, strict=True))
    frame_bytes = account.magic_bytes + account.header_bytes + account.checksum_bytes
    assert frame_bytes + sum(account.parts_bytes) + account.rounding_bytes == path.stat().st_size
    assert abs(account.rounding_bytes) <= 1


def test_a_damaged_chunk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.metaq"
    container.write(path, mixture())
    data = bytearray(path.read_bytes())
    data[container.describe(path).chunks[0].offset_bytes] ^= 255
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"chunk of 2 tensors, byte \d+: "):
        container.account(path)
