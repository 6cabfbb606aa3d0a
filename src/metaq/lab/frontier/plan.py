"""What a sweep is to do, who follows it, what it gives, and which trials no other one beats."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from metaq.compression import pipeline
from metaq.config import require
from metaq.lab import nets
from metaq.lab.train import Observer, TrainConfig

TRIALS_BEFORE_PRUNING = 4
"""Completed trials from which it is known how much accuracy a training still gains."""


class Settled(NamedTuple):
    """One epoch at whose end the weights had been settling.

    `share` is that of the training that was done, in (0, 1], `accuracy` that of its quantised weights on the validation
    images, in percent.
    """

    share: float
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
    # By trial its accuracies in settled epochs up to the present share.
    before = ([epoch.accuracy for epoch in trial.settled if epoch.share <= now.share] for trial in completed)
    gains = [trial.validation_accuracy - seen[-1] for trial, seen in zip(completed, before, strict=True) if seen]
    if not gains:
        return False
    reachable = now.accuracy + max(0.0, *gains)
    return any(trial.bytes <= goal_bytes and reachable < trial.validation_accuracy for trial in completed)


STUDY_FILE, JSON_FILE, PLOT_FILE, TRIALS_FOLDER = "study.db", "frontier.json", "frontier.png", "trials"


class SweepObserver(Observer, Protocol):
    """Whoever wants to follow a sweep."""

    def on_trial(self, number: int, trial: Trial | None) -> None:
        """After every trial; None if it was given up."""

    def on_wait(self, running: int) -> None:
        """While nothing is left to do but to wait for `running` trials of other processes; called repeatedly."""


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep is to do.

    Its trainings have `config` in common, whose seed is that of the proposals too; they are trained to sizes from
    `smallest` to `largest` bytes. The study is to have so many finished `trials`, those given up included, in the
    database at the URL `storage`, by default a file in `folder`, where the results go. One training takes about so many
    `seconds`, which set the number of epochs when the study is made; None: that of `config`. There are so many
    `workers` processes, which load the data themselves from `data_dir`.
    """

    config: TrainConfig
    trials: int
    smallest: int
    largest: int
    folder: Path
    storage: str | None = None
    seconds: float | None = None
    workers: int = 1
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        require(self.config.goal.target_bytes is not None, "sweep: its trainings need goal.target_bytes.")
        require(self.trials >= 1, f"--trials {self.trials}: give a number from 1.")
        require(self.workers >= 1, f"--workers {self.workers}: give a number from 1.")
        require(self.smallest >= 1, f"--smallest {self.smallest}: give a number of bytes from 1.")
        require(
            self.smallest <= self.largest,
            f"--smallest {self.smallest}: is above --largest {self.largest}; give the two in order.",
        )

    @property
    def identity(self) -> dict[str, object]:
        """Settings that all trials of a study share, as they come back from JSON."""
        values: dict[str, object] = json.loads(self.config.to_json())
        del values["goal"]
        if self.seconds is not None:
            del values["epochs"]
        return {**values, "time_budget_seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A trial of the frontier, chosen on the validation images; `test_accuracy` is that of its file in percent."""

    trial: Trial
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """A finished sweep: all completed trials, how many were given up, and the frontier, the smallest file first.

    `float_bytes` is the size of the network's tensors as the model holds them; every trial has so many `epochs`.
    """

    net: str
    data: str
    float_bytes: int
    epochs: int
    trials: tuple[Trial, ...]
    given_up: int
    members: tuple[Member, ...]


def float_bytes_of(net: str) -> int:
    """Bytes of the tensors of a fresh network."""
    return int(pipeline.sizes(nets.create(net).state_dict(), file_bytes=1)["float_bytes"])
