"""What a first decode takes where there is numpy and nothing else: the distribution ``metaq-decode``.

    python benchmarks/decode_distribution.py
    python benchmarks/decode_distribution.py --file models/lenet300-mnist.metaq

The wheel is built and installed into an environment of its own, with the numpy of this one. Times are of the whole
process, from the start of Python to its end: of one that imports numpy alone, one that reads the header, and one that
restores all tensors, in turn. The machine code of Python's modules is at hand, as after any first run.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from support.results import write_json

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "numpy alone": "import numpy",
    "inspect": "import sys, metaq_decode; metaq_decode.inspect(sys.argv[1])",
    "load": "import sys, metaq_decode; metaq_decode.load(sys.argv[1])",
}
LIMIT_SECONDS = 1.0
"""Of wall time, for the first decode of the smallest model that is shipped."""


def environment(folder: Path, others: list[str]) -> tuple[Path, Path]:
    """The interpreter of an environment with numpy, `others` of the packages of this one, and the wheel; the wheel."""
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT / "decode", **quiet
    )
    (wheel,) = folder.glob("*.whl")
    place = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], **quiet)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    for package in ("numpy", *others):
        known = distribution(package)
        for name in {path.parts[0] for path in known.files or ()} - {".."}:
            (packages / name).symlink_to(known.locate_file(name), target_is_directory=True)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", wheel]
    subprocess.run(install, **quiet)
    return python, wheel


def run_once(python: Path, program: str, file: Path) -> tuple[float, float]:
    """Seconds of wall time and of processor of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-c", program, file], check=True, env=alone)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(file: Path, runs: int, others: list[str]) -> dict[str, Any]:
    """Least and median times of every program."""
    with tempfile.TemporaryDirectory() as scratch:
        python, wheel = environment(Path(scratch), others)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
        for run in range(runs + 1):
            for name, program in PROGRAMS.items():
                seconds = run_once(python, program, file)
                # The first run compiles modules.
                if run:
                    taken[name].append(seconds)
        rows = {
            name: {
                "wall_seconds": statistics.median(wall for wall, _ in seconds),
                "least_wall_seconds": min(wall for wall, _ in seconds),
                "cpu_seconds": statistics.median(cpu for _, cpu in seconds),
                "least_cpu_seconds": min(cpu for _, cpu in seconds),
            }
            for name, seconds in taken.items()
        }
        found = {"file_bytes": file.stat().st_size, "wheel_bytes": wheel.stat().st_size, "rows": rows}
    return {**found, "load": os.getloadavg()[0], "meets_limit": rows["load"]["wall_seconds"] < LIMIT_SECONDS}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--file", type=Path, default=ROOT / "models" / "lenet5-mnist.metaq")
    parser.add_argument("--with", dest="others", nargs="*", default=[], help="packages to have beside numpy")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", help="file for the figures, - for stdout")
    parser.add_argument("--plot", help="accepted from make bench; there is no picture")
    options = parser.parse_args()
    results = measure(options.file.resolve(), options.runs, options.others)
    print(
        f"{results['file_bytes']:,} bytes, wheel of {results['wheel_bytes']:,}; load of the machine",
        end=" ",
        file=sys.stderr,
    )
    print(f"{results['load']:.1f}", file=sys.stderr)
    for name, row in results["rows"].items():
        print(
            f"{name:12} {row['wall_seconds']:6.2f} s of wall time (least {row['least_wall_seconds']:.2f}), "
            f"{row['cpu_seconds']:.2f} s of processor (least {row['least_cpu_seconds']:.2f})",
            file=sys.stderr,
        )
    write_json(results, options.json)


if __name__ == "__main__":
    main()
