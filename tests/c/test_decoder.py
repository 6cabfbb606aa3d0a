"""The decoder in C against the one in Python, on files of every kind: both restore the same bits, or both refuse."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_program import COMPILER, LEFT_OUT, MEMORY, OK, OPTIONS, ROOT, WARNINGS, ZSTD, Program, built, by_c
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
    with_header,
)
from pages import PAGES, blocks_of

from metaq import container
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor, TiedTensor

CPLUSPLUS_COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
NO_FILE = 2
"""Number of the status in c/metaq.h."""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler is installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return built(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def program_without_zstd(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Libraries of several versions do not refuse the same damaged frames."""
    return built(tmp_path_factory.mktemp("alone"), zstd=False)


@pytest.fixture(scope="module")
def small_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return built(tmp_path_factory.mktemp("small"), "-DMETAQ_SMALL_MEMORY")


def by_python(data: bytes, *, has_zstd: bool = True) -> str | None:
    """The same in Python, or None if it refuses the file; without checksums of exact tensors if frames are zeros."""
    try:
        found = container.decode(data, max_bytes=MAX_BYTES)
    except FormatError:
        return None
    line = str(OK)
    for tensor in found.tensors:
        name, number = tensor.name.encode().hex(), list(Dtype).index(tensor.dtype)
        held = tensor.first if isinstance(tensor, TiedTensor) else tensor
        is_told = has_zstd or isinstance(held, QuantizedTensor)
        checksum = zlib.crc32(np.ascontiguousarray(tensor.restore()).tobytes()) if is_told else "?"
        line += f" {name}:{number}:{','.join(map(str, tensor.shape))}:{checksum}"
    return line


def comparable(line: str, expected: str) -> str:
    """The line of the program without the checksums that the expected one does not have."""
    parts = zip(line.split(" "), expected.split(" "), strict=False)
    told = [own.rpartition(":")[0] + ":?" if other.endswith(":?") else own for own, other in parts]
    return " ".join(told) if line.count(" ") == expected.count(" ") else line


