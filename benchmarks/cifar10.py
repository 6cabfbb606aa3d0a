"""A residual network and a VGG on CIFAR-10: trained as usual, then to a small file by one number, and measured once.

    python benchmarks/cifar10.py --net resnet20 --schedule full --device cuda --out runs/resnet20
    python benchmarks/cifar10.py --net vgg11 --schedule full --device cuda --out runs/vgg11
    python benchmarks/cifar10.py --net resnet20 --schedule short --out runs/resnet20-short

Two runs of the command line, OUT/float and OUT/small: the float network; and from its weights, in the full schedule
with it for a teacher, the most accurate network whose complete file is --ratio times smaller than the float parameters.
Whatever is chosen is chosen on 5,000 images held out of the training images; the test images are looked at once a run,
at its end. A run that is finished is not repeated, and one that was stopped goes on: the script can be stopped and
started again.

The full schedule is meant for a GPU. The short one takes about 100 minutes on one core that computes in bfloat16; float
training does not come to its end in it, and the small network has had more epochs than the float one beside it. --quick
makes random images of its own, to see in seconds that everything works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from metaq.lab import data, nets
from metaq.lab.data.cifar10 import CLASSES, RECORD_BYTES, TEST_BATCH, TRAIN_BATCHES
from metaq.lab.runs import MODEL_FILE, SUMMARY_FILE
from metaq.lab.train import checkpointing
from support.results import write_json


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Lengths and settings of the two runs.

    Attributes
    ----------
    float_epochs, small_epochs
        Of either run.
    both, small
        Settings of both runs, and further ones of the small network.
    is_taught
        Whether the small network learns the probabilities of the float one too. This costs a fourth more time, which a
        short training is better off spending on epochs.
    """

    float_epochs: int
    small_epochs: int
    both: tuple[str, ...] = ()
    small: tuple[str, ...] = ("batch_size=128",)
    is_taught: bool = True


SCHEDULES = {
    ("resnet20", "full"): Schedule(float_epochs=200, small_epochs=200),
    ("vgg11", "full"): Schedule(float_epochs=160, small_epochs=160),
    ("resnet20", "short"): Schedule(float_epochs=20, small_epochs=34, both=("precision=bfloat16",), is_taught=False),
    ("vgg11", "short"): Schedule(float_epochs=9, small_epochs=13, both=("precision=bfloat16",), is_taught=False),
}
QUICK = Schedule(float_epochs=1, small_epochs=2, both=("batch_size=8",), small=("regularizer.refresh_every=2",))
RATIOS = {"resnet20": 25.0, "vgg11": 150.0}
QUICK_RATIO = 4.0
MEASURES = ("accuracy", "validation_accuracy", "bytes", "ratio", "epochs", "kept_epoch", "seconds")


def main() -> None:
    """Run both trainings and tell what came out."""
    options = _options()
    schedule = QUICK if options.quick else SCHEDULES[options.net, options.schedule]
    with TemporaryDirectory() as scratch:
        data_dir = _random_images(Path(scratch)) if options.quick else options.data_dir
        found = measure(options, schedule, data_dir)
    write_json(found, options.json)
    if options.json != "-":
        show(found)


def measure(options: argparse.Namespace, schedule: Schedule, data_dir: Path | None) -> dict[str, Any]:
    """The figures of both runs."""
    floats, small = options.out / "float", options.out / "small"
    weights = str(floats / MODEL_FILE)
    both = ["--seed", str(options.seed), *assigned(schedule.both)]
    preset = f"{options.net}-cifar10"
    as_usual = ["--preset", f"{preset}-float", "--epochs", str(schedule.float_epochs), *both]
    most = int(float_bytes(options.net) / options.ratio)
    to_size = [
        "--preset",
        preset,
        "--from",
        weights,
        "--target-bytes",
        str(most),
        "--epochs",
        str(schedule.small_epochs),
    ]
    taught = ["--teacher", weights] if schedule.is_taught else []
    runs = {
        "float": run(floats, as_usual, options, data_dir),
        "small": run(small, [*to_size, *taught, *assigned(schedule.small), *both], options, data_dir),
    }
    return {
        "net": options.net,
        "data": data.load("cifar10", data_dir=data_dir).name,
        "schedule": "quick" if options.quick else options.schedule,
        "seed": options.seed,
        "asked_ratio": options.ratio,
        "drop": runs["float"]["accuracy"] - runs["small"]["accuracy"],
        **runs,
    }


def assigned(settings: tuple[str, ...]) -> list[str]:
    """Settings as options of the command line."""
    return [part for text in settings for part in ("--set", text)]


def run(folder: Path, settings: list[str], options: argparse.Namespace, data_dir: Path | None) -> dict[str, Any]:
    """Summary of one run of the command line, which may be finished or half done already."""
    if not (folder / SUMMARY_FILE).exists():
        started = (folder / checkpointing.FILE_NAME).exists()
        how = ["--resume", str(folder)] if started else [*settings, "--out", str(folder), "--force"]
        where = ["--device", options.device, *(["--data-dir", str(data_dir)] if data_dir else [])]
        threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        command = [sys.executable, "-m", "metaq", "train", *how, *where, "--json"]
        subprocess.run(command, env={**os.environ, **threads}, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text())
    return {name: summary[name] for name in MEASURES}


def float_bytes(net: str) -> int:
    """Size of the parameters of a network, without the statistics of its batch normalisation."""
    return sum(parameter.numel() * parameter.element_size() for parameter in nets.create(net).parameters())


def show(found: dict[str, Any]) -> None:
    """Print a Markdown table."""
    print(f"{found['net']} on {found['data']}, {found['schedule']} schedule, seed {found['seed']}\n")
    print("| network | test accuracy | validation accuracy | bytes | ratio | epochs | seconds |")
    print("|---" * 7 + "|")
    for name in ("float", "small"):
        row = found[name]
        print(
            f"| {name} | {row['accuracy']:.2f} % | {row['validation_accuracy']:.2f} % | {row['bytes']:,} "
            f"| {row['ratio']:.1f} × | {row['epochs']} | {row['seconds']:.0f} |"
        )
    print(f"\n{found['drop']:.2f} points below the float network.")


def _random_images(folder: Path) -> Path:
    """A folder with CIFAR-10's six files, of few images whose brightness tells the class."""
    generator = np.random.default_rng(0)
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        records = generator.integers(0, 56, (20, RECORD_BYTES), dtype=np.uint8)
        records[:, 0] = np.arange(20) % CLASSES
        records[:, 1:] += 20 * records[:, :1]
        (folder / name).write_bytes(records.tobytes())
    return folder


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=list(RATIOS), default="resnet20")
    parser.add_argument("--schedule", choices=("full", "short"), default="full")
    parser.add_argument("--ratio", type=float, help="float parameters over file to ask for [default: 25, vgg11: 150]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="random images and a few steps")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    options = parser.parse_args()
    if options.ratio is None:
        options.ratio = QUICK_RATIO if options.quick else RATIOS[options.net]
    return options


if __name__ == "__main__":
    main()
