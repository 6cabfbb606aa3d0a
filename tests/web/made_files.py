"""Files of every kind for the tests of decoders, sound and changed, and what Python says of them."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metaq import container
from metaq.coding.header_bytes import decode_header_bytes, encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.container.coders import CODERS
from metaq.errors import CodecError, ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor, stored
from metaq.tensors.scales import Scales, has_scales

MAX_BYTES = 1 << 26
CODER_NAMES = tuple(CODERS)
QUANTIZABLE = [dtype for dtype in Dtype if dtype.is_quantizable]


def tensors_by_python(data: bytes) -> list[dict[str, Any]] | None:
    """Names, types, shapes and SHA-256 of the elements of all tensors, or None if Python refuses the file."""
    try:
        found = container.decode(data, max_bytes=MAX_BYTES)
    except FormatError:
        return None
    return [
        {
            "name": tensor.name,
            "dtype": tensor.dtype.name,
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(tensor.restore()).tobytes()).hexdigest(),
        }
        for tensor in found.tensors
    ]


def random_shape(generator: np.random.Generator) -> tuple[int, ...]:
    dimensions = int(generator.integers(0, 5))
    sizes = [int(size) for size in generator.integers(1, 13, dimensions)]
    if generator.random() < 0.05 and sizes:
        sizes[0] = 0
    return tuple(sizes)


def random_grid(generator: np.random.Generator, *, is_odd: bool, is_central: bool) -> BucketGrid:
    count = int(generator.choice([3, 5, 15, 63, 257, 1025, 65537])) - (0 if is_odd else int(generator.integers(0, 2)))
    radius = float(generator.choice([0.25, 0.3, generator.uniform(0.01, 2), np.float32(generator.uniform(0.01, 2))]))
    center = 0.0 if is_central else float(generator.choice([0.0, -0.0, 0.125, generator.normal()]))
    return BucketGrid(center=center, radius=radius, count=count)


def random_indices(generator: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Bucket indices peaked, spread, constant, periodic or with empty rows."""
    middle = (count - 1) // 2
    kind = int(generator.integers(0, 5))
    if kind == 0:
        drawn = generator.geometric(0.5, shape) * generator.choice([-1, 1], shape) + middle
    elif kind == 1:
        drawn = generator.integers(0, count, shape)
    elif kind == 2:
        drawn = np.full(shape, int(generator.integers(0, count)))
    elif kind == 3:
        drawn = middle + np.arange(int(np.prod(shape))).reshape(shape) % min(7, count - middle)
    else:
        drawn = np.full(shape, middle)
        if len(shape) > 1 and min(shape) > 0:
            drawn[:: int(generator.integers(1, 4))] = generator.integers(0, count, drawn[:1].shape)
    return np.clip(drawn, 0, count - 1).astype(np.int64)


def random_quantized(generator: np.random.Generator, name: str, basis: Basis | None) -> QuantizedTensor:
    has_basis = basis is not None and generator.random() < 0.3
    trellis_bits = int(generator.choice([0, 0, 2, 3, 4, 5, 6, 7, 8]))
    grid = random_grid(generator, is_odd=trellis_bits > 0 or has_basis, is_central=has_basis)
    shape = (int(generator.integers(1, 9)), basis.size) if has_basis and basis else random_shape(generator)
    is_scaled = has_scales(shape) and generator.random() < 0.4
    rows, columns = (generator.integers(-16, 17, size).astype(np.int8) for size in (*shape, 1, 1)[:2])
    return QuantizedTensor(
        name=name,
        indices=random_indices(generator, shape, grid.count),
        grid=grid,
        dtype=QUANTIZABLE[int(generator.integers(len(QUANTIZABLE)))],
        scan="columns" if not has_basis and generator.random() < 0.3 else "rows",
        trellis_bits=trellis_bits,
        basis=basis if has_basis else None,
        scales=Scales(rows=rows, columns=columns) if is_scaled else None,
    )


def random_exact(generator: np.random.Generator, name: str) -> ExactTensor:
    dtype = list(Dtype)[int(generator.integers(len(Dtype)))]
    shape = random_shape(generator)
    if dtype is Dtype.bool:
        return ExactTensor(name=name, values=generator.random(shape) < 0.5, dtype=dtype)
    values = np.zeros(shape, dtype=dtype.storage)
    raw = generator.integers(0, 256, values.nbytes, dtype=np.uint8)
    if generator.random() < 0.5:
        raw[:] = raw[:1]
    return ExactTensor(name=name, values=np.frombuffer(raw.tobytes(), dtype=dtype.storage).reshape(shape), dtype=dtype)


def random_floats(generator: np.random.Generator, name: str) -> ExactTensor:
    """Weights of any floating type, or complex, with rows or columns of different scales, narrower ones inside them, or
    few different ones.
    """
    dtype = [*QUANTIZABLE, Dtype.complex64, Dtype.complex128][int(generator.integers(len(QUANTIZABLE) + 2))]
    shape = tuple(int(size) for size in generator.choice([1, 5, 30, 100], int(generator.integers(1, 4))))
    values = generator.normal(size=shape) * np.exp2(generator.normal(0, 3, shape[-1]))
    kind = generator.random()
    if kind < 0.2:
        values = generator.choice(values.reshape(-1), shape)
    elif kind < 0.5:
        values = values.astype(np.float16).astype(np.float64)
    if dtype.kind == "complex":
        return ExactTensor(name=name, values=(values - 1j * values[::-1]).astype(dtype.storage), dtype=dtype)
    return ExactTensor(name=name, values=stored(np.clip(values, -100, 100), dtype), dtype=dtype)