def written(files: Sequence[bytes], folder: Path) -> list[Path]:
    paths = [folder / f"{number}.metaq" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return paths


def assert_alike(
    program: Program,
    files: Sequence[bytes],
    folder: Path,
    ways: Sequence[str] = ("memory", "rows"),
    passed_over: Collection[int] = (),
) -> int:
    """Both decoders find the same in every file, whichever way it is read, but for those with a status of
    `passed_over`, which are fewer than half; returns how many Python accepts.
    """
    paths = written(files, folder)
    is_told = program.has_zstd or bool(passed_over)
    expected = [by_python(data, has_zstd=is_told) for data in files]
    for way in ways:
        compared = 0
        for number, (line, other) in enumerate(zip(by_c(program, paths, way), expected, strict=True)):
            status = int(line.split(" ")[0])
            if status in passed_over:
                continue
            compared += 1
            if other is None:
                assert status not in (OK, MEMORY), f"file {number} is refused by Python alone, {way}"
            else:
                assert comparable(line, other) == other, f"file {number}, {way}"
        assert compared > len(files) / 2
    return sum(line is not None for line in expected)


def exact_file(generator: np.random.Generator) -> bytes:
    tensors = [random_floats(generator, f"{letter}.weight") for letter in "abc"]
    tensors += [random_integers(generator, f"{letter}.bias") for letter in "de"]
    coder = str(generator.choice(["small", "fast"]))
    return container.encode(tensors, coder=coder, chunk_bits=int(generator.choice([6, 12, 20])))


def laplacian(generator: np.random.Generator, name: str, shape: tuple[int, ...], **settings: object) -> QuantizedTensor:
    """Peaked indices, with rows of different spread."""
    spread = np.exp2(generator.normal(0, 1.5, (shape[0], *(1 for _ in shape[1:]))))
    indices = np.clip(np.round(generator.laplace(0, 4, shape) * spread) + 127, 0, 254).astype(np.int64)
    grid = BucketGrid(center=0.0, radius=1.0, count=255)
    tensor = QuantizedTensor(name=name, indices=indices, grid=grid, dtype=Dtype.float32)
    return replace(tensor, **settings)


def shipped_and_golden() -> list[Path]:
    return sorted([*(ROOT / "tests" / "golden").glob("*.metaq"), *(ROOT / "models").glob("*.metaq")])


@pytest.mark.parametrize("way", ["memory", "callback", "rows", "partial"])
def test_golden_and_shipped_files_come_out_to_the_bit(way: str, program: Program, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in shipped_and_golden()]
    assert assert_alike(program, files, tmp_path, [way]) == len(files)


@pytest.mark.parametrize("way", ["memory", "callback"])
def test_a_build_for_small_memory_gives_the_same_bits(way: str, small_program: Program, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in shipped_and_golden()]
    assert assert_alike(small_program, files, tmp_path, [way]) == len(files)


@pytest.mark.parametrize("coder", CODER_NAMES)
def test_files_of_every_coder_come_out_to_the_bit(coder: str, program: Program, tmp_path: Path) -> None:
    generator = np.random.default_rng(CODER_NAMES.index(coder))
    files = [random_file(generator, coder) for _ in range(20)]
    assert assert_alike(program, files, tmp_path) == len(files)


@pytest.mark.slow
def test_a_thousand_files_come_out_to_the_bit(program: Program, tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    files = [random_file(generator, CODER_NAMES[number % len(CODER_NAMES)]) for number in range(900)]
    files += [exact_file(generator) for _ in range(100)]
    assert assert_alike(program, files, tmp_path, ["memory"]) == len(files)


@pytest.mark.slow
@pytest.mark.parametrize("coder", ["small", "fast"])
def test_large_files_come_out_to_the_bit(coder: str, program: Program, tmp_path: Path) -> None:
    """Several blocks in a chunk, several chunks in a file, columns, trellises, and far outliers."""
    generator = np.random.default_rng(1)
    outliers = np.where(generator.random((64, 500)) < 0.01, generator.integers(0, 1 << 24, (64, 500)), 1 << 23)
    wide = BucketGrid(center=0.5, radius=4.0, count=1 << 24)
    tensors = [
        laplacian(generator, "a", (2000, 64)),
        laplacian(generator, "b", (300, 200), dtype=Dtype.bfloat16, trellis_bits=8, scan="columns"),
        laplacian(generator, "c", (40, 30, 5, 5), trellis_bits=3),
        QuantizedTensor(name="d", indices=outliers, grid=wide, dtype=Dtype.float64),
    ]
    tensors += [laplacian(generator, f"w{number}", (128, 128), trellis_bits=7) for number in range(8)]
    files = [container.encode(tensors, coder=coder, chunk_bits=bits) for bits in (12, 16, 20)]
    assert assert_alike(program, files, tmp_path) == len(files)


def test_damage_is_refused(program: Program, tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    files = []
    for path in sorted((ROOT / "tests" / "golden").glob("*.metaq")):
        data = path.read_bytes()
        files += [data[:length] for length in generator.integers(0, len(data), 20)]
        files += [changed(data, int(bit)) for bit in generator.integers(0, 8 * len(data), 60)]
        files.append(data + b"\0")
    assert assert_alike(program, files, tmp_path, ["memory", "callback"]) == 0


@pytest.mark.slow
def test_what_has_right_checksums_is_refused_or_read_alike(program_without_zstd: Program, tmp_path: Path) -> None:
    """Payloads, headers and forms of planes with changed bytes, and checksums that fit."""
    generator = np.random.default_rng(3)
    golden = sorted((ROOT / "tests" / "golden").glob("*.metaq"))
    files = [repaired(golden[number % len(golden)], generator) for number in range(400)]
    for number in range(600):
        path = golden[number % len(golden)]
        files.append(with_header(path, mutated(raw_header(path.read_bytes())[0], generator)))
    for _ in range(200):
        tensor = (random_floats, random_integers)[int(generator.integers(2))](generator, "a")
        tensor = replace(tensor, values=tensor.values.reshape(-1)[:300])
        data = container.encode([tensor], coder=str(generator.choice(["small", "fast"])))
        (tmp_path / "sound.metaq").write_bytes(data)
        for chunk in container.describe(tmp_path / "sound.metaq").chunks:
            payload = payload_of(data, chunk)
            near = mutated(payload[:12], generator) + payload[12:]
            files.append(sealed(data[: chunk.offset_bytes] + near[: len(payload)].ljust(len(payload), b"\0")))
    assert 0 < assert_alike(program_without_zstd, files, tmp_path, ["memory"], {ZSTD}) < len(files)


def test_every_size_of_the_block_is_enough_or_refused(program: Program, small_program: Program, tmp_path: Path) -> None:
    """Without a crash: whatever asks for memory that is not there ends with the same status."""
    paths = written([path.read_bytes() for path in shipped_and_golden()], tmp_path)
    for size in ("8", "100", "4096", "50000", "400000", "1500000"):
        for which in (program, small_program):
            lines = by_c(which, paths, "memory", size)
            assert {int(line.split(" ")[0]) for line in lines} <= {OK, MEMORY}


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["METAQ_NO_BASIS", "METAQ_NO_TRELLIS", "METAQ_NO_FAST", "METAQ_NO_PLANES", "METAQ_SMALL_MEMORY"]
)
def test_a_build_without_a_part_refuses_what_needs_it(option: str, tmp_path: Path) -> None:
    paths = shipped_and_golden()
    program = built(tmp_path, f"-D{option}")
    lines = by_c(program, paths, "memory")
    statuses = [int(line.split(" ")[0]) for line in lines]
    assert set(statuses) <= {OK, LEFT_OUT}
    assert (LEFT_OUT in statuses) == (option != "METAQ_SMALL_MEMORY")
    for path, line, status in zip(paths, lines, statuses, strict=True):
        if status == OK:
            expected = by_python(path.read_bytes(), has_zstd=program.has_zstd)
            assert expected is not None
            assert comparable(line, expected) == expected


MISSING_BYTES = """
#include <stdio.h>
#include "metaq.h"

int main(void) {
    static uint64_t block[8192];
    metaq_reader reader;
    printf("%d", (int)metaq_open(&reader, metaq_in_memory(NULL, 0), block, sizeof block));
    printf(" %d", (int)metaq_open(&reader, metaq_in_memory(NULL, 100), block, sizeof block));
    printf(" %d", (int)metaq_open(&reader, metaq_in_memory("", 0), block, sizeof block));
    return 0;
}
"""


@pytest.mark.parametrize("language", ["c", "c++"])
def test_no_bytes_are_an_empty_file_in_programs_of_c_and_of_cplusplus(language: str, tmp_path: Path) -> None:
    """An empty std::vector gives NULL. The decoder itself is compiled as C."""
    compiler = COMPILER if language == "c" else CPLUSPLUS_COMPILER
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    source, decoder, caller, program = (
        str(tmp_path / name) for name in ("caller.txt", "metaq.o", "caller.o", "caller")
    )
    Path(source).write_text(MISSING_BYTES)
    commands = [
        [str(COMPILER), *OPTIONS, "-c", str(ROOT / "c" / "metaq.c"), "-o", decoder],
        [compiler, "-x", language, *WARNINGS, f"-I{ROOT / 'c'}", "-c", source, "-o", caller],
        [compiler, decoder, caller, "-o", program],
    ]
    for command in commands:
        subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.split() == [str(NO_FILE)] * 3


def test_code_on_pages_compiles(tmp_path: Path) -> None:
    blocks = [block for page in PAGES for block in blocks_of(page) if block.kind == "c"]
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.c"
        path.write_text(block.text)
        command = [
            str(COMPILER),
            "-std=c99",
            *WARNINGS,
            "-DMETAQ_UPDATES",
            "-fsyntax-only",
            f"-I{ROOT / 'c'}",
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
