"""A fuzzer, for as long as tests may take; c/testing/fuzz.c says how to let it run for hours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "c"
CLANG = shutil.which("clang")
OPTIONS = ["-std=c99", "-g", "-O2", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
FUZZING = ["-DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION", "-DMETAQ_PLAIN_HEADER"]
"""Checksums are not compared, which not every compiler says by itself."""

RUNS = 20_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "define", [[], ["-DMETAQ_SMALL_MEMORY"], ["-DMETAQ_UPDATES"], ["-DMETAQ_UPDATES", "-DMETAQ_SMALL_MEMORY"]]
)
def test_a_fuzzer_finds_nothing(define: list[str], tmp_path: Path) -> None:
    if CLANG is None:
        pytest.skip("clang is not installed")
    program, corpus = tmp_path / "fuzz", tmp_path / "corpus"
    sources = [str(FOLDER / "metaq.c"), str(FOLDER / "testing" / "fuzz.c")]
    built = subprocess.run(
        [CLANG, *OPTIONS, *FUZZING, *define, *sources, "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode and "clang_rt" in built.stderr:
        pytest.skip("clang has no fuzzer here")
    assert built.returncode == 0, built.stderr
    kind = ["--updates"] if "-DMETAQ_UPDATES" in define else []
    subprocess.run([sys.executable, str(FOLDER / "testing" / "corpus.py"), str(corpus), *kind], check=True)
    # A program counts the memory of the process that it was started by as its own, which here may be all of PyTorch's;
    # what it asks for is limited instead.
    limits = ["-max_len=2000", "-timeout=120", f"-runs={RUNS}", "-seed=1", "-rss_limit_mb=0", "-malloc_limit_mb=64"]
    done = subprocess.run(
        [str(program), *limits, str(corpus)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
