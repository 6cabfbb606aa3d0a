"""What updates take from one epoch of a training to the next, and from one training to another.

    python benchmarks/neighbours.py --data-dir DATA --seeds 2

LeNet-5 is trained as ``metaq train --preset lenet5-mnist`` does, for --epochs epochs. In the last --last of them the
regulariser saves a file after every epoch, and `metaq.diff` makes an update of each from the one before. Files of the
last epochs of different seeds, which have nothing in common, are told by each other too. Shares are bytes of the update
over those of the file. Some five minutes a seed on one core; --quick takes scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import metaq
from metaq.lab.data import DataSplits, load
from metaq.lab.train.loop import Trainer
from metaq.lab.train.presets import LENET5_MNIST
from metaq.lab.train.records import Silent
from support.results import tell, write_json

Row = dict[str, Any]


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    splits = load("digits" if options.quick else "mnist", data_dir=None if options.quick else options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        runs = [files_of(seed, splits, Path(folder), options) for seed in range(options.seeds)]
        within = [row(old, new) for files in runs for old, new in pairwise(files)]
        across = [row(old[-1], new[-1]) for old, new in pairwise([*runs, runs[0]]) if old is not new]
    for what, rows in (("epoch to epoch", within), ("seed to seed", across)):
        shares = [each["share"] for each in rows]
        if shares:
            tell(f"{what}: {statistics.median(shares):.1%} of the file, {min(shares):.1%} to {max(shares):.1%}")
    write_json({"command": sys.argv, "within": within, "across": across}, options.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="folder of MNIST; else $METAQ_DATA")
    parser.add_argument("--epochs", type=int, default=40, help="of a training [default: 40]")
    parser.add_argument("--last", type=int, default=10, help="whose files are compared [default: 10]")
    parser.add_argument("--seeds", type=int, default=2, help="number of trainings [default: 2]")
    parser.add_argument("--quick", action="store_true", help="other digits and few epochs, for seconds")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.last, options.seeds = 8, 3, 2
    return options


def files_of(seed: int, splits: DataSplits, folder: Path, options: argparse.Namespace) -> list[Path]:
    """Files of the last epochs of a training."""
    place = folder / str(seed)
    place.mkdir()
    config = replace(LENET5_MNIST, data="digits" if options.quick else "mnist", epochs=options.epochs, seed=seed)
    trainer = Trainer(config, splits, place, Silent())
    files = []
    for _ in range(options.epochs):
        record = trainer.advance()
        if record.epoch > options.epochs - options.last:
            files.append(place / f"{record.epoch}.metaq")
            trainer.regularizer.save(files[-1])
            tell(f"seed {seed}, epoch {record.epoch}: {files[-1].stat().st_size:,} bytes")
    return files


def row(old: Path, new: Path) -> Row:
    """What telling one file by another takes."""
    update = metaq.diff(old, new)
    loaded, wanted = metaq.load(update.data, base=old), metaq.load(new)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in wanted.items())
    size = new.stat().st_size
    return {
        "from": old.stem,
        "to": new.stem,
        "file": size,
        "update": update.file_bytes,
        "share": update.file_bytes / size,
    }


if __name__ == "__main__":
    main()
