"""The decoder in C as WebAssembly, in Node.js and in a headless browser: the same bits as in Python, or both refuse."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_hand import CHROMIUM, needs_browser, needs_node
from made_files import (
    CODER_NAMES,
    changed,
    mutated,
    random_file,
    random_floats,
    random_integers,
    raw_header,
    repaired,
    sealed,
    with_header,
)
from test_decoder import by_javascript, by_python

from metaq import container
from metaq.coding.header_bytes import encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
BUILD = ROOT / "c" / "build_wasm.sh"
WASM = WEB / "metaq" / "decoder.wasm"
GOLDEN = ROOT / "tests" / "golden"
FILES_PER_CODER = 34
FIRST_BYTES = 1 << 16
"""Bytes that are fetched first of a file of which one tensor is wanted."""


def run(script: str, *arguments: str | Path, text: str = "") -> str:
    """What a script of web/testing prints."""
    done = subprocess.run(
        ["node", str(WEB / "testing" / script), *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_wasm(files: Sequence[bytes], folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What WebAssembly says of every file, or JavaScript without it."""
    paths = []
    for number, data in enumerate(files):
        paths.append(folder / f"{number}.metaq")
        paths[-1].write_bytes(data)
    found = run("decode_by_wasm.js", *arguments, text="\n".join(map(str, paths)))
    return [json.loads(line) for line in found.splitlines()]


def assert_alike(files: Sequence[bytes], folder: Path, *arguments: str) -> int:
    """Python and WebAssembly find the same in every file; returns how many they accept."""
    accepted = 0
    for number, (data, line) in enumerate(zip(files, by_wasm(files, folder, *arguments), strict=True)):
        expected = by_python(data)
        if expected is None:
            assert "error" in line, f"file {number} is refused by Python alone"
            assert line["error"].endswith("."), line["error"]
        else:
            assert line == expected, f"file {number}"
            accepted += 1
    return accepted


# The file of the repository.


def stated(pattern: str) -> str:
    """What the comment of the build script says."""
    found = re.search(pattern, BUILD.read_text())
    assert found
    return found[1]


def test_the_stated_hash_is_that_of_the_file() -> None:
    assert hashlib.sha256(WASM.read_bytes()).hexdigest() == stated(r"SHA-256 ([0-9a-f]{64})")


@functools.cache
def first_line(program: str) -> str:
    if shutil.which(program) is None:
        return ""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[0]


@pytest.mark.slow
def test_the_build_gives_the_same_bytes(tmp_path: Path) -> None:
    compiler, linker = stated(r"(Debian clang version [\d.]+)"), stated(r"(Debian LLD [\d.]+)")
    if not first_line("clang").startswith(compiler) or not first_line("wasm-ld").startswith(linker):
        pytest.skip(f"needs {compiler} and {linker}")
    subprocess.run(["sh", str(BUILD), str(tmp_path / "again.wasm")], check=True, cwd=tmp_path)
    assert (tmp_path / "again.wasm").read_bytes() == WASM.read_bytes()


# In Node.js.


@needs_node
def test_golden_and_shipped_files_come_out_to_the_bit(tmp_path: Path) -> None:
    paths = sorted([*GOLDEN.glob("*.metaq"), *(ROOT / "models").glob("*.metaq")])
    assert len(paths) >= len(CODER_NAMES) + 2
    files = [path.read_bytes() for path in paths]
    assert assert_alike(files, tmp_path) == len(paths)
    assert by_wasm(files, tmp_path, "--without") == by_wasm(files, tmp_path)


@needs_node
@pytest.mark.parametrize("coder", CODER_NAMES)
def test_random_files_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(10 + CODER_NAMES.index(coder))
    files = [random_file(generator, coder) for _ in range(FILES_PER_CODER)]
    assert assert_alike(files, tmp_path) == len(files)


@needs_node
@pytest.mark.parametrize("coder", ["small", "fast"])
def test_exact_tensors_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    files = []
    for _ in range(8):
        tensors = [random_floats(generator, f"{letter}.weight") for letter in "abc"]
        tensors += [random_integers(generator, f"{letter}.bias") for letter in "de"]
        files.append(container.encode(tensors, coder=coder, chunk_bits=int(generator.choice([6, 12, 20]))))
    assert assert_alike(files, tmp_path) == len(files)


