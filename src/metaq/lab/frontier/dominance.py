"""Which trials no other one beats in both size and accuracy, and which running ones never will be among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TRIALS_BEFORE_PRUNING = 4
"""Completed trials from which it is known how much accuracy a training still gains."""


class Settled(NamedTuple):
    """One epoch at whose end the weights had been settling.

    `share` is that of the training that was done, in (0, 1]; `bytes` the size of the file of its weights; `accuracy`
    that of its quantised weights on the validation images, in percent.
    """

    share: float
    bytes: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A completed training, numbered in the study from 0.

    Its `parameters` are the settings in which it differs from the other trials, as ``--set`` takes them. The accuracy,
    in percent, is that of the weights restored from its file. Its settled epochs are in order.
    """

    number: int
    parameters: Mapping[str, float]
    bytes: int
    validation_accuracy: float
    file: str
    settled: tuple[Settled, ...] = ()


def frontier_of(trials: Iterable[Trial]) -> list[Trial]:
    """Trials than which no other is both at most as large and at least as accurate, the smallest first.

    Of several that agree in both, the first stands for all.

    Examples
    --------
    >>> trials = [
    ...     Trial(number=number, parameters={}, bytes=size, validation_accuracy=accuracy, file="")
    ...     for number, (size, accuracy) in enumerate([(900, 98.0), (500, 97.0), (700, 96.5), (900, 98.5)])
    ... ]
    >>> [trial.number for trial in frontier_of(trials)]
    [1, 3]
    """
    members: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.bytes, -trial.validation_accuracy, trial.number)):
        if not members or trial.validation_accuracy > members[-1].validation_accuracy:
            members.append(trial)
    return members


def is_hopeless(now: Settled, *, goal_bytes: int, completed: Sequence[Trial]) -> bool:
    """Whether a running trial will be beaten even if it gains as much as any completed one did from here on.

    `now` is its newest settled epoch, and all trials have the same number of epochs. False while there are fewer than
    ``TRIALS_BEFORE_PRUNING``.
    """
    if len(completed) < TRIALS_BEFORE_PRUNING:
        return False
    gains = [gain for gain in (_gain_from(trial, now.share) for trial in completed) if gain is not None]
    if not gains:
        return False
    reachable = now.accuracy + max(0.0, *gains)
    return any(trial.bytes <= goal_bytes and reachable < trial.validation_accuracy for trial in completed)


def _gain_from(trial: Trial, share: float) -> float | None:
    """Accuracy that `trial` gained between its last settled epoch up to `share` and its end; None without such."""
    before = [epoch.accuracy for epoch in trial.settled if epoch.share <= share]
    return trial.validation_accuracy - before[-1] if before else None
