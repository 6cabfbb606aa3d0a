"""What `metaq train` reaches with one number given: bytes of the file and accuracy on the test images, over seeds.

    python benchmarks/one_knob.py --net lenet5 --data mnist --target-accuracy 99.0 --seeds 5 --out runs/lenet5-99.0
    python benchmarks/one_knob.py --net lenet300 --data mnist --target-accuracy 98.2 --seeds 3 --out runs/lenet300
    python benchmarks/one_knob.py --net lenet5-caffe --data mnist --target-bytes 1500 --seeds 1 --out runs/caffe

Every seed is a run of the command line in a process of its own with --threads threads, --jobs of them side by side. A
run that is finished is not repeated, and one that was stopped goes on: the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from metaq.lab.runs import SUMMARY_FILE
from metaq.lab.train import checkpointing
from support.results import write_json

MEASURES = ("bytes", "ratio", "accuracy", "validation_accuracy", "seconds")


def train(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Summary of the run of one seed."""
    folder = options.out / f"seed{seed}"
    if not (folder / SUMMARY_FILE).exists():
        started = (folder / checkpointing.FILE_NAME).exists()
        how = ["--resume", str(folder)] if started else [*_settings(options, seed), "--out", str(folder), "--force"]
        data_dir = ["--data-dir", str(options.data_dir)] if options.data_dir else []
        threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        command = [sys.executable, "-m", "metaq", "train", *how, *data_dir, "--json"]
        subprocess.run(command, env={**os.environ, **threads}, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text())
    return {"seed": seed, **{name: summary[name] for name in MEASURES}}


def _settings(options: argparse.Namespace, seed: int) -> list[str]:
    given = {
        "--net": options.net,
        "--data": options.data,
        "--target-accuracy": options.target_accuracy,
        "--target-bytes": options.target_bytes,
        "--epochs": options.epochs,
        "--seed": seed,
    }
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of every measure over the seeds."""
    return {name: statistics.median(row[name] for row in rows) for name in MEASURES}


def show(found: dict[str, Any]) -> None:
    """Print a Markdown table."""
    print("| seed | bytes | ratio | test accuracy | validation accuracy | seconds |\n|---|---|---|---|---|---|")
    for row in [*found["runs"], {"seed": "median", **found["medians"]}]:
        print(
            f"| {row['seed']} | {row['bytes']:,.0f} | {row['ratio']:.1f} × | {row['accuracy']:.2f} % "
            f"| {row['validation_accuracy']:.2f} % | {row['seconds']:.0f} |"
        )


def main() -> None:
    """Run every seed and tell what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="lenet5")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--target-accuracy", type=float)
    parser.add_argument("--target-bytes", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of every run")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    options = parser.parse_args()
    if options.target_accuracy is None and options.target_bytes is None:
        parser.error("give --target-accuracy or --target-bytes")
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda seed: train(options, seed), range(options.seeds)))
    found = {"net": options.net, "data": options.data, "runs": rows, "medians": medians(rows)}
    write_json(found, options.json)
    if options.json != "-":
        show(found)


if __name__ == "__main__":
    main()
