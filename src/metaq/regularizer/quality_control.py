"""The path of the bits to as few as a figure of merit allows."""

import math
from dataclasses import dataclass

import torch
from typing_extensions import override

from metaq.compression.compressed import Goal
from metaq.errors import ConfigError
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.step_control import StepControl

FIRST_BITS_PER_WEIGHT = 5.5
"""Of the first step sizes: few models feel so little."""

MOST_BITS_PER_WEIGHT = 8.0
"""What the bits may rise to where figures still miss their bound after half the time of pressing."""

STEEPEST = 5.0
"""Greatest fall of the logarithm of the bits over the time of pressing."""

MOST_FALL = math.log(2)
"""Of the logarithm of the bits between two figures."""

SLOWEST = -0.6
"""The bits rise at most so fast, in shares of the greatest fall."""

SHARPNESS = 1.5
"""Share of the greatest fall where the room for it is as large as the distance from the first figure to the bound."""

BEND = 2.0
"""Power of the share of the time of pressing that is left: what figures may be behind the bound falls with it."""

SMOOTHING = 0.5
"""Weight of the newest figure in the running mean."""

LATEST = 0.6
"""Share of all steps by which a figure has to have been told."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A figure of quantised weights where larger is better, no more than the running mean of figures, and the bits."""

    figure: float
    steady: float
    bits: float


class QualityControl(StepControl):
    """Leads to the fewest bits at which a figure keeps to its bound.

    That is `target_value`, or `max_drop` behind the best figure told. Figures are those of the weights that the model
    holds; they are told by :meth:`observe`. While there is room between them and what is allowed, the bits fall, and
    where there is none, they rise. At first, figures may be as far behind the bound as they were ahead of it or behind
    it when pressing began, in the end not at all, as they improve once learning rates fall and weights settle. So all
    distances are relative ones, to that and to how much figures change by themselves.
    """

    def __init__(self, config: RegularizerConfig, goal: Goal, *, counts: torch.Tensor) -> None:
        super().__init__(config, counts=counts)
        self._goal = goal
        self._sign = 1.0 if goal.larger_is_better else -1.0
        self._best, self._mean, self._last, self._noise = -math.inf, math.nan, math.nan, 0.0
        self._unit = self._begun = self._path = self._lowest = self._first = math.nan
        self._speed, self._is_followed = 0.0, False

    @property
    @override
    def first_bits(self) -> float:
        return FIRST_BITS_PER_WEIGHT * self._total

    @property
    @override
    def goal(self) -> str:
        told = {name: value for name, value in self._goal.to_dict().items() if value is not None}
        return ", ".join(f"{name}={value}" for name, value in told.items())

    @override
    def presses(self, progress: float) -> bool:
        if progress >= LATEST and not self._is_followed:
            raise ConfigError(
                "regularizer: no figure was told in this training yet; call observe(value) after every evaluation, "
                "with the figure that the goal is about. A trainer has to evaluate more often, and to log the metric "
                "under the name that its callback was given."
            )
        return super().presses(progress) and self.knows_figures

    @property
    def knows_figures(self) -> bool:
        """Whether one was told."""
        return not math.isnan(self._last)

    @override
    def keeps_still(self, progress: float) -> bool:
        return False

    def keeps(self, value: float) -> bool:
        """Whether a figure keeps to the goal."""
        return self._goal.keeps(value, self._sign * self._bound)

    def observe(self, value: float, bits: float | None, progress: float) -> Told | None:
        """Take in the figure of the weights that the model holds, of so many `bits`, None where they are floats.

        What is returned of quantised weights can be compared by :meth:`rank`. NaN counts as the worst figure.
        """
        self._is_followed |= progress > 0
        figure = self._sign * value if math.isfinite(value) else -math.inf
        if math.isfinite(figure):
            self._noise += 0.0 if math.isnan(self._last) else SMOOTHING * (abs(figure - self._last) - self._noise)
            self._last = figure
            before = figure if math.isnan(self._mean) else self._mean
            self._mean = before + SMOOTHING * (figure - before)
        if bits is None:
            self._best, self._mean = max(self._best, figure), self._last
            return None
        told = Told(figure=figure, steady=min(figure, self._mean), bits=bits)
        self._best = max(self._best, told.steady)
        ahead = self._mean - self._bound
        if math.isnan(self._unit):
            self._unit = abs(ahead)
        allowance = self._unit * (1 - self._pressed_share(progress)) ** BEND
        unit = max(2 * self._noise, allowance, 1e-12 * abs(self._bound), 1e-300)
        room = (ahead + allowance) / unit if math.isfinite(figure) else -math.inf
        self._speed = max(SLOWEST, min(1.0, SHARPNESS * room))
        now = math.log(max(bits, 1.0))
        self._lowest = now - MOST_FALL
        if self._speed < 0 and not math.isnan(self._path):
            # Bits follow their path late; what has no room now shall not fall on to where it led.
            self._path = max(self._path, now)
        return told

    def is_met(self, told: Told) -> bool:
        """Whether the weights that were told of keep to the goal as it is now."""
        return told.figure >= self._bound

    def rank(self, told: Told) -> tuple[float, ...]:
        """Larger is better: what keeps to the goal, better by the running mean too, by its bits; then others."""
        is_met = self.is_met(told)
        return float(is_met), float(told.steady >= self._bound), -told.bits if is_met else told.figure

    @override
    def path(self, bits: float, progress: float, passed: float) -> float:
        if math.isnan(self._begun):
            self._begun, self._path = progress, math.log(max(bits, 1.0))
            self._first = self._path
            self._lowest = self._path - MOST_FALL
        change = self._speed * STEEPEST * passed / (1 - SETTLE - self._begun)
        highest = self._first if self._pressed_share(progress) < 0.5 else math.log(MOST_BITS_PER_WEIGHT * self._total)
        self._path = min(max(self._path - change, min(self._lowest, self._path)), max(highest, self._first))
        return self._path

    def _pressed_share(self, progress: float) -> float:
        """Share that is over of the time of pressing."""
        return min((progress - self._begun) / (1 - SETTLE - self._begun), 1.0)

    @property
    def _bound(self) -> float:
        """Least figure allowed, where larger is better."""
        return self._sign * self._goal.bound(self._sign * self._best)
