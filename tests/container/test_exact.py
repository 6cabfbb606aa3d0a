"""Tensors that are kept exactly, as files hold them: in planes, cut, joined, streamed, and within limits of memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from metaq import container, decode
from metaq.container.contents import Entry
from metaq.container.exact import encode_planes
from metaq.container.writer import expected_exact_bytes
from metaq.errors import CodecError, FormatError
from metaq.tensors.quantized import Dtype, ExactTensor, Tensor, TiedTensor


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype("<f4")


def exact(name: str, values: np.ndarray, dtype: Dtype) -> ExactTensor:
    return ExactTensor(name=name, values=values, dtype=dtype)


def every_type() -> list[Tensor]:
    """A tensor of every type, two of them tied, and some shapes that have no rows."""
    generator = np.random.default_rng(0)
    tensors: list[Tensor] = []
    for dtype in Dtype:
        values = generator.normal(0, 20, (9, 30))
        if dtype.kind == "complex":
            values = values + 1j * values[::-1]
        if dtype is Dtype.bool:
            values = values > 5
        elif dtype.kind != "float" or dtype is Dtype.bfloat16:
            values = np.abs(values) if dtype.storage.kind == "u" else values
        tensors.append(exact(dtype.name, values.astype(dtype.storage), dtype))
    first = tensors[0]
    assert isinstance(first, ExactTensor)
    tensors.append(TiedTensor(name="tied", first=first))
    tensors.append(exact("vector", weights(1, 500), Dtype.float32))
    tensors.append(exact("deep", weights(2, 3, 4, 5, 6), Dtype.float32))
    tensors.append(exact("empty", weights(2, 3, 0), Dtype.float32))
    tensors.append(exact("text", np.arange(200, dtype="u1"), Dtype.uint8))
    return tensors


@pytest.mark.parametrize("chunk_bits", [0, 5, 8, 20])
@pytest.mark.parametrize("coder", ["small", "fast"])
def test_tensors_of_every_type_come_back(coder: str, chunk_bits: int, tmp_path: Path) -> None:
    path = tmp_path / "m.metaq"
    container.write(path, every_type(), coder=coder, chunk_bits=chunk_bits)
    file, loaded = container.read(path), decode.load(path)
    ways = {entry.name: entry.coder for entry in file.entries}
    assert ways.pop("tied") == "tied"
    assert ways.pop("empty") == "inline"
    assert ways.pop("text") == "raw"
    assert set(ways.values()) == {"planes"}
    expected = {tensor.name: tensor for tensor in every_type()}
    for tensor in file.tensors:
        values = expected[tensor.name].restore()
        assert tensor.restore().tobytes() == loaded[tensor.name].tobytes() == values.tobytes()
        assert tensor.restore().shape == loaded[tensor.name].shape == values.shape
        assert tensor.restore().dtype == loaded[tensor.name].dtype == expected[tensor.name].dtype.storage
    assert container.encode(file.tensors, coder=coder, chunk_bits=chunk_bits) == path.read_bytes()


def test_pieces_of_a_large_tensor_are_decoded_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "m.metaq"
    values = weights(0, 50, 40)
    container.write(path, [exact("w", values, Dtype.float32), exact("x", values[:1], Dtype.float32)], chunk_bits=9)
    contents = container.describe(path)
    pieces = [[(piece.tensor, piece.start, piece.shape.count) for piece in each.pieces] for each in contents.chunks]
    # Elements of four bytes count twice.
    assert pieces == [[(0, 240 * n, 240)] for n in range(8)] + [[(0, 1920, 80)], [(1, 0, 40)]]
    assert contents.entries[0].coded_bytes == sum(chunk.size_bytes for chunk in contents.chunks[:-1])
    for _, tensor in container.stream(path):
        assert tensor.values.tobytes() == values[: len(tensor.values)].tobytes()
        assert tensor.values.flags.writeable
    data = bytearray(path.read_bytes())
    data[contents.chunks[3].offset_bytes + 9] ^= 1
    path.write_bytes(data)
    assert decode.load(path, names=["x"])["x"].tobytes() == values[:1].tobytes()
    with pytest.raises(
        FormatError, match=rf"chunk of tensor 'w', byte {contents.chunks[3].offset_bytes}: its checksum"
    ):
        decode.load(path, names=["w"])


def test_small_tensors_share_a_chunk_and_what_was_learned(tmp_path: Path) -> None:
    tensors = [exact(f"{number:02}", weights(number, 90), Dtype.float32) for number in range(40)]
    path = tmp_path / "m.metaq"
    container.write(path, tensors, coder="small")
    assert [len(chunk.pieces) for chunk in container.describe(path).chunks] == [40]
    alone = sum(len(container.encode([tensor], coder="small")) for tensor in tensors)
    assert path.stat().st_size < 0.95 * alone


@pytest.mark.parametrize("coder", ["small", "fast"])
def test_numpy_alone_restores_planes(coder: str, tmp_path: Path) -> None:
    path = tmp_path / "m.metaq"
    tensors = [tensor for tensor in every_type() if tensor.dtype.kind == "float" and tensor.name != "empty"]
    container.write(path, tensors, coder=coder, chunk_bits=9)
    program = """
