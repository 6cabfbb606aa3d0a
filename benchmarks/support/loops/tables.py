"""Networks on numbers: rows of a table, small images as rows, and sets of points."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from metaq.lab.data.dataset import fixed_permutation
from support.loops.base import Batch, MinibatchLoop, Parts, one_cycle
from support.loops.nets import fully_connected

HIGHEST = 16.0
"""Value of a black pixel in scikit-learn's digits."""

TABLE_SEED = 0
HELD_OUT_COUNT = 2000


class Regression(MinibatchLoop):
    """A fully connected network on a synthetic table of ten columns, Friedman's first, by Adam with a constant rate.

    The target is standardised; the noise in it has a variance of 0.04, below which no mean squared error can fall.
    """

    name: ClassVar[str] = "regression"
    steps: ClassVar[int] = 1500
    batch_size: ClassVar[int] = 128

    @override
    def load(self, data: Path | None) -> Parts:
        return friedman()

    @override
    def network(self) -> nn.Module:
        return fully_connected([10, 128, 128, 1])

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [Adam(self.model.parameters(), lr=1e-3)]


class Autoencoder(MinibatchLoop):
    """A fully connected autoencoder of 19,788 weights for handwritten digits of 8×8 pixels, in [0, 1]."""

    name: ClassVar[str] = "autoencoder"
    steps: ClassVar[int] = 2000
    batch_size: ClassVar[int] = 128

    @override
    def load(self, data: Path | None) -> Parts:
        return small_digits()

    @override
    def network(self) -> nn.Module:
        return fully_connected([64, 128, 12, 128, 64], nn.GELU)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [Adam(self.model.parameters(), lr=5e-4)]


class DeepSets(nn.Module):
    """A network of every element, the sum over the set, and a network of the sum (Zaheer et al. 2017)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.of_element = fully_connected([inputs, width, width, width], nn.SiLU)
        self.of_set = fully_connected([width, width, width, 1], nn.SiLU)

    def forward(self, elements: Tensor) -> Tensor:
        """From (N, elements, inputs) to (N, 1)."""
        found: Tensor = self.of_set(self.of_element(elements).mean(dim=1))
        return found


class Sets(MinibatchLoop):
    """A network on sets that learns the mean distance between points of a set, by AdamW with one cycle."""

    name: ClassVar[str] = "sets"
    steps: ClassVar[int] = 2000
    batch_size: ClassVar[int] = 128

    @override
    def load(self, data: Path | None) -> Parts:
        return sets_of_points()

    @override
    def network(self) -> nn.Module:
        return DeepSets(3, 96)

    @override
    def make_optimizers(self) -> list[Optimizer]:
        return [AdamW(self.model.parameters(), lr=3e-3, weight_decay=1e-2)]

    @override
    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        return one_cycle(optimizer, self.steps)


@cache
def small_digits() -> Parts:
    """Scikit-learn's digits as rows of 64 numbers in [0, 1], which are their own targets."""
    values = torch.from_numpy(load_digits().data).float() / HIGHEST
    train, validation, test = torch.split(values[fixed_permutation(len(values))], [len(values) - 600, 200, 400])
    return Parts(train=(train, train), validation=(validation, validation), test=(test, test))


@cache
def friedman(count: int = 8000) -> Parts:
    """Rows (N, 10), uniform in [0, 1], and a standardised target (N, 1) of five of the columns (Friedman 1991)."""
    generator = torch.Generator().manual_seed(TABLE_SEED)
    x = torch.rand(count + 2 * HELD_OUT_COUNT, 10, generator=generator)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5).square() + 10 * x[:, 3] + 5 * x[:, 4]
    return split(x, standardized(y + torch.randn(len(y), generator=generator)), count)


@cache
def sets_of_points(count: int = 10_000, points: int = 12) -> Parts:
    """Sets (N, points, 3) of normal points, each set of its own scale, and their standardised mean distance (N, 1)."""
    generator = torch.Generator().manual_seed(TABLE_SEED)
    sets = torch.randn(count + 2 * HELD_OUT_COUNT, points, 3, generator=generator)
    sets *= torch.rand(len(sets), 1, 3, generator=generator) + 0.5
    return split(sets, standardized(torch.cdist(sets, sets).mean(dim=(1, 2))), count)


def standardized(values: Tensor) -> Tensor:
    """Values (N,) with mean 0 and standard deviation 1, as (N, 1)."""
    return ((values - values.mean()) / values.std())[:, None]


def split(inputs: Tensor, target: Tensor, count: int) -> Parts:
    """The first `count` examples to train with; the rest half and half."""
    sizes = [count, HELD_OUT_COUNT, HELD_OUT_COUNT]
    parts: list[Batch] = list(zip(torch.split(inputs, sizes), torch.split(target, sizes), strict=True))
    return Parts(train=parts[0], validation=parts[1], test=parts[2])
