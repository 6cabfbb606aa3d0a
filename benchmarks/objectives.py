"""What training is asked for beside accuracy, and what its file then weighs: six ways on one budget of epochs.

    python benchmarks/objectives.py [--net lenet5] [--data mnist] [--epochs 20] [--seeds 0 1] [--threads 1]
        [--ways WAY ...] [--strengths STRENGTH ...] [--accuracies PERCENT ...] [--json FILE or -] [--markdown FILE]
        [--plot FILE.png]

- quantized: the code length, on quantised weights (the default of metaq).
- context: likewise, with code lengths of the context coder's own model.
- proximal: the code length by the method of multipliers, on float weights that are pulled onto the grid.
- spread: Σ c log2 c beside squares, the thesis's problem with its α and its six buckets, by FISTA, on float weights.
- decay, l1: sums of squares and of absolute values, on float weights.

The first three train towards the grid that their file has. The others do not lower the bits by themselves: of the grids
of BUCKETS buckets over the range of each tensor, that of the lowest entropy is taken which loses at most --tolerance
points of the accuracy of the float weights. Strength λ is loss per bit, per unit of Σ c log2 c, per squared weight or
per weight; it rises and falls with the same schedule for all. Bytes are those of the complete .metaq file, which is
read back for its accuracy. Whatever is chosen (epochs, grids) is chosen on the validation images, whose accuracy is
also what is reported: the test images are for the one who has decided. Seconds are of training alone. A second table
has the smallest file of every way that is at least as accurate as each of --accuracies, the median over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import torch
from matplotlib.figure import Figure

from metaq import compress
from metaq.compression import pipeline
from metaq.errors import MetaqError
from metaq.lab import bucket_sweep as sweeps
from metaq.lab import data, runs
from metaq.lab.bucket_sweep import SweepRow
from metaq.lab.data import DataSplits, ImageDataset
from metaq.lab.proximal import ProximalRegularizer
from metaq.lab.runs import Summary
from metaq.lab.train import PRESETS, EpochRecord, TrainConfig, Trainer, preset
from metaq.model.checkpoint import StateDict
from metaq.regularizer.base import Regularizer
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.entropy_regularizer import EntropyRegularizer
from metaq.tensors.grid import BucketGrid
from support.results import write_json, write_text

BUCKETS = (*range(3, 32, 2), *range(35, 64, 4), *range(71, 128, 8), 159, 191, 255)
"""Odd, so that zero is a reference value."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a training is asked for.

    Attributes
    ----------
    changes
        To the regulariser's settings.
    strengths
        λ where none are given.
    picks_grid
        Whether the grid is chosen after training.
    regularizer
        What applies them.
    """

    changes: Mapping[str, Any]
    strengths: tuple[float, ...]
    picks_grid: bool
    regularizer: type[Regularizer] = EntropyRegularizer


THESIS = preset("thesis").regularizer

WAYS = {
    "quantized": Way(changes={}, strengths=(4e-6, 1.3e-5, 4e-5), picks_grid=False),
    "context": Way(changes={"rate_model": "context"}, strengths=(4e-6, 1.3e-5, 4e-5), picks_grid=False),
    "proximal": Way(
        changes={"forward": "float"},
        strengths=(4e-6, 1.3e-5, 4e-5),
        picks_grid=False,
        regularizer=ProximalRegularizer,
    ),
    "spread": Way(
        changes={
            "objective": "spread",
            "alpha": THESIS.alpha,
            "grouping": THESIS.grouping,
            "buckets": THESIS.buckets,
            "forward": "float",
        },
        strengths=(5e-4, 1.5e-3, 5e-3),
        picks_grid=True,
    ),
    "decay": Way(
        changes={"forward": "float", "alpha": 1.0, "norm": "l2"}, strengths=(3e-4, 1e-3, 3e-3), picks_grid=True
    ),
    "l1": Way(changes={"forward": "float", "alpha": 1.0, "norm": "l1"}, strengths=(3e-5, 1e-4, 3e-4), picks_grid=True),
}


class Silent:
    """Follows nothing."""

    def on_step(self, step: int, total_steps: int) -> None:
        """Nothing to do."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Nothing to do."""


def base_of(net: str, name: str) -> TrainConfig:
    """Settings that all ways share: those of the preset for the network and data, or else of the one for LeNet-5."""
    known = f"{net}-{name}"
    return preset(known) if known in PRESETS else replace(preset("lenet5-mnist"), net=net, data=name)


def config_of(base: TrainConfig, way: Way, strength: float, seed: int) -> TrainConfig:
    """One training. Weights without a grid have no use for learning rates that are relative to one."""
    regularizer: RegularizerConfig = replace(base.regularizer, strength=strength, **way.changes)
    optimizer = base.optimizer
    if way.picks_grid:
        optimizer = replace(optimizer, relative_learning_rate=None)
    return replace(base, seed=seed, regularizer=regularizer, optimizer=optimizer)


