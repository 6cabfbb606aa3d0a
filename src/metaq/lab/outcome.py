"""What a run gives: sizes, accuracies and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Size and accuracy of one file.

    The accuracy is that of the weights restored from the file, in percent. `bytes` is the file's size on disk,
    `float_bytes` that of the same tensors as the model holds them, `ratio` the second over the first; `weights` counts
    the elements of all tensors, and `bits_per_weight` are the bits of the file over them. `seconds` is the wall-clock
    time of the whole command, of what it wrote and measured too.
    """

    accuracy: float
    bytes: int
    float_bytes: int
    ratio: float
    weights: int
    bits_per_weight: float
    seconds: float

    def to_dict(self) -> dict[str, float | int]:
        """Plain dictionary, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingOutcome:
    """A finished run; the summary is of ``model.metaq`` on the test images.

    `validation_accuracy` is that of the same weights, in percent; `kept_epoch` the epoch that they are of; `weights`
    what was packed, as it was in memory.
    """

    summary: Summary
    validation_accuracy: float
    kept_epoch: int
    epochs: int
    folder: Path
    weights: Mapping[str, torch.Tensor]
