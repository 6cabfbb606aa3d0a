"""How much processor time it takes to arrange the hidden units of a trained network, and how many bytes that saves.

    python benchmarks/arranging.py [--before SRC] [--epochs 5] [--json FILE|-]

The shipped models, and LeNet-5 trained for some epochs on digits. With `--before`, the folder `src` of a version that
searched by hundreds of trials (up to the commit "Name the sweep of buckets as it is called"), the same weights are
arranged by that version too, each time right before by this one, and the ratio of processor times is printed.

Prints a table, on stderr where `--json -` takes stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from metaq import container
from metaq.compression.pipeline import to_tensors, trained_tensors
from metaq.lab import data, nets
from metaq.lab.train import Silent, Trainer, preset
from metaq.model.checkpoint import StateDict, weights_of
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import QuantizedTensor
from support.results import write_json

MODELS = Path(__file__).parents[1] / "models"

BEFORE = """
import json, sys, time
import torch
try:
    from metaq import container, pipeline, runs
    from metaq.grid import BucketGrid
    from metaq.structure import cheapest_arrangement
except ImportError:
    from metaq import container
    from metaq.compression import pipeline
    from metaq.lab import runs
    from metaq.model.structure import cheapest_arrangement
    from metaq.tensors.grid import BucketGrid
given = torch.load(sys.argv[1])
grids = {name: BucketGrid(**grid) for name, grid in given["grids"].items()}
def cost(model):
    return len(container.encode(pipeline.to_tensors(model, grids=grids)))
model = runs.build(given["net"], given["weights"]).eval()
cost(model)
begun = time.process_time()
arranged = cheapest_arrangement(model, cost)
print(json.dumps({"processor_seconds": time.process_time() - begun, "bytes": cost(arranged)}))
"""


def shipped(path: Path) -> tuple[str, StateDict, dict[str, BucketGrid]]:
    """Network, weights and grids of a file."""
    file = container.read(path)
    grids = {tensor.name: tensor.grid for tensor in file.tensors if isinstance(tensor, QuantizedTensor)}
    return str(file.metadata["net"]), weights_of(file), grids


def trained(epochs: int) -> tuple[str, StateDict, dict[str, BucketGrid]]:
    """The same of LeNet-5 on digits, as `metaq train` has it before units are arranged."""
    config = replace(preset("lenet5-digits"), epochs=epochs)
    with TemporaryDirectory() as folder:
        kept = Trainer(config, data.load(config.data), Path(folder), Silent()).run()
    return config.net, kept.state_dict, kept.grids


def measure(net: str, weights: StateDict, grids: dict[str, BucketGrid], before: Path | None) -> dict[str, float | int]:
    """Bytes as they were and arranged, and processor seconds; with those of an earlier version."""
    model = nets.create(net)
    model.load_state_dict(weights)
    found: dict[str, float | int] = {"bytes": len(container.encode(to_tensors(weights, grids=grids)))}
    if before is not None:
        with TemporaryDirectory() as folder:
            given = Path(folder) / "given.pt"
            held = {"net": net, "weights": weights, "grids": {name: asdict(grid) for name, grid in grids.items()}}
            torch.save(held, given)
            environment = {**os.environ, "PYTHONPATH": str(before)}
            command = [sys.executable, "-c", BEFORE, str(given)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found |= {f"{key}_before": value for key, value in json.loads(done.stdout).items()}
    begun = time.process_time()
    tensors = trained_tensors(model, grids)
    found["processor_seconds"] = time.process_time() - begun
    found["bytes_arranged"] = len(container.encode(tensors))
    if before is not None:
        found["ratio"] = found["processor_seconds_before"] / found["processor_seconds"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder src of an earlier version")
    parser.add_argument("--epochs", type=int, default=5, help="of the training on digits")
    parser.add_argument("--json", help="file for the figures, or - for stdout")
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = {path.stem: shipped(path) for path in sorted(MODELS.glob("*.metaq"))}
    networks[f"lenet5-digits, {options.epochs} epochs"] = trained(options.epochs)
    rows = {name: measure(*network, options.before) for name, network in networks.items()}
    output = sys.stderr if options.json == "-" else sys.stdout
    for name, row in rows.items():
        figures = ", ".join(f"{key} {round(value, 2):,}" for key, value in row.items())
        print(f"{name}: {figures}", file=output)
    write_json({"networks": rows}, options.json)


if __name__ == "__main__":
    main()
