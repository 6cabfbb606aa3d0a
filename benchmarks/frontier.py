"""Real models from packages: bytes of complete files against the quality that is left, on inputs made here.

python benchmarks/frontier.py --packages FOLDER --models resemblyzer,fracast --sentences sentences.txt
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import metaq
from metaq import Compressed
from support.bank import MAKERS, CannotRunError, Case, Sources
from support.bank_inputs import MissingToolError
from support.results import write_json

Row = dict[str, Any]


def measured(case: Case, found: Compressed, seconds: float) -> Row:
    """Size of the complete file, and what its weights are worth once it is read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.metaq"
        found.save(path)
        return {"bytes": path.stat().st_size, "seconds": seconds, **case.judged(metaq.load(path))}


def compressed(case: Case, *, calibrated: bool, **goal: Any) -> Row:
    """A row of metaq."""
    begun = time.perf_counter()
    if calibrated:
        found = metaq.compress(case.model, batches=case.calibration, loss=case.loss, **goal)
    else:
        found = metaq.compress(case.state, **goal)
    return measured(case, found, time.perf_counter() - begun)


def describe(row: Row) -> str:
    """One line."""
    figures = "  ".join(f"{name} {value:.5g}" for name, value in row.items() if name not in ("bytes", "way"))
    return f"{row['way']:<20} {row['bytes']:11,} bytes  {figures}"


def run(case: Case, targets: list[int], *, calibrated: bool, log: TextIO) -> Row:
    """All rows of a model."""
    print(f"{case.name}: {case.float_bytes:,} bytes of floats", file=log, flush=True)
    rows = []
    for goal in ({}, *({"target_bytes": target} for target in targets)):
        way = "metaq" + (" calibrated" if calibrated else "") + ("" if goal else " default")
        rows.append({"way": way, **compressed(case, calibrated=calibrated, **goal)})
        print(describe(rows[-1]), file=log, flush=True)
    return {"float_bytes": case.float_bytes, "rows": rows}


def main() -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, metavar="FOLDER", required=True, help="unpacked packages")
    parser.add_argument("--models", default=",".join(MAKERS), help="names with commas between: %(default)s")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="English sentences, one a line")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="cifar10_jpeg.npz")
    parser.add_argument("--targets", type=int, nargs="*", default=[], metavar="BYTES", help="sizes of files")
    parser.add_argument("--calibrated", action="store_true", help="calibrate metaq's files")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    sources = Sources(packages=options.packages, sentences=options.sentences, pictures=options.pictures)
    result = {}
    try:
        for name in options.models.split(","):
            if name not in MAKERS:
                raise CannotRunError(f"{name}: there is no such model; there are {', '.join(MAKERS)}.")
            result[name] = run(MAKERS[name](sources), options.targets, calibrated=options.calibrated, log=log)
    except (CannotRunError, MissingToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
