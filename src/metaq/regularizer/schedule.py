"""How strength, freezing and learning rates change over a training: by plan, or by what a number of bits asks for."""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from metaq.regularizer.config import PlanConfig, RegularizerConfig

FIRST_STRENGTH = 0.05
"""λ that a training to a size begins with, times the number of weights."""

PROPORTIONAL = 3.0
"""Logarithm of λ gained at once when the bits leave their path upwards by a unit of their logarithm."""

INTEGRAL = 57.0
"""What is gained over the whole time of pressing while the bits are off their path by that."""

LARGEST_ERROR, LARGEST_CHANGE = 0.5, 0.3
"""Of the logarithm of the bits, and of that of λ per refresh."""


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
        """Flips per step above which a weight is frozen, geometric from first to last; None where nothing is frozen."""
        freeze, share = self._config.freeze, self.settled(progress)
        if share is None:
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


def schedule_of(config: RegularizerConfig, *, weights: int) -> Schedule:
    """The schedule of a configuration, for a model of `weights` weights."""
    return FixedSchedule(config) if config.plan is None else PlannedSchedule(config, config.plan, weights=weights)


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


@dataclass(frozen=True)
class Phase:
    """Where a planned training stands, and what share of that phase is done, in [0, 1].

    After the warm-up, while pressing, bits follow their path down, or are held; then oscillating weights are frozen.
    """

    kind: Literal["warmup", "press", "settle"]
    share: float


def phase_at(plan: PlanConfig, warmup: float, progress: float) -> Phase:
    """The phase at a share of all steps."""
    settle_start = warmup + plan.press
    if progress < warmup:
        return Phase("warmup", progress / warmup)
    if progress < settle_start:
        return Phase("press", (progress - warmup) / plan.press)
    return Phase("settle", min((progress - settle_start) / plan.settle, 1.0))


class PlannedSchedule(Schedule):
    """λ driven so that the bits follow a path: down to a goal, held there, and settled.

    λ is the multiplier of the constraint on the bits, found by ascent: it grows while there are too many of them and
    falls while there are too few (a proportional and an integral part on logarithms, so that nothing depends on the
    scale of the loss or the size of the network). As weights settle it decays, but while the bits exceed a goal
    that was given it goes on being driven.

    `goal` is the bits to reach, None until known; it may be changed at any time. Where there is none, the path falls
    at `speed` times the plan's greatest rate, from -1 to 1.
    """

    def __init__(self, config: RegularizerConfig, plan: PlanConfig, *, weights: int) -> None:
        super().__init__(config)
        self._plan = plan
        self.goal = config.target_bits
        self.speed = 1.0
        self._log_strength = math.log(FIRST_STRENGTH / weights)
        self._path = math.nan
        self._first = math.nan
        self._error = math.nan
        self._seen = 0.0
        self._settles_from = math.nan
        self._goal_is_given = True
        self._lift = 0.0

    def phase(self, progress: float) -> Phase:
        """Where the training stands."""
        return phase_at(self._plan, self._config.warmup, progress)

    def rises_at(self, progress: float) -> bool:
        """Whether the bits have fallen as far as they shall."""
        phase = self.phase(progress)
        return phase.kind == "settle" or (phase.kind == "press" and phase.share >= self._plan.fall)

    def set_lowest(self, bits: float) -> None:
        """Take `bits` for the lowest point of the path, which sets a goal that may be exceeded."""
        self.goal = bits / self._plan.undershoot
        self._goal_is_given = False

    def speed_of(self, fall: float, passed: float) -> float:
        """Speed at which the logarithm of the bits falls by `fall` in a share `passed` of all steps; at most 1."""
        return min(1.0, fall / (self._steepest * passed))

    def observe(self, bits: float, progress: float) -> None:
        """At a refresh, with `bits` of entropy, move the path on, and λ by how far they are off it."""
        phase, now = self.phase(progress), math.log(max(bits, 1.0))
        if math.isnan(self._path):
            self._path = self._first = now
            self._seen = progress
        passed, self._seen = progress - self._seen, progress
        self._advance(phase, passed)
        if phase.kind == "settle" and math.isnan(self._settles_from):
            self._settles_from = self._log_strength
        error = max(-LARGEST_ERROR, min(LARGEST_ERROR, now - self._path))
        change = INTEGRAL / self._plan.press * error * passed
        change += 0.0 if math.isnan(self._error) else PROPORTIONAL * (error - self._error)
        self._error = error
        self._log_strength += max(-LARGEST_CHANGE, min(LARGEST_CHANGE, change))
        if not math.isnan(self._settles_from):
            self._log_strength = self._bounded(self._log_strength, phase, is_exceeded=error > 0)

    @override
    def strength(self, progress: float) -> float:
        return math.exp(self._log_strength)

    @override
    def settled(self, progress: float) -> float | None:
        phase = self.phase(progress)
        return phase.share if phase.kind == "settle" else None

    def learning_rate_share(self, progress: float) -> float:
        """Learning rate of the weights over its value while the bits fall."""
        phase, plan = self.phase(progress), self._plan
        decayed = plan.last_speed + (1 - plan.last_speed) * (1 + math.cos(math.pi * phase.share)) / 2
        if phase.kind == "warmup":
            return decayed
        if phase.kind == "press":
            return 1 + (plan.quiet_speed - 1) * max(0.0, phase.share - plan.fall) / (1 - plan.fall)
        return plan.quiet_speed * decayed

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_config", "_plan")}

    @property
    def _steepest(self) -> float:
        """Greatest fall of the logarithm of the bits over all steps."""
        return math.log(self._plan.deepest) / self._plan.press

    def _bounded(self, log_strength: float, phase: Phase, *, is_exceeded: bool) -> float:
        """At most a decay from the strength at which weights began to settle, lifted where a given goal is exceeded."""
        relative, decayed = log_strength - self._settles_from, math.log(self._plan.decay_end) * phase.share
        if is_exceeded and self._goal_is_given:
            self._lift = max(self._lift, relative - decayed)
        return self._settles_from + min(relative, decayed + self._lift)

    def _advance(self, phase: Phase, passed: float) -> None:
        """Move the path of the logarithm of the bits on by `passed` of all steps."""
        if self.goal is None:
            self._path -= self.speed * self._steepest * passed
            return
        goal, plan = math.log(self.goal), self._plan
        lowest = goal + math.log(plan.undershoot)
        if phase.kind != "press":
            self._path = goal
        elif phase.share >= plan.fall:
            self._path = lowest + (goal - lowest) * (phase.share - plan.fall) / (1 - plan.fall)
        else:
            self._path = lowest + (self._first - lowest) * (1 - phase.share / plan.fall) ** 2
