"""The JavaScript decoder against the Python one, on files of every kind: both restore the same bits, or both refuse."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import (
    CODER_NAMES,
    MAX_BYTES,
    changed,
    mutated,
    payload_of,
    random_file,
    random_floats,
    random_integers,
    raw_header,
    repaired,
    sealed,
    tensors_by_python,
    with_header,
)

from metaq import container
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, stored

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
FILES_PER_CODER = 30

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
    tensors = tensors_by_python(data)
    if tensors is None:
        return None
    metadata = container.decode(data, max_bytes=MAX_BYTES).metadata
    return {
        "version": data[4],
        "tensors": tensors,
        "metadata": [[key, *in_javascript(value)] for key, value in metadata.items()],
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