@needs_node
def test_files_that_need_much_memory_come_out_to_the_bit(tmp_path: Path) -> None:
    """Many tensors in the header, and long rows."""
    generator = np.random.default_rng(17)
    one = np.ones((), dtype=np.float32)
    many = [ExactTensor(name=f"{number:05}", values=one * number, dtype=Dtype.float32) for number in range(40_000)]
    grid = BucketGrid(center=0.0, radius=1.0, count=15)
    indices = generator.integers(0, 15, (3, 150_000))
    rows = QuantizedTensor(name="rows", indices=indices, grid=grid, dtype=Dtype.float16)
    files = [container.encode(many), container.encode([rows], coder="small"), container.encode([rows], coder="fast")]
    assert assert_alike(files, tmp_path) == len(files)


@needs_node
@pytest.mark.parametrize("name", ["v1-small", "v1-fast", "v1-tied", "v1-planes", "v1-basis"])
def test_damage_is_refused(name: str, tmp_path: Path) -> None:
    data = (GOLDEN / f"{name}.metaq").read_bytes()
    generator = np.random.default_rng(12)
    cut = [data[:length] for length in [*range(10), *generator.integers(0, len(data), 50)]]
    flipped = [changed(data, int(bit)) for bit in generator.integers(0, 8 * len(data), 200)]
    assert assert_alike([*cut, *flipped, data + b"\0"], tmp_path) == 0


@needs_node
@pytest.mark.slow
def test_damage_with_right_checksums_is_read_alike(tmp_path: Path) -> None:
    """Bits of the code or bytes of the header are changed, and every checksum with them."""
    generator = np.random.default_rng(13)
    paths = sorted(GOLDEN.glob("*.metaq"))
    files = [repaired(path, generator) for path in paths for _ in range(20)]
    files += [with_header(path, mutated(raw_header(path.read_bytes())[0], generator)) for path in paths * 20]
    assert 0 < assert_alike(files, tmp_path) < len(files)
    for ours, theirs in zip(by_wasm(files, tmp_path), by_javascript(files, tmp_path), strict=True):
        assert ("error" in ours) == ("error" in theirs)


@needs_node
def test_tensors_that_are_larger_than_is_allowed_are_refused(tmp_path: Path) -> None:
    """A small file with 128 MiB of zeros, where 64 MiB are allowed."""
    zeros = ExactTensor(name="zeros", values=np.zeros(1 << 27, dtype=np.uint8), dtype=Dtype.uint8)
    data = container.encode([zeros])
    assert len(data) < 1 << 17
    (line,) = by_wasm([data], tmp_path)
    assert line["error"] == f"The tensors need {1 << 27} bytes, but maxBytes is {1 << 26}."


@needs_node
def test_a_row_that_is_split_into_a_block_and_itself_is_refused(tmp_path: Path) -> None:
    """Two streams of one symbol, each split between the two blocks of a chunk, or between a block and itself."""
    grid = BucketGrid(center=0.0, radius=1.0, count=3)
    tensors = [
        QuantizedTensor(name=name, indices=np.ones(1, dtype=np.int64), grid=grid, dtype=Dtype.float32, trellis_bits=2)
        for name in "ab"
    ]
    raw, _ = raw_header(container.encode(tensors, coder="fast"))
    files = []
    for plan in (0b10111000, 0b10011100):
        payload = bytes([1, 1, plan, 0, 0, 0, 0])
        header = raw[:-1] + bytes([len(payload)])
        stored = encode_varint(len(header)) + encode_header_bytes(header)
        files.append(sealed(b"\x8fMTQ\x01" + encode_varint(len(stored)) + stored + payload))
    assert assert_alike(files[:1], tmp_path) == 1
    assert assert_alike(files[1:], tmp_path) == 0
    assert ["error" in line for line in by_javascript(files, tmp_path)] == [False, True]


@needs_node
def test_an_update_is_refused_by_the_sentence_that_names_its_base(tmp_path: Path) -> None:
    generator = np.random.default_rng(14)
    tensors = [random_floats(generator, "a")]
    update = bytearray(container.encode(tensors, coder="small"))
    update[3:4] = b"\x44"
    update[5:5] = bytes(range(12))
    data = sealed(bytes(update[:-4]))
    assert by_wasm([data], tmp_path) == by_javascript([data], tmp_path)


# From servers.