def random_integers(generator: np.random.Generator, name: str) -> ExactTensor:
    """Integers of any type around zero, or packed by four bits."""
    dtype = [Dtype.int8, Dtype.uint8, Dtype.int16, Dtype.int32, Dtype.int64, Dtype.uint64][int(generator.integers(6))]
    shape = tuple(int(size) for size in generator.choice([3, 20, 100], 2))
    values = np.round(generator.normal(0, generator.choice([2, 30, 1000]), shape)).astype(np.int64)
    if generator.random() < 0.3:
        halves = generator.binomial(15, 0.5, (2 * dtype.itemsize, *shape)).astype(np.uint64)
        values = (halves << (4 * np.arange(2 * dtype.itemsize, dtype=np.uint64))[:, None, None]).sum(0, dtype=np.uint64)
    return ExactTensor(name=name, values=values.astype(dtype.storage), dtype=dtype)


def random_tensors(generator: np.random.Generator) -> list[Tensor]:
    size = int(generator.integers(1, 10))
    basis = Basis(
        indices=random_indices(generator, (size, size), 255), grid=BucketGrid(center=0.0, radius=1.0, count=255)
    )
    tensors: list[Tensor] = []
    for number in range(int(generator.integers(1, 9))):
        name = str(generator.choice(["layer.", "é", "stage.0."])) + str(number)
        name += str(generator.choice(["", ".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked"]))
        kind = generator.random()
        firsts = [tensor for tensor in tensors if not isinstance(tensor, TiedTensor)]
        if kind < 0.1 and firsts:
            tensors.append(TiedTensor(name=name, first=firsts[int(generator.integers(len(firsts)))]))
        elif kind < 0.35:
            tensors.append(random_exact(generator, name))
        else:
            tensors.append(random_quantized(generator, name, basis))
    return tensors


def random_file(generator: np.random.Generator, coder: str) -> bytes:
    """A file of random tensors; those that the coder cannot hold have another one."""
    while True:
        try:
            return file_of(random_tensors(generator), generator, coder)
        except ConfigError:
            # Combinations of a basis may reach beyond the largest number of a narrow type.
            continue


def file_of(tensors: Sequence[Tensor], generator: np.random.Generator, coder: str) -> bytes:
    """A file of these tensors, with metadata and a limit of chunks that are drawn."""
    metadata: dict[str, str | int | float] = {
        "net": "Ω network",
        "n": int(generator.integers(-(1 << 62), 1 << 62)) >> int(generator.integers(0, 62)),
        "accuracy": float(generator.normal()),
    }
    chunk_bits = int(generator.choice([4, 8, 20]))
    tied = {tensor.first.name for tensor in tensors if isinstance(tensor, TiedTensor)}
    others = {
        tensor.name: "fast"
        for tensor in tensors
        if isinstance(tensor, QuantizedTensor) and tensor.name not in tied and not holds(coder, tensor)
    }
    for usual in (coder, "small"):
        try:
            return container.encode(tensors, metadata=metadata, coder=usual, coders=others, chunk_bits=chunk_bits)
        except CodecError:
            continue
    raise AssertionError("the coder small holds everything")


def holds(coder: str, tensor: QuantizedTensor) -> bool:
    """Whether the coder can hold the tensor."""
    try:
        container.encode([replace(tensor, basis=None)], coder=coder)
    except CodecError:
        return False
    return True


def changed(data: bytes, bit: int) -> bytes:
    """`data` with one bit flipped."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def mutated(raw: bytes, generator: np.random.Generator, *, is_same_size: bool = False) -> bytes:
    """`raw` with a byte replaced, or inserted or removed."""
    place = int(generator.integers(len(raw)))
    byte = bytes([int(generator.choice([0, 1, 2, 3, 127, 128, 255, generator.integers(256)]))])
    kind = 0 if is_same_size else int(generator.integers(3))
    return raw[:place] + (byte, byte + raw[place : place + 1], b"")[kind] + raw[place + 1 :]


def raw_header(data: bytes) -> tuple[bytes, int]:
    """The header of a file, and where what follows it begins."""
    size, at = varint(data, 5)
    raw_size, begin = varint(data, at)
    return decode_header_bytes(data[begin : at + size], raw_size), at + size


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint at this place, and the place after it."""
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def repaired(path: Path, generator: np.random.Generator) -> bytes:
    """The file with a bit of one payload flipped, and right checksums."""
    contents = container.describe(path)
    data = bytearray(path.read_bytes())
    chunk = contents.chunks[int(generator.integers(len(contents.chunks)))]
    place = chunk.offset_bytes + int(generator.integers(max(chunk.size_bytes, 1)))
    data[place] ^= 1 << int(generator.integers(8))
    return with_checksums(bytes(data[: raw_header(data)[1]]), [payload_of(data, each) for each in contents.chunks])


def payload_of(data: bytes, chunk: container.Chunk) -> bytes:
    return bytes(data[chunk.offset_bytes : chunk.offset_bytes + chunk.size_bytes])


def with_header(path: Path, raw: bytes) -> bytes:
    """The file with another header, and right checksums."""
    data = path.read_bytes()
    stored = encode_varint(len(raw)) + encode_header_bytes(raw)
    payloads = [payload_of(data, chunk) for chunk in container.describe(path).chunks]
    return with_checksums(data[:5] + encode_varint(len(stored)) + stored, payloads)


def with_checksums(head: bytes, payloads: Sequence[bytes]) -> bytes:
    if len(payloads) > 1:
        head = sealed(head + b"".join(struct.pack("<I", zlib.crc32(payload)) for payload in payloads))
    return sealed(head + b"".join(payloads))


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))
