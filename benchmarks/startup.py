"""What commands cost before and beside their work: seconds of processor, and which heavy libraries they import.

    python benchmarks/startup.py
    python benchmarks/startup.py --baseline ../older-checkout

Every command is run several times in turn with that of the baseline, a checkout of another commit, so that both meet
the same load. The first `compress` of a new machine begins with an empty cache of machine code each time.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.results import write_json

ROOT = Path(__file__).resolve().parents[1]
MODEL = Path("models") / "lenet5-mnist.metaq"
"""In each checkout, as it can read its own."""
LIBRARIES = ("torch", "numba", "scipy", "sklearn", "matplotlib", "tensorboard", "constriction", "jinja2")
PROGRAM = f"""
import sys
from metaq.cli import main
try:
    main()
finally:
    print("imported", *(name for name in {LIBRARIES!r} if name in sys.modules), file=sys.__stderr__)
"""
COLD = "first compress"
SAVE_LENET5 = """
import sys, torch
from metaq.lab import nets
torch.save(nets.create("lenet5").state_dict(), sys.argv[1])
"""


def commands(folder: Path, checkpoint: Path) -> dict[str, Sequence[str]]:
    """Arguments of the commands that are measured."""
    return {
        "--help": ("--help",),
        "inspect": ("inspect", str(MODEL)),
        "decompress": ("decompress", str(MODEL), "-o", str(folder / "x.safetensors"), "--force"),
        COLD: ("compress", str(checkpoint), "-o", str(folder / "x.metaq"), "--force"),
    }


def run_once(checkout: Path, arguments: Sequence[str], cache: Path) -> tuple[float, list[str]]:
    """Seconds of processor of a command of the sources in `checkout`, and the libraries it imported."""
    checkout = checkout.resolve()
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "NUMBA_CACHE_DIR": str(cache)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=checkout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"metaq {' '.join(arguments)}: {done.stderr.strip()}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stderr.splitlines()[-1].split()[1:]


def measure(checkouts: Mapping[str, Path], checkpoint: Path | None, runs: int) -> dict[str, Any]:
    """Medians and spreads of every command, for every checkout."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if checkpoint is None:
            checkpoint = folder / "lenet5.pth"
            subprocess.run([sys.executable, "-c", SAVE_LENET5, str(checkpoint)], check=True)
        for name, arguments in commands(folder, checkpoint).items():
            seconds: dict[str, list[float]] = {checkout: [] for checkout in checkouts}
            imported: dict[str, list[str]] = {}
            for run in range(runs + 1):
                for title, checkout in checkouts.items():
                    cache = folder / (f"cold-{title}-{run}" if name == COLD else f"warm-{title}")
                    taken, imported[title] = run_once(checkout, arguments, cache)
                    # The first run of a warm command fills the caches.
                    if run or name == COLD:
                        seconds[title].append(taken)
            found[name] = {
                title: {
                    "cpu_seconds": statistics.median(seconds[title]),
                    "least": min(seconds[title]),
                    "most": max(seconds[title]),
                    "imports": imported[title],
                }
                for title in checkouts
            }
    return found


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table on stderr."""
    for name, by_checkout in results.items():
        for title, row in by_checkout.items():
            spread = f"{row['least']:.2f} to {row['most']:.2f}"
            libraries = ", ".join(row["imports"]) or "none of the heavy libraries"
            print(f"{name:15} {title:9} {row['cpu_seconds']:6.2f} s ({spread}), imports {libraries}", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--baseline", type=Path, help="checkout of another commit, measured in turn")
    parser.add_argument("--checkpoint", type=Path, help="what the first compress takes; default: a fresh LeNet-5")
    parser.add_argument("--runs", type=int, default=5, help="runs of every command")
    parser.add_argument("--json", help="file for the figures, - for stdout")
    parser.add_argument("--plot", help="accepted from make bench; there is no picture")
    options = parser.parse_args()
    checkpoint = options.checkpoint and options.checkpoint.resolve()
    checkouts = {"now": ROOT} | ({"baseline": options.baseline.resolve()} if options.baseline else {})
    results = measure(checkouts, checkpoint, options.runs)
    show(results)
    write_json(results, options.json)


if __name__ == "__main__":
    main()