def several_chunks() -> bytes:
    """A file of several chunks that is longer than what is fetched first, with tensors of every kind."""
    generator = np.random.default_rng(15)
    grid = BucketGrid(center=0.0, radius=1.0, count=255)
    basis = Basis(indices=generator.integers(0, 255, (48, 48)), grid=grid)

    def quantized(name: str, rows: int, columns: int, **more: Any) -> QuantizedTensor:
        indices = generator.integers(0, 255, (rows, columns))
        return QuantizedTensor(name=name, indices=indices, grid=grid, dtype=Dtype.float32, **more)

    layers = [quantized(f"layer.{number}", 100, 300) for number in range(8)]
    tensors: list[Tensor] = [*layers]
    tensors.append(quantized("columns", 200, 100, scan="columns"))
    tensors.append(quantized("rotated", 100, 48, basis=basis))
    raw = generator.integers(0, 256, 4000, dtype=np.uint8)
    tensors.append(ExactTensor(name="exact", values=raw, dtype=Dtype.uint8))
    tensors.append(TiedTensor(name="tied", first=layers[3]))
    tensors.append(ExactTensor(name="inline", values=np.ones(3, dtype=np.float32), dtype=Dtype.float32))
    return container.encode(tensors, metadata={"net": "several"}, coder="fast", chunk_bits=14)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Of several chunks, of one, and of several with the last checksum wrong."""
    data = several_chunks()
    assert len(data) > 3 * FIRST_BYTES
    paths = (tmp_path / "file.metaq", tmp_path / "single.metaq", tmp_path / "damaged.metaq")
    paths[0].write_bytes(data)
    weight = random_floats(np.random.default_rng(16), "weight")
    paths[1].write_bytes(container.encode([weight], coder="small"))
    assert len(container.describe(paths[1]).chunks) <= 1 < len(container.describe(paths[0]).chunks)
    paths[2].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return paths


def fetched_bytes(ranges: Sequence[str]) -> int:
    bounds = [re.fullmatch(r"bytes=(\d+)-(\d+)", each) for each in ranges]
    return sum(int(found[2]) - int(found[1]) + 1 for found in bounds if found)


@needs_node
def test_files_are_decoded_while_they_arrive_and_tensors_one_by_one(files: tuple[Path, Path, Path]) -> None:
    expected = by_python(files[0].read_bytes())
    assert expected
    by_name = {tensor["name"]: tensor for tensor in expected["tensors"]}
    found = json.loads(run("check_arriving.js", *files, *by_name))
    assert found["streamed"] == found["unsized"] == expected
    steps = found["steps"]
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] > 0
    assert found["aborted"] == "AbortError"

    single = by_python(files[1].read_bytes())
    assert single
    assert found["single"] == single
    assert found["tensorOfSingle"] == single["tensors"][0]
    for name, tensor in found["tensors"].items():
        assert tensor["facts"] == by_name[name]
    size = files[0].stat().st_size
    assert fetched_bytes(found["tensors"]["inline"]["ranges"]) == FIRST_BYTES
    for name in ("layer.6", "rotated", "columns"):
        assert FIRST_BYTES <= fetched_bytes(found["tensors"][name]["ranges"]) < FIRST_BYTES + 40_000 < size

    sentences = found["sentences"]
    assert set(sentences) == {
        *("damaged", "noTensor", "noFile", "noFileOfTensor", "bound", "boundOfTensor", "noRanges", "noServer")
    }
    assert all(sentence.endswith(".") for sentence in sentences.values())
    assert "damaged" in sentences["damaged"]
    assert "nothing of this name" in sentences["noTensor"]
    assert "does not send parts" in sentences["noRanges"]
    assert "404" in sentences["noFile"]
    assert "maxBytes" in sentences["bound"]
    assert "maxBytes" in sentences["boundOfTensor"]


@pytest.mark.slow
@needs_browser
def test_a_page_decodes_with_and_without_workers_and_webassembly(files: tuple[Path, Path, Path]) -> None:
    assert CHROMIUM
    expected = by_python(files[0].read_bytes())
    assert expected
    found = json.loads(run("check_decoding.js", CHROMIUM, files[0], files[2], "rotated"))
    rotated = next(tensor for tensor in expected["tensors"] if tensor["name"] == "rotated")
    for name in ("all", "withoutWasm", "withoutWorkers", "withoutBoth"):
        said = found[name]
        assert said["facts"] == said["ofBytes"] == expected, name
        assert said["isKept"], name
        assert said["single"] == rotated, name
        assert "damaged" in said["sentence"], name
        assert said["aborted"] == "AbortError", name
    for name in ("all", "withoutWorkers"):
        assert found[name]["steps"][-1][0] == found[name]["steps"][-1][1] > 0
        assert found[name]["thrown"] == "TypeError: of the page"
        assert "/metaq/decoder.wasm" in found[name]["requests"]
    assert found["held"]["facts"] == expected
    assert found["elsewhere"]["facts"] == expected
    assert "Access-Control-Expose-Headers: Content-Range" in found["elsewhere"]["sentence"]
