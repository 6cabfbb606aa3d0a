"""The whole road once, on data that need no download: train, quantise, pack, restore, evaluate, report."""

import json
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from metaq.files import write_bytes
from metaq.lab import data, runs
from metaq.lab.runs import TrainingOutcome
from metaq.lab.train import Observer, accuracy, preset
from metaq.model.lazy import load
from metaq.report import gathering
from metaq.report.page import is_report

PRESET = "lenet5-digits"
REPORT_NAME = "metaq demo"


@dataclass(frozen=True, kw_only=True)
class DemonstrationResult:
    """What the demonstration measured: the run with the entropy term, and what it is compared with.

    `float_accuracy` is the test accuracy in percent of the same network trained alike without the term; `bit_equal`
    says whether every tensor restored from the file equals the quantised one bit for bit.
    """

    outcome: TrainingOutcome
    float_accuracy: float
    bit_equal: bool

    def to_dict(self) -> dict[str, object]:
        """Plain dictionary, ready for JSON."""
        return {**runs.outcome_to_dict(self.outcome), **self.compared()}

    def compared(self) -> dict[str, float | bool]:
        """What the run alone does not know."""
        return {"float_accuracy": self.float_accuracy, "bit_equal": self.bit_equal}


def run(folder: Path, *, seed: int, plain_observer: Observer, observer: Observer) -> DemonstrationResult:
    """Train LeNet-5 on the embedded digits twice, without and with the entropy term, and compare the two."""
    config = replace(preset(PRESET), seed=seed)
    splits = data.load(config.data)
    with TemporaryDirectory() as scratch:
        plain = runs.train_plain(config, splits, Path(scratch), plain_observer)
    outcome = runs.train_to_folder(config, splits, folder, observer)
    restored = load(folder / runs.MODEL_FILE)
    result = DemonstrationResult(
        outcome=outcome,
        float_accuracy=accuracy(plain, splits.test),
        bit_equal=restored.keys() == outcome.weights.keys()
        and all(torch.equal(restored[name], tensor) for name, tensor in outcome.weights.items()),
    )
    summary = folder / runs.SUMMARY_FILE
    facts = {**json.loads(summary.read_text(encoding="utf-8")), **result.compared()}
    write_bytes(summary, (json.dumps(facts) + "\n").encode())
    return result


def write_report(folder: Path, page: Path) -> Path:
    """Write the report on the run in `folder`; where it is.

    An older report of that name is replaced; beside any other file the page gets a number.
    """
    places = chain([page], (page.with_stem(f"{page.stem}-{number}") for number in count(2)))
    place = next(each for each in places if not each.exists() or (each.is_file() and is_report(each)))
    gathering.write(place, [gathering.gather(folder, name=REPORT_NAME)])
    return place
