"""What a training loop is to a benchmark, and what most of them have in common: minibatches, schedules, a figure."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

Batch = tuple[Tensor, ...]
"""Inputs of the model, then targets; the first dimension of each counts examples."""

PIECE = 500
"""Examples that go through a model at once outside training."""

CALIBRATION_BATCHES = 8


class Loop(abc.ABC):
    """One training loop of somebody: a model, its data and its optimisers.

    Everything random comes from the seed: two objects with the same seed train identically.

    Attributes
    ----------
    name
        In :data:`support.loops.LOOPS`.
    figure
        What :meth:`quality` gives, with its unit.
    larger_is_better
        Which way the figure improves.
    is_loss
        Whether the figure is a loss, compared by ratio, or a percentage, compared by points.
    steps
        Optimiser steps of the whole training.
    model
        What is made small.
    optimizers
        Those that update the model.
    other_optimizers
        Those that update something else in the same step.
    """

    name: ClassVar[str]
    figure: ClassVar[str]
    larger_is_better: ClassVar[bool]
    is_loss: ClassVar[bool]
    steps: ClassVar[int]

    model: nn.Module
    optimizers: list[Optimizer]
    other_optimizers: list[Optimizer]

    @abc.abstractmethod
    def __init__(self, seed: int, data: Path | None = None) -> None:
        """Load the data, from the folder `data` where they come in files, and make model and optimisers."""

    @abc.abstractmethod
    def step(self, number: int) -> float:
        """Do one whole training step, the first of which has number 0; returns the training loss."""

    @abc.abstractmethod
    def quality(self) -> float:
        """The figure of the model as it is now, on test data."""

    @abc.abstractmethod
    def validation(self) -> float:
        """The figure of the model as it is now, on validation data."""

    @abc.abstractmethod
    def batches(self) -> list[Batch]:
        """Some training inputs; the model is called with the tensors of one tuple."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Data to learn from, to choose with and to report on."""

    train: Batch
    validation: Batch
    test: Batch


class MinibatchLoop(Loop):
    """A loop over minibatches of examples in memory, in a new order every epoch.

    Attributes
    ----------
    batch_size
        Examples of a step.
    most_norm
        The gradient is clipped to this norm; None: it is not clipped.
    parts
        Data that :meth:`load` has given.
    generator
        Source of the order of examples and of their augmentation.
    """

    batch_size: ClassVar[int]
    most_norm: ClassVar[float | None] = None
    figure: ClassVar[str] = "mean squared error"
    larger_is_better: ClassVar[bool] = False
    is_loss: ClassVar[bool] = True

    def __init__(self, seed: int, data: Path | None = None) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.parts = self.load(data)
        with seeded(seed):
            self.model = self.network()
        self.optimizers = self.make_optimizers()
        self.other_optimizers = []
        self.schedulers = [self.schedule(optimizer) for optimizer in self.optimizers]
        self._order = self._shuffled()

    @abc.abstractmethod
    def load(self, data: Path | None) -> Parts:
        """The data."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The model with its initial weights, drawn from PyTorch's global generator."""

    @abc.abstractmethod
    def make_optimizers(self) -> list[Optimizer]:
        """Optimisers of the model's parameters."""

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The schedule of an optimiser; by default a constant learning rate."""
        return LambdaLR(optimizer, constant)

    def augmented(self, batch: Batch) -> Batch:
        """What the model is trained on instead of a batch; by default the batch."""
        return batch

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """What training minimises; by default the mean squared error."""
        return functional.mse_loss(outputs, target)

    def score(self, outputs: Tensor, target: Tensor) -> float:
        """The figure for the outputs of a whole part; by default the loss."""
        return self.loss(outputs, target).item()

    def step(self, number: int) -> float:
        """Minibatch, gradient, clipping, optimisers, schedules."""
        inputs, target = self.augmented(self.minibatch(number))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = self.loss(self.model(inputs), target)
        torch.autograd.backward(loss)
        if self.most_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.most_norm)
        self.advance()
        return loss.item()

    def advance(self) -> None:
        """Step all optimisers of the model, and their schedules."""
        for optimizer in self.optimizers:
            optimizer.step()
        for scheduler in self.schedulers:
            scheduler.step()

    def minibatch(self, number: int) -> Batch:
        """Examples of the step with this number; the last few of an epoch are left out if they fill no batch."""
        count = len(self._order) // self.batch_size
        place = number % count
        if place == 0 and number > 0:
            self._order = self._shuffled()
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        return tuple(tensor[chosen] for tensor in self.parts.train)

    def quality(self) -> float:
        """The figure on test data."""
        return self.judged(self.parts.test)

    def validation(self) -> float:
        """The figure on validation data."""
        return self.judged(self.parts.validation)

    def judged(self, part: Batch) -> float:
        """The figure on one part of the data."""
        inputs, target = part
        return self.score(self.outputs(inputs), target)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs of the model, as it is used after training, for all inputs."""
        with evaluating(self.model):
            return torch.cat([self.model(piece) for piece in torch.split(inputs, PIECE)])

    def batches(self) -> list[Batch]:
        """The first training inputs."""
        pieces = torch.split(self.parts.train[0], self.batch_size)
        return [(piece,) for piece in pieces[:CALIBRATION_BATCHES]]

    def _shuffled(self) -> Tensor:
        return torch.randperm(len(self.parts.train[0]), generator=self.generator)


class Classification(MinibatchLoop):
    """Cross-entropy of classes to train with, accuracy to judge by."""

    figure: ClassVar[str] = "accuracy, %"
    larger_is_better: ClassVar[bool] = True
    is_loss: ClassVar[bool] = False

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        return functional.cross_entropy(outputs, target)

    def score(self, outputs: Tensor, target: Tensor) -> float:
        """Accuracy in per cent."""
        return 100 * (outputs.argmax(dim=1) == target).double().mean().item()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generator begins at `seed` inside and is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode and needs no gradients inside, and is in its former mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def constant(_: int) -> float:
    """Factor of the learning rate that never changes."""
    return 1.0


def cosine(optimizer: Optimizer, steps: int, *, warm_up: int = 0, last: float = 0.0) -> LRScheduler:
    """A linear rise over `warm_up` steps, then a cosine down to the factor `last` at the end of all `steps`."""

    def factor(number: int) -> float:
        if number < warm_up:
            return (number + 1) / warm_up
        done = min(1.0, (number - warm_up) / (steps - warm_up))
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def constant_then_falling(optimizer: Optimizer, steps: int, *, share: float = 0.3) -> LRScheduler:
    """The same learning rate until the last `share` of the steps, over which it falls linearly to 0."""
    return LambdaLR(optimizer, lambda number: min(1.0, max(0.0, (steps - number) / (share * steps))))


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """PyTorch's cycle up to the optimiser's own learning rate; it also moves its momentum."""
    return OneCycleLR(optimizer, max_lr=optimizer.defaults["lr"], total_steps=steps + 1)
