"""The whole road once, on data that need no download: train, quantise, pack, restore, evaluate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from metaq import data, pipeline, runs
from metaq.train import Observer, accuracy, preset

PRESET = "lenet5-digits"


@dataclass(frozen=True, kw_only=True)
class DemonstrationResult:
    """What the demonstration measured.

    Attributes
    ----------
    outcome
        The run with the entropy term; accuracy of the weights restored from the file.
    float_accuracy
        Test accuracy in percent of the same network trained alike without the term.
    bit_equal
        Whether every tensor restored from the file equals the quantised one bit for bit.
    """

    outcome: runs.TrainingOutcome
    float_accuracy: float
    bit_equal: bool

    def to_dict(self) -> dict[str, object]:
        """Plain dictionary, ready for JSON."""
        extra = {"float_accuracy": self.float_accuracy, "bit_equal": self.bit_equal}
        return {**runs.outcome_to_dict(self.outcome), **extra}


def run(folder: Path, *, seed: int, plain_observer: Observer, observer: Observer) -> DemonstrationResult:
    """Train LeNet-5 on the embedded digits twice, without and with the entropy term, and compare the two."""
    config = replace(preset(PRESET), seed=seed)
    splits = data.load(config.data)
    with TemporaryDirectory() as scratch:
        plain = runs.train_plain(config, splits, Path(scratch), plain_observer)
    outcome = runs.train_to_folder(config, splits, folder, observer)
    restored = pipeline.load(folder / runs.MODEL_FILE)
    return DemonstrationResult(
        outcome=outcome,
        float_accuracy=accuracy(plain, splits.test),
        bit_equal=restored.keys() == outcome.weights.keys()
        and all(torch.equal(restored[name], tensor) for name, tensor in outcome.weights.items()),
    )
