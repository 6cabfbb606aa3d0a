"""How strength, freezing and learning rates of step sizes change over a training."""

import abc
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from metaq.regularizer.config import RegularizerConfig

ROUNDING = 1e-9
"""By which the share at the last step may be beyond 1."""


class Schedule(abc.ABC):
    """What the regulariser and a training loop ask at every step; `progress` is the share of all steps done."""

    def __init__(self, config: RegularizerConfig) -> None:
        self._config = config

    @abc.abstractmethod
    def strength(self, progress: float) -> float:
        """λ, once the warm-up is over."""

    @abc.abstractmethod
    def settled(self, progress: float) -> float | None:
        """Share of the time of freezing that is over; None before it."""

    def freeze_threshold(self, progress: float) -> float | None:
        """Flips per step above which a weight is frozen, geometric from first to last; None where nothing is frozen.

        A training that goes on beyond its end is to train on.
        """
        freeze, share = self._config.freeze, self.settled(progress)
        if share is None or progress > 1 + ROUNDING:
            return None
        return float(freeze.first_threshold * (freeze.last_threshold / freeze.first_threshold) ** share)

    def step_learning_rate(self, progress: float) -> float:
        """Learning rate of the logarithm of a step size: falls linearly to a tenth once freezing sets in."""
        return self._config.step_learning_rate * (1 - 0.9 * (self.settled(progress) or 0.0))

    def state_dict(self) -> dict[str, Any]:
        """Numbers that :meth:`load_state_dict` takes over."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        vars(self).update(state_dict)


class FixedSchedule(Schedule):
    """λ by plan: a geometric ramp up, then a geometric decay; freezing from a share of all steps on."""

    @override
    def strength(self, progress: float) -> float:
        config, strongest = self._config, self._config.strength or 0.0
        ramp_end = config.warmup + config.ramp
        if progress < ramp_end:
            return float(strongest * config.ramp_start ** ((ramp_end - progress) / config.ramp))
        if ramp_end == 1:
            return strongest
        return float(strongest * config.decay_end ** ((min(progress, 1.0) - ramp_end) / (1 - ramp_end)))

    @override
    def settled(self, progress: float) -> float | None:
        start = self._config.freeze.start
        return None if start >= 1 or progress < start else min((progress - start) / (1 - start), 1.0)