import sys, zlib
for name in {blocked}:
    sys.modules[name] = None
from metaq import decode
for name, values in decode.stream({path!r}):
    print(name, zlib.crc32(values.tobytes()))
"""
    found = []
    for blocked in ((), ("numba", "llvmlite", "torch", "zstandard")):
        code = program.format(blocked=blocked, path=str(path))
        found.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1]
    assert len(found[0].splitlines()) == len(tensors)


@pytest.mark.slow
def test_streaming_takes_the_memory_of_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.metaq"
    values = np.tile(weights(0, 250, 4000), (12, 1))
    packed = np.random.default_rng(0).binomial(15, 0.5, (8, 1 << 20)).astype("<u4")
    packed = (packed << (4 * np.arange(8, dtype="<u4"))[:, None]).sum(axis=0, dtype="<u4").reshape(1024, -1)
    tensors = [exact("a", values, Dtype.float32), exact("b", packed.view("<i4"), Dtype.int32)]
    container.write(path, tensors, coder="fast")
    for wanted in tensors:
        largest = wanted.values.nbytes
        with pytest.raises(FormatError, match="memory"):
            next(container.stream(path, names=[wanted.name], max_bytes=largest - 1))
        tracemalloc.start()
        try:
            ((_, tensor),) = container.stream(path, names=[wanted.name], max_bytes=largest)
            assert tracemalloc.get_traced_memory()[1] < largest + (80 << 20)
        finally:
            tracemalloc.stop()
        assert np.array_equal(tensor.restore(), wanted.values)


def test_what_a_tensor_will_take_is_known_from_some_of_it() -> None:
    for values, dtype in (
        (weights(0, 900, 500), Dtype.float32),
        (weights(1, 900, 500).astype("<f2"), Dtype.float16),
        (np.round(weights(2, 700, 900) * 500).astype("i1"), Dtype.int8),
        (weights(3, 20), Dtype.float32),
        (weights(4, 3), Dtype.float32),
        (weights(5, 0, 3), Dtype.float32),
        (np.arange(200, dtype="u1"), Dtype.uint8),
        (weights(6, 2, 400_000), Dtype.float32),
    ):
        flat = values.reshape(-1)
        expected = expected_exact_bytes(dtype, values.shape, lambda start, stop, flat=flat: flat[start:stop])
        frame = len(container.encode([]))
        taken = len(container.encode([exact("w", values, dtype)], coder="fast")) - frame
        assert expected == pytest.approx(taken, rel=0.02, abs=20)


def test_what_does_not_decode_to_its_elements_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaq.container.exact.decode_chunk", lambda *_: [np.zeros(30, dtype="<u4")])
    with pytest.raises(CodecError, match="w: planes: decoding does not give the elements back"):
        container.encode([exact("w", weights(0, 30), Dtype.float32)])


def test_the_bytes_do_not_depend_on_how_elements_lie_in_memory() -> None:
    values = weights(0, 40, 30)
    plain = container.encode([exact("w", values, Dtype.float32)])
    assert container.encode([exact("w", np.asfortranarray(values), Dtype.float32)]) == plain
    assert container.encode([exact("w", values.astype(">f4"), Dtype.float32)]) == plain


def test_entries_and_pieces_are_what_is_coded() -> None:
    entry = Entry(name="w", shape=(40, 30), dtype=Dtype.float32, coder="planes", grid=None)
    values = weights(0, 40, 30)
    contents = container.decode(container.encode([exact("w", values, Dtype.float32)], coder="fast"))
    ((piece,),) = (chunk.pieces for chunk in contents.chunks)
    payload = encode_planes([values.reshape(-1)], [entry], [piece], "fast")
    assert len(payload) == contents.entries[0].coded_bytes
