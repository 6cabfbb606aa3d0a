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

    Attributes
    ----------
    accuracy
        Of the weights restored from the file, in percent.
    bytes
        Size of the file on disk.
    float_bytes
        Size of the same tensors as the model holds them.
    ratio
        `float_bytes` over `bytes`.
    weights
        Elements of all tensors.
    bits_per_weight
        Bits of the file over `weights`.
    seconds
        Wall-clock time of the whole command, of what it wrote and measured too.
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
    """A finished run.

    Attributes
    ----------
    summary
        Of ``model.metaq``, accuracy on the test images.
    validation_accuracy
        Of the same weights on the validation images, in percent.
    kept_epoch, epochs
        The epoch whose weights were kept, and how many were run.
    folder
        Where everything is.
    weights
        The weights that were packed, as they were in memory.
    """

    summary: Summary
    validation_accuracy: float
    kept_epoch: int
    epochs: int
    folder: Path
    weights: Mapping[str, torch.Tensor]
