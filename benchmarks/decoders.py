"""How fast the decoder in C is beside the compiled one in Python: both coders, the same tensors, one core, in turn.

    python benchmarks/decoders.py --file minilm.metaq --json decoders.json

Of FILE the quantised tensors are coded anew, by `small` and by `fast`; without one, random tensors are. A time
goes from the bytes of the file in memory to all elements of all tensors. The ratio is that of medians, of Python over
C. A C compiler must be there (CC, or `cc`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from metaq import container
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor
from support.results import tell, write_json

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "c" / "metaq.c", ROOT / "c" / "testing" / "time.c")
OPTIONS = ("-std=c99", "-O3", "-ffp-contract=off")
COMPILER = os.environ.get("CC", "cc")
CODERS = ("small", "fast")
SHAPES, QUICK_SHAPES = [(2000, 500), (512, 128, 3, 3), (300, 1000)], [(40, 50), (16, 8, 3, 3)]
BUCKETS, SPREAD, SEED = 63, 2.5, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, metavar="FILE")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small random tensors, twice")
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    options = parser.parse_args()
    if shutil.which(COMPILER) is None:
        tell(f"Nothing was measured, for want of the C compiler {COMPILER}; set CC.")
        write_json({"elements": 0, "rows": []}, options.json)
        return
    # Python decodes chunks side by side where there are several cores.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tensors = random_tensors(options.quick) if options.file is None else quantised(options.file)
    rows = measured(tensors, 2 if options.quick else options.times)
    for row in rows:
        tell(
            f"{row['coder']}: C {row['c_seconds']:.3f} s, Python {row['python_seconds']:.3f} s, "
            f"{row['ratio']:.2f} times as fast, {row['bytes']:,} bytes"
        )
    write_json({"elements": sum(tensor.indices.size for tensor in tensors), "rows": rows}, options.json)


def random_tensors(is_quick: bool) -> list[QuantizedTensor]:
    """Peaked indices, as weights have them."""
    generator = np.random.default_rng(SEED)
    grid = BucketGrid(center=0.0, radius=1.0, count=BUCKETS)
    found = []
    for number, shape in enumerate(QUICK_SHAPES if is_quick else SHAPES):
        drawn = np.round(generator.laplace(0, SPREAD, shape)) + BUCKETS // 2
        indices = np.clip(drawn, 0, BUCKETS - 1).astype(np.int64)
        found.append(QuantizedTensor(name=str(number), indices=indices, grid=grid, dtype=Dtype.float32))
    return found


def quantised(path: Path) -> list[QuantizedTensor]:
    """The quantised tensors of a file."""
    return [tensor for tensor in container.read(path).tensors if isinstance(tensor, QuantizedTensor)]


def measured(tensors: Sequence[QuantizedTensor], times: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "time"
        subprocess.run([COMPILER, *OPTIONS, *map(str, SOURCES), "-o", str(program)], check=True)
        return [row_of(coder, tensors, times, program, Path(folder) / "x.metaq") for coder in CODERS]


def row_of(coder: str, tensors: Sequence[QuantizedTensor], times: int, program: Path, path: Path) -> dict[str, Any]:
    path.write_bytes(container.encode([replace(tensor) for tensor in tensors], coder=coder))
    by_python(path)  # compiles
    ours, theirs = [], []
    for _ in range(times):
        done = subprocess.run([str(program), str(path), "1"], capture_output=True, text=True, check=True)
        ours.append(float(done.stdout))
        theirs.append(by_python(path))
    c_seconds, python_seconds = statistics.median(ours), statistics.median(theirs)
    return {
        "coder": coder,
        "bytes": path.stat().st_size,
        "c_seconds": c_seconds,
        "python_seconds": python_seconds,
        "ratio": python_seconds / c_seconds,
        "c_range": [min(ours), max(ours)],
        "python_range": [min(theirs), max(theirs)],
    }


def by_python(path: Path) -> float:
    """Seconds from the bytes to all elements."""
    data = path.read_bytes()
    begun = time.perf_counter()
    for tensor in container.decode(data).tensors:
        tensor.restore()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
