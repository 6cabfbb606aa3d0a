"""A trained model with inputs and a measure of quality, and where those of the bank come from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metaq.quantize.curvature import Batch, Loss, call, random_projection_loss
from support.qualities import Quality
from support.sentences import CannotRunError, lines

State = Mapping[str, torch.Tensor]

BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A trained model with inputs.

    `quality` takes the outputs of the trained and of the compressed model on the held-out batches. Its ``"score"`` is 1
    for equal outputs and less the more they differ; the other figures are what users of such a model look at. `loss` is
    what calibration should measure.
    """

    name: str
    model: nn.Module
    state: State
    calibration: Sequence[Batch]
    held_out: Sequence[Batch]
    quality: Callable[[torch.Tensor, torch.Tensor], Quality]
    loss: Loss = random_projection_loss

    @cached_property
    def reference(self) -> torch.Tensor:
        """Outputs of the trained model on the held-out batches."""
        return outputs(self.model, self.held_out)

    @property
    def float_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())

    @property
    def weights(self) -> int:
        """Elements of all floating tensors."""
        return sum(tensor.numel() for tensor in self.state.values() if tensor.is_floating_point())

    def judged(self, state: State) -> Quality:
        """Quality of the weights `state`; the model is as before afterwards."""
        reference = self.reference
        try:
            self.model.load_state_dict(state)
            found = outputs(self.model, self.held_out)
        finally:
            self.model.load_state_dict(self.state)
        return self.quality(reference, found)


def outputs(model: nn.Module, batches: Sequence[Batch]) -> torch.Tensor:
    """The model's outputs for all batches, a row for every input."""
    with torch.no_grad():
        return torch.cat([call(model, batch) for batch in batches])


def case_of(name: str, model: nn.Module, state: State, **rest: Any) -> Case:
    """A case with the weights loaded."""
    model.load_state_dict(state)
    return Case(name=name, model=model.eval(), state=dict(state), **rest)


def batched(inputs: np.ndarray, size: int = BATCH_SIZE) -> list[torch.Tensor]:
    """Batches of the inputs."""
    return list(torch.from_numpy(np.ascontiguousarray(inputs)).split(size))


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where models and data lie."""

    packages: Path
    sentences: Path | None
    pictures: Path | None
    language: Path | None = None

    def file(self, *parts: str) -> Path:
        """A file of a package."""
        path = self.packages.joinpath(*parts)
        if not path.exists():
            raise CannotRunError(f"{path}: there is no such file; unpack the package there, see --help.")
        return path

    def code(self, package: str) -> None:
        """Make a package's own code importable."""
        folder = str(self.file(package))
        if folder not in sys.path:
            sys.path.insert(0, folder)

    def lines(self) -> list[str]:
        """All sentences."""
        if self.sentences is None:
            raise CannotRunError("this model needs --sentences FILE; see --help.")
        return lines(self.sentences)

    def texts(self, count: int) -> tuple[list[str], list[str]]:
        """Sentences to calibrate with and others to judge by, `count` each."""
        usual = [line for line in self.lines() if 30 < len(line) < 120]
        if len(usual) < 2 * count:
            raise CannotRunError(f"{self.sentences}: {2 * count} sentences of usual length are needed.")
        return usual[:count], usual[count : 2 * count]
