"""What a sweep is to do, who follows it, and what it gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from metaq.compression import pipeline
from metaq.config import require
from metaq.lab import nets
from metaq.lab.frontier.dominance import Trial
from metaq.lab.train import Observer, TrainConfig

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
        require(self.config.regularizer.plan is not None, "sweep: its trainings need regularizer.plan.")
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
