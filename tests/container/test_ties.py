"""Tied tensors: stored once, restored as one."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from metaq import container, decode
from metaq.container.coders import CHUNK_CODERS
from metaq.errors import ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor

GRID = BucketGrid(center=0.0, radius=1.5, count=15)


def quantized(name: str, shape: tuple[int, ...], *, seed: int = 0, basis: Basis | None = None) -> QuantizedTensor:
    indices = np.random.default_rng(seed).integers(0, GRID.count, shape)
    return QuantizedTensor(name=name, indices=indices, grid=GRID, dtype=Dtype.float32, basis=basis)


def exact(name: str, count: int) -> ExactTensor:
    return ExactTensor(name=name, values=np.arange(count, dtype="<f4"), dtype=Dtype.float32)


def tied() -> list[Tensor]:
    """Two groups of tied tensors, the one quantised and the other not; the names of the first group change places."""
    weight, scale = quantized("decoder.weight", (30, 20)), exact("norm.scale", 40)
    return [
        TiedTensor(name="encoder.weight", first=weight),
        weight,
        TiedTensor(name="again", first=weight),
        quantized("other.weight", (20, 10), seed=1),
        scale,
        TiedTensor(name="zoom.scale", first=scale),
    ]


def test_tied_tensors_come_back_as_one(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    report = container.write(path, tied())
    file = container.read(path)
    names = ["again", "decoder.weight", "encoder.weight", "norm.scale", "other.weight", "zoom.scale"]
    assert [tensor.name for tensor in file.tensors] == names
    again, decoder, encoder, scale, _, zoom = file.tensors
    assert isinstance(decoder, TiedTensor)
    assert isinstance(encoder, TiedTensor)
    assert isinstance(zoom, TiedTensor)
    assert decoder.first is encoder.first is again
    assert zoom.first is scale
    assert [entry.tied_to for entry in file.entries] == [None, 0, 0, None, None, 3]
    assert container.describe(path).entries == file.entries
    for written in tied():
        found = next(tensor for tensor in file.tensors if tensor.name == written.name)
        assert (found.shape, found.dtype) == (written.shape, written.dtype)
        np.testing.assert_array_equal(found.restore(), written.restore())
    assert container.encode(file.tensors) == path.read_bytes()
    assert report.file_bytes == path.stat().st_size
    assert [entry.coder for entry in file.entries] == ["small", "tied", "tied", "planes", "small", "tied"]


def test_a_tie_costs_a_few_bytes() -> None:
    weight = quantized("decoder.weight", (30, 20))
    alone = len(container.encode([weight]))
    assert len(container.encode([weight, TiedTensor(name="encoder.weight", first=weight)])) <= alone + 12


def test_order_does_not_matter() -> None:
    expected = container.encode(tied())
    for seed in range(4):
        shuffled = tied()
        random.Random(seed).shuffle(shuffled)
        assert container.encode(shuffled) == expected


def test_a_tie_to_a_tensor_that_is_not_written_is_as_good() -> None:
    first = quantized("left out", (4, 3))
    for tensor in container.decode(
        container.encode([TiedTensor(name="b", first=first), TiedTensor(name="a", first=first)])
    ).tensors:
        np.testing.assert_array_equal(tensor.restore(), first.restore())


@pytest.mark.parametrize("coder", CHUNK_CODERS)
@pytest.mark.parametrize("chunk_bits", [5, 20])
def test_ties_go_with_every_coder(coder: str, chunk_bits: int) -> None:
    file = container.decode(container.encode(tied(), coder=coder, chunk_bits=chunk_bits))
    for written in tied():
        found = next(tensor for tensor in file.tensors if tensor.name == written.name)
        np.testing.assert_array_equal(found.restore(), written.restore())


def test_tensors_of_several_bases_and_of_no_elements_are_tied() -> None:
    basis = Basis(indices=np.eye(6, dtype=np.int64) + 3, grid=BucketGrid(center=0.0, radius=1.0, count=7))
    rotated, nothing = quantized("a", (9, 6), basis=basis), exact("n", 0)
    tensors = [rotated, TiedTensor(name="b", first=rotated), nothing, TiedTensor(name="o", first=nothing)]
    file = container.decode(container.encode(tensors))
    assert [entry.tied_to for entry in file.entries] == [None, 0, None, 2]
    for written, found in zip(tensors, file.tensors, strict=True):
        np.testing.assert_array_equal(found.restore(), written.restore())


def test_numpy_alone_gives_one_array_for_all_names(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    container.write(path, tied(), chunk_bits=7)
    loaded = decode.load(path)
    assert list(loaded) == [entry.name for entry in decode.inspect(path).entries]
    assert loaded["encoder.weight"] is loaded["decoder.weight"] is loaded["again"]
    assert loaded["zoom.scale"] is loaded["norm.scale"]
    assert [name for name, _ in decode.stream(path)] == [
        "again", "decoder.weight", "encoder.weight", "norm.scale", "zoom.scale", "other.weight"
    ]  # fmt: skip


def test_a_tied_tensor_is_restored_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    basis = Basis(indices=np.eye(6, dtype=np.int64) + 3, grid=BucketGrid(center=0.0, radius=1.0, count=7))
    rotated = quantized("a", (9, 6), basis=basis)
    container.write(path, [*tied(), rotated, TiedTensor(name="z", first=rotated)], chunk_bits=7)
    data = bytearray(path.read_bytes())
    contents = container.describe(path)
    needed = {0, 1, 2}
    for chunk in contents.chunks:
        if not any(piece.tensor in needed for piece in chunk.pieces):
            data[chunk.offset_bytes] ^= 1
    path.write_bytes(data)
    assert [entry.name for entry in contents.parts[:3]] == ["basis 0", "a", "again"]
    for name, first in (("encoder.weight", "decoder.weight"), ("z", "a")):
        (found,) = decode.load(path, names=[name]).items()
        wanted = next(tensor for tensor in [*tied(), rotated] if tensor.name == first)
        assert found[0] == name
        np.testing.assert_array_equal(found[1], wanted.restore())
    with pytest.raises(FormatError, match=r"norm\.scale"):
        decode.load(path, names=["zoom.scale"])


def test_streaming_keeps_a_tied_tensor_no_longer_than_its_names(tmp_path: Path) -> None:
    path = tmp_path / "model.metaq"
    values = np.zeros((2000, 3000), dtype="<f4")
    first, last = (ExactTensor(name=name, values=values, dtype=Dtype.float32) for name in ("a", "z"))
    container.write(path, [first, TiedTensor(name="b", first=first), TiedTensor(name="c", first=first), last])
    tracemalloc.start()
    try:
        streamed = container.stream(path)
        for _ in range(4):
            restored = next(streamed)[1]
            del restored
            # What a block of decoded bytes takes beside the array itself.
            assert tracemalloc.get_traced_memory()[1] < 2.5 * values.nbytes
        assert next(streamed, None) is None
    finally:
        tracemalloc.stop()


def test_coders_are_given_to_the_tensor_that_holds_the_elements() -> None:
    file = container.decode(container.encode(tied(), coders={"again": "fast"}))
    assert file.entries[0].coder == "fast"
    with pytest.raises(ConfigError, match=r"'encoder\.weight' is tied to 'again'"):
        container.encode(tied(), coders={"encoder.weight": "fast"})


def test_names_of_tied_tensors_differ_too() -> None:
    first = quantized("w", (3,))
    with pytest.raises(ConfigError, match="w: two tensors have this name"):
        container.encode([first, TiedTensor(name="w", first=first)])
