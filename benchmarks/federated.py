"""Federated averaging by examples/federated.py: accuracy and bytes as float32, as int8, by metaq and by NNCodec.

    python benchmarks/federated.py --seeds 0 1 2 --json runs/federated.json --plot runs/federated.png
    python benchmarks/federated.py --ways metaq nncodec --bits 0.3 --parts 1 8 --json runs/federated.json

Eight clients, which hold MNIST's digits in shares drawn from a Dirichlet distribution of 0.5, train LeNet-5 together
for as many rounds by every way, from the same first weights and with the same images in the same order. What a message
leaves out its sender adds to the next one, whatever the way. The ways:

- float32: all weights as they are.
- int8: changes in 255 steps per tensor, by zstd at level 19.
- metaq: updates of at most --bits bits a weight of the whole network.
- nncodec: changes as streams of NNCodec (ISO/IEC 15938-17, package nncodec) of as many bytes, by the qp and the
  lambda_scale of the least squared error; where it is not installed there is none of it.

--parts is for metaq and NNCodec: of the large matrices only every so many-th row is trained in a round, the next ones
in the next; 1 trains all in every round, as float32 and int8 do. Bytes are those of all messages, to and from all
clients. Accuracy is that of the model that clients have after the last message, in percent of the test images.

Results are kept in the file of --json as soon as they are there. A run that is in it is not repeated: the script can be
stopped and started again. The table is of all that is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any, TextIO

import torch
from matplotlib.figure import Figure

from metaq.lab.data import load
from support import nncodec_streams
from support.federated_case import NNCodec, example
from support.results import write_json

Row = dict[str, Any]

WAYS = ("float32", "int8", "metaq", "nncodec")
TO_A_SIZE = ("metaq", "nncodec")
QUICK_CLIENTS = 2
KEY = ("way", "bits_per_weight", "parts", "seed", "rounds_wanted", "data", "split")


def wanted(options: argparse.Namespace) -> Iterator[Row]:
    """What tells each run apart."""
    common = {
        "rounds_wanted": options.rounds,
        "data": "digits" if options.quick else "mnist",
        "split": options.split,
    }
    for seed, way in product(options.seeds, options.ways):
        settings = product(options.bits, options.parts) if way in TO_A_SIZE else [(None, 1)]
        for bits, parts in settings:
            yield {"way": way, "bits_per_weight": bits, "parts": parts, "seed": seed, **common}


def trained(key: Row, federated: ModuleType, log: TextIO) -> Row:
    """One training."""
    splits = load(key["data"])
    way = way_of(key, federated)
    begun, rounds = time.perf_counter(), []
    for each in federated.rounds_of(
        way,
        splits.train,
        getattr(splits, key["split"]),
        rounds=key["rounds_wanted"],
        parts=key["parts"],
        seed=key["seed"],
        clients=QUICK_CLIENTS if key["data"] == "digits" else federated.CLIENTS,
    ):
        rounds.append(asdict(each))
        print(f"{name_of(key)}, seed {key['seed']}, round {len(rounds)}: {each.accuracy:.2f} %", file=log, flush=True)
    up, down = (sum(each[name] for each in rounds) for name in ("bytes_up", "bytes_down"))
    return {
        **key,
        "rounds": rounds,
        "bytes_up": up,
        "bytes_down": down,
        "accuracy": rounds[-1]["accuracy"],
        "seconds": time.perf_counter() - begun,
    }


def way_of(key: Row, federated: ModuleType) -> Any:
    """How models travel."""
    if key["way"] == "float32":
        return federated.by_float32()
    if key["way"] == "int8":
        return federated.by_int8()
    limit = federated.limit_of(key["bits_per_weight"])
    return federated.by_metaq(limit) if key["way"] == "metaq" else NNCodec(limit)


def name_of(row: Row) -> str:
    """What a table calls it."""
    if row["way"] not in TO_A_SIZE:
        return str(row["way"])
    rows = "all rows" if row["parts"] == 1 else f"every {row['parts']}th row"
    return f"{row['way']} at {row['bits_per_weight']:g} bits, {rows}"


def summary(rows: Sequence[Row]) -> list[Row]:
    """Means over the seeds that float32 has too, by way."""
    floats = {same_of(row): row for row in rows if row["way"] == "float32"}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if same_of(row) in floats:
            groups.setdefault((name_of(row), *same_of(row)[1:]), []).append(row)
    found = []
    for (name, *_), group in groups.items():
        before = [floats[same_of(row)] for row in group]
        found.append(
            {
                "name": name,
                "seeds": [row["seed"] for row in group],
                "rounds": group[0]["rounds_wanted"],
                "accuracy": fmean(row["accuracy"] for row in group),
                "points": [row["accuracy"] - one["accuracy"] for row, one in zip(group, before, strict=True)],
                "fewer_up": ratio(before, group, "bytes_up"),
                "fewer_down": ratio(before, group, "bytes_down"),
                "fewer": ratio(before, group, "bytes_up", "bytes_down"),
                "seconds": fmean(row["seconds"] for row in group),
            }
        )
    return found


def same_of(row: Row) -> tuple[Any, ...]:
    """What has to be alike in runs that are compared."""
    return row["seed"], row["rounds_wanted"], row["data"], row["split"]


def ratio(before: Sequence[Row], after: Sequence[Row], *names: str) -> float:
    """How many times fewer bytes."""
    old, new = (sum(row[name] for row in some for name in names) for some in (before, after))
    return float(old / new)


def table(found: Sequence[Row]) -> str:
    """A line for each way."""
    width = max((len(row["name"]) for row in found), default=0)
    lines = []
    for row in found:
        points = fmean(row["points"])
        spread = ", ".join(f"{each:+.2f}" for each in row["points"])
        lines.append(
            f"{row['name']:{width}}  {row['accuracy']:6.2f} %, {points:+.2f} points ({spread}); times fewer bytes: "
            f"{row['fewer_up']:.1f} up, {row['fewer_down']:.1f} down, {row['fewer']:.1f} in all; {row['seconds']:.0f} s"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """A PNG of accuracy after every round against bytes so far, of the first seed."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in (row for row in rows if row["seed"] == rows[0]["seed"]):
        sums, so_far = [], 0
        for each in row["rounds"]:
            so_far += each["bytes_up"] + each["bytes_down"]
            sums.append(so_far / 1e6)
        axes.plot(sums, [each["accuracy"] for each in row["rounds"]], ".-", label=name_of(row))
    axes.set_xscale("log")
    axes.set_xlabel("megabytes up and down so far")
    axes.set_ylabel("accuracy, %")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run what is missing and tell what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--bits", nargs="+", type=float, default=[0.3, 0.4, 0.5], help="per weight of a message")
    parser.add_argument("--parts", nargs="+", type=int, default=[8], help="rounds in which every row is trained once")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="images of the accuracy")
    parser.add_argument("--quick", action="store_true", help="two clients with small digits, two rounds, 0.3 bits")
    parser.add_argument("--json", help="file of the results, old and new, - for new ones on standard output")
    parser.add_argument("--plot", type=Path, help="PNG of accuracy against bytes")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.bits = 2, [0.3]
    torch.set_num_threads(1)
    log = sys.stderr if options.json == "-" else sys.stdout
    if "nncodec" in options.ways and not nncodec_streams.is_installed():
        print("NNCodec is not installed (pip install nncodec), so there is none of it.", file=log, flush=True)
        options.ways.remove("nncodec")
    place = None if options.json in (None, "-") else Path(options.json)
    rows: list[Row] = json.loads(place.read_text())["rows"] if place and place.exists() else []
    federated = example()
    for key in wanted(options):
        if any(all(row[name] == key[name] for name in KEY) for row in rows):
            continue
        rows.append(trained(key, federated, log))
        if place:
            write_json({"rows": rows, "summary": summary(rows)}, str(place))
    if options.json == "-":
        write_json({"rows": rows, "summary": summary(rows)}, "-")
    if options.plot:
        plot(rows, options.plot)
    print(table(summary(rows)), file=log)


if __name__ == "__main__":
    main()
