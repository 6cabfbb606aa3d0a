"""What one number gives in fifteen training loops: a goal for the file, beside the same bytes after training.

    python benchmarks/knob.py --data shared/data --json runs/knob.json --plot runs/knob.png
    python benchmarks/knob.py --loops regression gan --ratios 8 --seeds 0 1 2 --json runs/few.json
    python benchmarks/knob.py --loops regression --ratios 8 --hand --json runs/hand.json

The loops are those of support/loops, each with its own model, data, optimisers and schedule; --data is the folder of
MNIST's and CIFAR-10's files. Rates, steps and losses stay as they are. For every loop, seed and ratio of the bytes of
all tensors to those of a complete file:

- float: the loop without metaq.
- goal: the loop with an EntropyRegularizer that has nothing but this ratio. Figures are those of the weights that are
  read back from the file.
- post-training: the float model by metaq.compress, calibrated on some training inputs, to the same bytes.
- pruning: the float model without the weights of the smallest magnitude, the others as 8-bit integers of one step per
  tensor, vectors as float16, all compressed by zstd at level 19 to the same bytes. No further training.

With --figures, a training to a bound of the validation figure, 5 % above the float model's loss or 0.5 points below its
accuracy, which the loop tells twenty times. With --hand, five settings of λ and of the step size, too, at whatever
bytes they come to. The last column is seconds of the process for the steps of a training to a goal over those of the
float training.

Results are kept in the file of --json as soon as they are there. A run that is in it is not repeated: the script can be
stopped and started again. Tables are of all that is in it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch

from support.knob_plot import plot
from support.loops.base import Loop
from support.loops.registry import LOOPS, loop
from support.loops.rows import (
    FIGURE,
    FLOAT,
    HAND,
    TO_A_RATIO,
    Row,
    Rows,
    figure_table,
    hand_table,
    summary,
    summary_lines,
    table,
)
from support.loops.ways import SETTINGS, Trial, warm_up
from support.results import write_json

RATIOS = (8.0, 16.0, 40.0)


def wanted(ratios: Sequence[float], *, to_figures: bool, by_hand: bool) -> Iterator[tuple[str, float | None]]:
    """All ways of one loop and seed, each with its ratio if it has one."""
    yield FLOAT, None
    yield from ((way, ratio) for ratio in ratios for way in TO_A_RATIO)
    if to_figures:
        yield FIGURE, None
    if by_hand:
        yield from ((f"{HAND}{number + 1}", None) for number in range(len(SETTINGS)))


def missing(
    names: Sequence[str], seeds: Sequence[int], ways: Sequence[tuple[str, float | None]], rows: Rows
) -> Iterator[tuple[str, int, list[tuple[str, float | None]]]]:
    """Loops and seeds of which not all is there, and what is not."""
    for name, seed in product(names, seeds):
        left = [(way, ratio) for way, ratio in ways if rows.find(name, seed, way, ratio) is None]
        if left:
            yield name, seed, left


def run(kind: type[Loop], seed: int, ways: Sequence[tuple[str, float | None]], rows: Rows, data: Path | None) -> None:
    """Add rows of one loop and seed."""
    trial = Trial(kind, seed, data)
    for way, ratio in ways:
        rows.add(trial.run(way, ratio))
        print(described(rows.all[-1]), file=sys.stderr, flush=True)


def described(row: Row) -> str:
    """One line."""
    name = f"{row['loop']}, seed {row['seed']}, {row['way']}"
    if row["ratio"] is not None:
        name += f" at {row['ratio']:g}x"
    if "refused" in row:
        return f"{name}: {row['refused']}"
    seconds = f", {row['seconds']:.1f} s" if "seconds" in row else ""
    limit = f" of {row['limit']:,}" if "limit" in row else ""
    return f"{name}: {row['bytes']:,}{limit} bytes, {row['test']:.5g}{seconds}"


def main() -> None:
    """Run what is missing and tell what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", nargs="+", default=list(LOOPS), help="in this order; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--figures", action="store_true", help="trainings to a bound of the validation figure, too")
    parser.add_argument("--hand", action="store_true", help="settings of λ and of the step size, too")
    parser.add_argument("--data", type=Path, help="folder of the data that come in files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="file of the results, old and new, - for new ones on standard output")
    parser.add_argument("--plot", type=Path, help="PNG of quality against bytes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kinds = {name: loop(name) for name in options.loops}
    rows = Rows(None if options.json in (None, "-") else Path(options.json))
    ways = list(wanted(options.ratios, to_figures=options.figures, by_hand=options.hand))
    todo = list(missing(options.loops, options.seeds, ways, rows))
    if todo:
        warm_up()
    for name, seed, left in todo:
        run(kinds[name], seed, left, rows, options.data)
    found = summary(rows)
    if options.plot:
        plot(rows, options.plot)
    if options.json == "-":
        write_json({"rows": rows.all, "summary": found}, options.json)
    else:
        print(
            "\n\n".join(
                text for text in (table(rows), figure_table(rows), hand_table(rows), summary_lines(found)) if text
            )
        )


if __name__ == "__main__":
    main()
