"""The testing program in C, c/testing/decode.c: how it is built, and what it says of files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SOURCES = [str(ROOT / "c" / "metaq.c"), str(ROOT / "c" / "testing" / "decode.c")]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
OPTIONS = ["-std=c99", "-O1", "-g", "-ffp-contract=off", *WARNINGS]
OK, MEMORY, ZSTD, LEFT_OUT = 0, 6, 9, 10
"""Numbers of statuses in c/metaq.h."""


class Program(NamedTuple):
    """The testing program, and whether it decodes frames of Zstandard."""

    path: Path
    has_zstd: bool


def built(folder: Path, *options: str, zstd: bool = True) -> Program:
    """The testing program, with sanitizers and the library of Zstandard where the compiler finds them; where that is
    missing, frames come out as zeros. Without `zstd` they are refused.
    """
    program = folder / "decode"
    base = [str(COMPILER), *OPTIONS, *options, *SOURCES, "-o", str(program)]
    ways = [(["-DWITH_ZSTD", "-lzstd"], True), (["-DSTUB_ZSTD"], False)] if zstd else [([], False)]
    for sanitizers in (SANITIZERS, []):
        for libraries, has_zstd in ways:
            done = subprocess.run([*base, *sanitizers, *libraries], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return Program(program, has_zstd)
    raise AssertionError(done.stderr)


def by_c(program: Program, paths: Iterable[Path], way: str, *block: str) -> list[str]:
    """What the program says of every file."""
    done = subprocess.run(
        [str(program.path), way, *block],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()
