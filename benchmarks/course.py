"""The course of one training to a goal: bits, λ and loss from the first step to the last.

    python benchmarks/course.py [--loop digits] [--ratio 60] [--seed 0] [--data FOLDER] [--json FILE or -]
        [--plot FILE.png]

The loop is one of support/loops. It trains twice, without metaq and to a file of a `--ratio`-th of its tensors' bytes.
The loss is that on the first training examples, of the weights that the model holds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from metaq import EntropyRegularizer
from metaq.regularizer.size_control import SizeControl
from support.course_plot import plot
from support.loops.base import MinibatchLoop
from support.loops.registry import LOOPS, loop
from support.results import write_json

LOOKS, EXAMPLES = 100, 2000


def loss_of(trained: MinibatchLoop) -> float:
    """Loss of the weights that the model holds, on the first training examples."""
    inputs, target = (tensor[:EXAMPLES] for tensor in trained.parts.train)
    return trained.loss(trained.outputs(inputs), target).item()


def float_course(trained: MinibatchLoop) -> list[dict[str, float]]:
    """Losses of the loop without metaq."""
    rows = []
    for number in range(trained.steps):
        trained.step(number)
        if (number + 1) % max(1, trained.steps // LOOKS) == 0:
            rows.append({"share": (number + 1) / trained.steps, "loss": loss_of(trained)})
    return rows


def goal_course(trained: MinibatchLoop, ratio: float) -> dict[str, Any]:
    """Bits, λ and losses of the loop with a goal, and what the file takes in the end."""
    regularizer = EntropyRegularizer(trained.model, total_steps=trained.steps, target_ratio=ratio)
    regularizer.attach(*trained.optimizers)
    control = regularizer.schedule
    if not isinstance(control, SizeControl):
        raise TypeError("a ratio is a goal of a size")
    rows: list[dict[str, float | None]] = []
    for number in range(trained.steps):
        trained.step(number)
        if (number + 1) % max(1, trained.steps // LOOKS) == 0:
            share = (number + 1) / trained.steps
            is_pressed = share > regularizer.config.warmup
            rows.append(
                {
                    "share": share,
                    "bits_per_weight": regularizer.report().bits_per_weight if is_pressed else None,
                    "strength": regularizer.current_strength() or None,
                    "loss": loss_of(trained),
                }
            )
    regularizer.finish()
    weights = regularizer.report().weights
    with TemporaryDirectory() as folder:
        file_bytes = regularizer.save(Path(folder) / "model.metaq").file_bytes

    def per_weight(size_bytes: int) -> float:
        return 8 * (size_bytes - control.fixed_bytes) / weights

    return {
        "rows": rows,
        "limit_bytes": control.limit_bytes,
        "file_bytes": file_bytes,
        "goal_bits_per_weight": per_weight(control.limit_bytes),
        "file_bits_per_weight": per_weight(file_bytes),
        "entropy_bits_per_weight": regularizer.report().bits_per_weight,
        "loss": loss_of(trained),
    }


def main() -> None:
    """Train, print, write JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", default="digits", choices=list(LOOPS))
    parser.add_argument("--ratio", type=float, default=60.0, help="bytes of the tensors over those of the file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder of the data that come in files")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    parser.add_argument("--plot", type=Path, help="PNG file for the course")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind = loop(options.loop)
    if not issubclass(kind, MinibatchLoop):
        parser.error(f"--loop: {options.loop} has no loss of its examples; choose another.")
    result = {
        "loop": options.loop,
        "seed": options.seed,
        "ratio": options.ratio,
        "float": float_course(kind(options.seed, options.data)),
        **goal_course(kind(options.seed, options.data), options.ratio),
    }
    out = sys.stderr if options.json == "-" else sys.stdout
    print(
        f"{result['file_bytes']:,} bytes of {result['limit_bytes']:,}; loss {result['loss']:.4g}, without metaq "
        f"{result['float'][-1]['loss']:.4g}",
        file=out,
    )
    write_json(result, options.json)
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    main()
