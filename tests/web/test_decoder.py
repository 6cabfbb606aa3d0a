"""The JavaScript decoder against the Python one, on files of every kind: both restore the same bits, or both refuse."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaq import container
from metaq.coding.header_bytes import decode_header_bytes, encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.container.coders import CODERS
from metaq.errors import CodecError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor, stored
from metaq.tensors.scales import Scales, has_scales

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
MAX_BYTES = 1 << 26
CODER_NAMES = tuple(CODERS)
FILES_PER_CODER = 30
QUANTIZABLE = [dtype for dtype in Dtype if dtype.is_quantizable]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def by_javascript(files: Iterable[bytes], folder: Path) -> list[dict[str, Any]]:
    """What the JavaScript decoder says of every file."""
    paths = []
    for number, data in enumerate(files):
        path = folder / f"{number}.metaq"
        path.write_bytes(data)
        paths.append(str(path))
    done = subprocess.run(
        ["node", str(WEB / "testing" / "decode_files.js")],
        input="\n".join(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(paths)
    return lines


def by_python(data: bytes) -> dict[str, Any] | None:
    """The same by Python, or None if the file is refused."""
    try:
        found = container.decode(data, max_bytes=MAX_BYTES)
    except FormatError:
        return None
    return {
        "version": data[4],
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype.name,
                "shape": list(tensor.shape),
                "sha256": hashlib.sha256(np.ascontiguousarray(tensor.restore()).tobytes()).hexdigest(),
            }
            for tensor in found.tensors
        ],
        "metadata": [[key, *in_javascript(value)] for key, value in found.metadata.items()],
    }


def in_javascript(value: str | int | float) -> tuple[str, str]:
    """Type of a value of the metadata, and its text or, of a double, its bytes."""
    if isinstance(value, str):
        return "string", value
    if isinstance(value, int) and abs(value) >= 1 << 53:
        return "bigint", str(value)
    return "number", struct.pack(">d", value).hex()


def assert_alike(files: Sequence[bytes], folder: Path) -> int:
    """Both decoders find the same in every file; returns how many they accept."""
    accepted = 0
    for number, (data, line) in enumerate(zip(files, by_javascript(files, folder), strict=True)):
        expected = by_python(data)
        if expected is None:
            assert "error" in line, f"file {number} is refused by Python alone"
            assert line["error"].endswith("."), line["error"]
        else:
            assert line == expected, f"file {number}"
            accepted += 1
    return accepted


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
    tensors = random_tensors(generator)
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


def test_the_tests_in_javascript_pass() -> None:
    done = subprocess.run(["node", "--test", str(WEB / "test")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("coder", CODER_NAMES)
def test_files_of_every_coder_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(CODER_NAMES.index(coder))
    files = [random_file(generator, coder) for _ in range(FILES_PER_CODER)]
    assert assert_alike(files, tmp_path) == FILES_PER_CODER


@pytest.mark.parametrize("coder", ["small", "fast"])
def test_exact_tensors_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    files = []
    for _ in range(12):
        tensors = [random_floats(generator, f"{letter}.weight") for letter in "abc"]
        tensors += [random_integers(generator, f"{letter}.bias") for letter in "de"]
        files.append(container.encode(tensors, coder=coder, chunk_bits=int(generator.choice([6, 12, 20]))))
    assert assert_alike(files, tmp_path) == len(files)


def test_columns_and_kernels_come_out_to_the_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    weights = generator.normal(size=(40, 30, 16)) * np.exp2(generator.normal(0, 3, (40, 30, 1)))
    matrix = generator.normal(size=(150, 80)) * np.exp2(generator.normal(0, 3, 80))
    tensors = [
        ExactTensor(name=f"{part}.{dtype.name}", values=stored(values, dtype), dtype=dtype)
        for part, values in (("kernels", weights), ("matrix", matrix))
        for dtype in (Dtype.float32, Dtype.bfloat16, Dtype.float64)
    ]
    assert assert_alike([container.encode(tensors, coder="fast")], tmp_path) == 1


def test_golden_and_shipped_files_come_out_to_the_bit(tmp_path: Path) -> None:
    paths = sorted([*(ROOT / "tests" / "golden").glob("*.metaq"), *(ROOT / "models").glob("*.metaq")])
    assert len(paths) >= len(CODER_NAMES) + 2
    assert assert_alike([path.read_bytes() for path in paths], tmp_path) == len(paths)


@pytest.mark.slow
@pytest.mark.parametrize("coder", ["small", "fast"])
def test_large_tensors_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    """Many symbols, large alphabets and far outliers take the ways that small tensors do not."""
    generator = np.random.default_rng(1)
    peaked = np.clip(np.round(generator.laplace(0, 3, (300, 200))) + 127, 0, 254).astype(np.int64)
    outliers = np.where(generator.random((64, 500)) < 0.01, generator.integers(0, 1 << 24, (64, 500)), 1 << 23)
    tensors = [
        QuantizedTensor(
            name="a", indices=peaked, grid=BucketGrid(center=0.0, radius=1.0, count=255), dtype=Dtype.float32
        ),
        QuantizedTensor(
            name="b",
            indices=peaked,
            grid=BucketGrid(center=0.0, radius=1.0, count=255),
            dtype=Dtype.bfloat16,
            trellis_bits=8,
            scan="columns",
        ),
        QuantizedTensor(
            name="c", indices=outliers, grid=BucketGrid(center=0.5, radius=4.0, count=1 << 24), dtype=Dtype.float64
        ),
    ]
    files = [container.encode(tensors, coder=coder, chunk_bits=bits) for bits in (12, 20)]
    assert assert_alike(files, tmp_path) == len(files)


@pytest.mark.parametrize("name", ["v1-small", "v1-fast", "v1-tied", "v1-planes"])
def test_damage_is_refused(name: str, tmp_path: Path) -> None:
    data = (ROOT / "tests" / "golden" / f"{name}.metaq").read_bytes()
    generator = np.random.default_rng(2)
    cut = [data[:length] for length in generator.integers(0, len(data), 100)]
    flipped = [changed(data, int(bit)) for bit in generator.integers(0, 8 * len(data), 400)]
    assert assert_alike([*cut, *flipped, data + b"\0"], tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", [*CODER_NAMES, "planes"])
def test_payloads_with_right_checksums_are_read_alike(what: str, tmp_path: Path) -> None:
    """Bits of the code are changed and every checksum with them: what is decoded, or refused, is the same."""
    generator = np.random.default_rng(3)
    path = ROOT / "tests" / "golden" / f"v1-{what}.metaq"
    assert_alike([repaired(path, generator) for _ in range(60)], tmp_path)


@pytest.mark.slow
def test_forms_with_right_checksums_are_read_alike(tmp_path: Path) -> None:
    """Bytes are changed where most of them say how tensors are stored."""
    generator = np.random.default_rng(7)
    files = []
    for _ in range(300):
        tensor = (random_floats, random_integers)[int(generator.integers(2))](generator, "a")
        tensor = replace(tensor, values=tensor.values.reshape(-1)[:300])
        data = container.encode([tensor], coder=str(generator.choice(["small", "fast"])))
        (tmp_path / "sound.metaq").write_bytes(data)
        contents = container.describe(tmp_path / "sound.metaq")
        if not contents.chunks:
            continue
        (chunk,) = contents.chunks
        payload = payload_of(data, chunk)
        head = data[: chunk.offset_bytes]
        near = mutated(payload[: min(12, len(payload))], generator) + payload[12:]
        # The header says how long the payload is.
        files.append(sealed(head + near[: len(payload)].ljust(len(payload), b"\0")))
    assert 0 < assert_alike(files, tmp_path) < len(files)


@pytest.mark.slow
def test_headers_with_right_checksums_are_read_alike(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    originals = sorted((ROOT / "tests" / "golden").glob("*.metaq"))
    files = []
    for number in range(600):
        original = originals[number % len(originals)]
        files.append(with_header(original, mutated(raw_header(original.read_bytes())[0], generator)))
    assert 0 < assert_alike(files, tmp_path) < len(files)


def changed(data: bytes, bit: int) -> bytes:
    """`data` with one bit flipped."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def mutated(raw: bytes, generator: np.random.Generator) -> bytes:
    """`raw` with a byte replaced, inserted or removed."""
    place = int(generator.integers(len(raw)))
    byte = bytes([int(generator.choice([0, 1, 2, 3, 127, 128, 255, generator.integers(256)]))])
    replacement = (byte, byte + raw[place : place + 1], b"")[int(generator.integers(3))]
    return raw[:place] + replacement + raw[place + 1 :]


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