def measure(base: TrainConfig, name: str, strength: float, seed: int, splits: DataSplits, tolerance: float) -> Row:
    """Train, quantise, write, read back."""
    config = config_of(base, WAYS[name], strength, seed)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = time.perf_counter()
        trainer = Trainer(config, splits, folder, Silent(), make_regularizer=WAYS[name].regularizer)
        kept = trainer.run()
        seconds = time.perf_counter() - begun
        weights, grids = kept.state_dict, kept.grids
        if WAYS[name].picks_grid:
            with trainer.regularizer.latent_weights():
                weights, grids = coarsest(pipeline.state_dict_of(trainer.model), config, splits, tolerance)
        file = measured_file(folder, config, weights, grids, splits.validation)
    return {
        "way": name,
        "strength": strength,
        "seed": seed,
        "bytes": file.bytes,
        "validation_accuracy": file.accuracy,
        "seconds": seconds,
    }


def measured_file(
    folder: Path, config: TrainConfig, weights: StateDict, grids: Mapping[str, BucketGrid], images: ImageDataset
) -> Summary:
    """Size of the file, and accuracy of the weights that are read back from it."""
    path = folder / runs.MODEL_FILE
    compress(weights, grids=grids, metadata={"net": config.net, "data": config.data}).save(path)
    return runs.measure_file(path, net=config.net, load_dataset=lambda: images)


def coarsest(
    weights: StateDict, config: TrainConfig, splits: DataSplits, tolerance: float
) -> tuple[StateDict, dict[str, BucketGrid]]:
    """The weights and the grids of lowest entropy that keep their accuracy on the validation images."""

    def grids_of(count: int) -> dict[str, BucketGrid]:
        return pipeline.choose_grids(weights, count=count, center=0.0)

    def unheard(_: SweepRow) -> None:
        """Rows are not shown."""

    found = sweeps.sweep_buckets(
        weights,
        BUCKETS,
        net=config.net,
        dataset=splits.validation,
        grids_of=grids_of,
        tolerance=tolerance,
        metadata={},
        on_row=unheard,
    )
    grids = grids_of(found.chosen.buckets)
    return pipeline.quantized_state_dict(weights, grids=grids), grids


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = ["| way | strength | seed | bytes | validation accuracy | seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['way']} | {row['strength']:g} | {row['seed']} | {row['bytes']:,} | "
            f"{row['validation_accuracy']:.2f} % | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def smallest_at(rows: Sequence[Row], way: str, accuracy: float) -> float | None:
    """Bytes of the smallest file of a way that is so accurate, the median over seeds; None if a seed has none."""
    seeds = {row["seed"] for row in rows}
    enough = [row for row in rows if row["way"] == way and row["validation_accuracy"] >= accuracy]
    smallest = [min((row["bytes"] for row in enough if row["seed"] == seed), default=None) for seed in seeds]
    return None if None in smallest else statistics.median(smallest)


def matched(rows: Sequence[Row], accuracies: Sequence[float]) -> str:
    """The table of the smallest files at each accuracy."""
    lines = ["| way | " + " | ".join(f"{accuracy:g} %" for accuracy in accuracies) + " |"]
    lines.append("|---" * (len(accuracies) + 1) + "|")
    for way in dict.fromkeys(row["way"] for row in rows):
        sizes = [smallest_at(rows, way, accuracy) for accuracy in accuracies]
        lines.append(f"| {way} | " + " | ".join("" if size is None else f"{size:,.0f}" for size in sizes) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a PNG: accuracy against bytes, a line for every way and seed."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    ways = list(dict.fromkeys(row["way"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    for (number, way), seed in itertools.product(enumerate(ways), seeds):
        points = [row for row in rows if (row["way"], row["seed"]) == (way, seed)]
        line = sorted((row["bytes"], row["validation_accuracy"]) for row in points)
        axes.plot(*zip(*line, strict=True), "o-", color=f"C{number}", label=way if seed == seeds[0] else None)
    axes.set(title=title, xlabel="bytes of the complete file", ylabel="validation accuracy, %", xscale="log")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def run(base: TrainConfig, splits: DataSplits, options: argparse.Namespace, log: TextIO) -> list[Row]:
    """All rows, each told of as soon as it is there."""
    rows = []
    for seed, name in itertools.product(options.seeds, options.ways):
        for strength in options.strengths or WAYS[name].strengths:
            rows.append(measure(base, name, strength, seed, splits, options.tolerance))
            print(markdown(rows[-1:]).splitlines()[-1], file=log, flush=True)
    return rows


def main() -> int:
    """Train, print, write JSON, the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="lenet5")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=20, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--strengths", type=float, nargs="+", help="λ for all ways; by default each has its own")
    parser.add_argument("--accuracies", type=float, nargs="+", default=[98.0, 98.5, 98.8], help="of the second table")
    parser.add_argument("--tolerance", type=float, default=0.1, help="points that a chosen grid may lose")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    parser.add_argument("--markdown", metavar="FILE", help="write the table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log = sys.stderr if options.json == "-" else sys.stdout
    try:
        base = replace(base_of(options.net, options.data), epochs=options.epochs)
        splits = data.load(options.data)
        rows = run(base, splits, options, log)
    except MetaqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    settings = {name: getattr(options, name) for name in ("net", "data", "epochs", "seeds", "tolerance", "threads")}
    write_json({**settings, "rows": rows}, options.json)
    at_matched_accuracy = matched(rows, options.accuracies)
    print(at_matched_accuracy, file=log)
    write_text(f"{markdown(rows)}\n{at_matched_accuracy}", options.markdown)
    if options.plot:
        plot(rows, f"{options.net} on {options.data}, {options.epochs} epochs", options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
