"""How much of a module's outputs quantised weights keep, on inputs that calibration does not see.

With f the outputs of the quantised weights and r those of the original ones, the score is

    1 - |f - r|² / (2 |r - mean of r|²)

over all floating tensors of the output but those that no weight changes, such as inputs that are passed on. The mean
is taken over samples and positions, for every index of the last dimension: what all samples have in common tells
nothing. For embeddings of unit length around zero the score is their mean cosine.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from metaq.config import require
from metaq.entropy.passes.grids import CPU
from metaq.model.checkpoint import StateDict
from metaq.model.evaluating import evaluating
from metaq.model.norms import holding
from metaq.model.random_state import RandomState
from metaq.quantize.curvature import Batch, call
from metaq.quantize.outputs import floating_tensors

EVERY = 4
"""Every so-manieth batch is held out."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A score between 0 and 1, where outputs are the same, its standard error over the samples, and their number."""

    score: float
    error: float
    samples: int


def parted(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Batches that calibrate, and every fourth one or the last of fewer, which are held out; one is cut by samples."""
    parts = _cut(batches[0]) if len(batches) == 1 else list(batches)
    if len(parts) < EVERY:
        return (parts[:-1], parts[-1:]) if len(parts) > 1 else (parts, [])
    return [batch for number, batch in enumerate(parts, 1) if number % EVERY], parts[EVERY - 1 :: EVERY]


def _cut(batch: Batch) -> list[Batch]:
    """A batch as at most four, of every fourth sample each; what is not by sample goes to all."""
    values = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, tuple) else (batch,)
    sizes = [len(value) for value in values if isinstance(value, torch.Tensor) and value.ndim]
    count = min(EVERY, sizes[0]) if sizes else 1

    def part(value: torch.Tensor, number: int) -> torch.Tensor:
        is_by_sample = isinstance(value, torch.Tensor) and value.ndim and len(value) == sizes[0]
        return value[number::count] if is_by_sample else value

    if isinstance(batch, Mapping):
        return [{name: part(value, number) for name, value in batch.items()} for number in range(count)]
    if isinstance(batch, tuple):
        return [tuple(part(value, number) for value in batch) for number in range(count)]
    return [part(batch, number) for number in range(count)]


def kept(module: nn.Module, weights: StateDict, batches: Iterable[Batch]) -> Kept:
    """The score of `weights`, by names of the state dict of `module`; see :func:`kept_by_each`."""
    return kept_by_each(module, [weights], batches)[0]


def kept_by_each(module: nn.Module, tries: Sequence[StateDict], batches: Iterable[Batch]) -> list[Kept]:
    """Scores of several weights, each of them for itself in the place of those of `module`, which is left as it was.

    Weights that the module does not have are passed over. If the module draws random numbers from PyTorch, all weights
    get the same ones for a batch; afterwards those come next that came next before.

    Where an output is not finite with the original weights, it does not count; where it is not with other weights
    alone, or has another shape, the score is 0. Raises :class:`ConfigError` if the output has no floating tensor.
    """
    names = module.state_dict().keys()
    known = [{name: tensor for name, tensor in weights.items() if name in names} for weights in tries]
    sums = [_Sums() for _ in tries]
    with evaluating(module), torch.no_grad():
        for batch in batches:
            noise = RandomState(module)
            reference = floating_tensors(call(module, batch))
            require(bool(reference), "batches: the model's output has no floating tensor to compare.")
            require(
                any(bool(tensor.isfinite().any()) for tensor in reference),
                "batches: all outputs for one of them are NaN or infinite; leave it out.",
            )
            for own, weights in zip(sums, known, strict=True):
                noise.restore()
                with holding(module, weights):
                    found = floating_tensors(call(module, batch))
                own.add(reference, found)
    return [own.kept() for own in sums]


@dataclass
class _Moments:
    """Number of rows, their sum, and the sum of their squares, all less the first row."""

    first: torch.Tensor
    rows: int = 0
    total: torch.Tensor | float = 0.0
    squares: float = 0.0

    def add(self, rows: torch.Tensor) -> None:
        centred = rows - self.first
        self.rows += len(rows)
        self.total = self.total + centred.sum(dim=0)
        self.squares += float(centred.square().sum())

    @property
    def deviation(self) -> float:
        """Sum of squares of the rows less their mean; of a single row, of itself."""
        if self.rows == 1:
            return float(self.first.square().sum())
        return max(self.squares - float(torch.as_tensor(self.total, device=CPU).square().sum()) / self.rows, 0.0)


@dataclass
class _Sums:
    """Squared errors by sample, moments of the original outputs by tensor and length of its rows, and the tensors in
    which there are errors.
    """

    errors: list[float] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)
    moments: dict[tuple[int, int], _Moments] = field(default_factory=dict)

    def add(self, reference: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> None:
        """Take in the outputs for a batch."""
        if [tensor.shape for tensor in reference] != [tensor.shape for tensor in found]:
            self.errors.append(math.inf)
            return
        errors = np.zeros(len(reference[0]))
        for number, (before, after) in enumerate(zip(reference, found, strict=True)):
            # Sample by sample: outputs of language models are large.
            own = [self._error(number, *_rows(pair)) for pair in zip(before, after, strict=True)]
            errors += own if len(own) == len(errors) else sum(own) / len(errors)
            self.changed |= {number} if any(own) else set()
        self.errors.extend(errors)

    def _error(self, number: int, before: torch.Tensor, after: torch.Tensor) -> float:
        is_finite = before.isfinite()
        before, after = before.where(is_finite, 0.0), after.where(is_finite, 0.0)
        self.moments.setdefault((number, before.shape[1]), _Moments(before[0].clone())).add(before)
        error = float((after - before).square().sum())
        return error if math.isfinite(error) else math.inf

    def kept(self) -> Kept:
        """The score of all that was taken in."""
        errors = np.array(self.errors)
        deviation = sum(found.deviation for (number, _), found in self.moments.items() if number in self.changed)
        total = float(errors.sum())
        if not total:
            return Kept(score=1.0, error=0.0, samples=len(errors))
        if not math.isfinite(total) or not deviation or total >= 2 * deviation:
            return Kept(score=0.0, error=0.0, samples=len(errors))
        loss = total / deviation / 2
        count = len(errors)
        spread = float(errors.std(ddof=1)) * math.sqrt(count) / deviation / 2 if count > 1 else loss
        return Kept(score=1.0 - loss, error=spread, samples=count)


def _rows(sample: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A sample of two outputs, each float64 of shape (rows, last dimension)."""
    return [tensor.detach().double().cpu().reshape(-1, *(tensor.shape[-1:] or (1,))) for tensor in sample]
