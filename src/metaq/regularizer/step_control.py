"""Step sizes and λ that lead a training to where its goal wants it.

At high rates a bit less costs ``ln2 · h Δ² / 12`` of loss a weight, where h is the curvature of the loss and Δ the step
size (METHOD, section 5): Δ and λ are one number, and tensors share out the bits best where h Δ² is the same for all.
So the step sizes are in proportion to one over the root of the mean squared gradient, which stands for h; one factor
for all of them keeps the bits on a path, which the kind of goal decides on; and λ is what the loss pays for a bit at
these step sizes, as the gradients at the quantised weights tell: they rise against the errors of quantisation,
``E[g ε] = h Δ² / 12``.

Where nearly all weights are to be zero this is no rule: those that remain are few and large, and a long training finds
better ones if step sizes stay near the root mean square of the weights and λ keeps the bits on their path. So it is
with ``led_by="strength"``.
"""

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from typing_extensions import override

from metaq.config import require
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.schedule import Schedule

BUCKETS = 1023
"""Of every grid: fine steps have room."""

REFRESHES = 200
"""In any training, or one every step."""

MEMORY = 0.1
"""Share of a training over which gradients are averaged."""

SHARING = 20.0
"""How fast step sizes come to their proportions: the share of what is missing per share of the training."""

GAIN, LARGEST_CHANGE = 0.75, 0.1
"""Share of an error of the bits that one refresh makes good, and most that it changes the logarithm of a step size."""

STILL = 0.25
"""Last share of settling in which step sizes change no more."""

MARGIN = 2.0
"""λ over what the loss pays for a bit by the rule for high rates; zones around zero are wider at low ones."""

LEAST_PULL, MOST_PULL = 0.003, 0.2
"""Bounds of λ: pull of three bits a step size over the root mean square of the gradients."""

RELIEF = 8.0
"""Power of the bits over those of the path with which λ falls where there are too few of them."""

PROPORTIONAL, INTEGRAL = 3.0, 75.0
"""Where λ leads: logarithm of λ gained at once when that of the bits leaves its path by a unit, and over a training."""

LARGEST_ERROR, LARGEST_GAIN = 0.5, 0.3
"""Of the logarithm of the bits, and of that of λ per refresh."""

MOST_LED_PULL = 50.0
"""Where λ leads, what is the greater bound of it elsewhere: stronger pulls leave no weight."""

LEAST_FILL, LEAST_SETTLED = 0.985, 0.93
"""Share of what the weights' bytes may be below which step sizes change after training, the second where weights have
settled: other steps do more harm to these than a few bytes are worth."""

MOST_USED = 0.9
"""Share of the buckets on either side that weights may reach."""

FIXED = ("_config", "_counts", "_goal")
"""What a state does not hold."""


class StepControl(Schedule):
    """What the regulariser asks at every refresh when there is a goal; subclasses say how many bits there shall be.

    `counts` has the weights of each of the G groups, float64 of shape (G,) on the CPU.
    """

    def __init__(self, config: RegularizerConfig, *, counts: torch.Tensor) -> None:
        super().__init__(config)
        self._counts = counts
        self._squares = torch.full_like(counts, torch.nan)
        self._seen = self._harm = self._force = math.nan
        self._strength, self._relief = 0.0, 1.0
        self._pressure, self._error = 0.0, math.nan

    @property
    def _total(self) -> float:
        """Number of weights."""
        return float(self._counts.sum())

    @property
    @abc.abstractmethod
    def first_bits(self) -> float:
        """Bits that the first step sizes are chosen for."""

    @property
    @abc.abstractmethod
    def goal(self) -> str:
        """What is to be reached, in words; a state is of the same goal only."""

    @abc.abstractmethod
    def path(self, bits: float, progress: float, passed: float) -> float:
        """Logarithm of the bits that there shall be at `progress`, where there are `bits`; `passed` since the last."""

    @property
    def strength_leads(self) -> bool:
        """Whether λ keeps the bits on their path, and not the step sizes."""
        return self._config.led_by == "strength"

    def keeps_still(self, progress: float) -> bool:
        """Whether step sizes change no more."""
        return progress >= 1 - STILL * SETTLE

    def least_fill(self, progress: float) -> float:
        """Share of what the weights' bytes may be below which step sizes have to change after training."""
        if self.strength_leads:
            return 0.0
        return LEAST_SETTLED if self.keeps_still(progress) else LEAST_FILL

    def presses(self, progress: float) -> bool:
        """Whether the weights are to be pressed now."""
        return progress >= self._config.warmup

    @override
    def strength(self, progress: float) -> float:
        share = self.settled(progress)
        decay = 1.0 if share is None else self._config.decay_end**share
        return self._strength * math.exp(self._pressure) * self._relief * decay

    @override
    def settled(self, progress: float) -> float | None:
        start = 1 - SETTLE
        return None if progress < start else min((progress - start) / SETTLE, 1.0)

    def watch(self, squares: torch.Tensor, progress: float) -> None:
        """Take in sums of squared gradients, float64 of shape (G,) on the CPU; those not finite count for nothing."""
        means = squares / self._counts
        known = torch.isfinite(means) & (means > 0)
        mixed = torch.where(self._squares.isnan(), means, self._squares.lerp(means, self._newness(progress)))
        self._squares = torch.where(known, mixed, self._squares)

    def weigh(self, harm: float, step_sizes: torch.Tensor, progress: float) -> None:
        """Set λ by the sum of gradients times errors of quantisation over all weights; `step_sizes` of shape (G,)."""
        total, new = self._total, self._newness(progress)
        force = float((self._squares.nan_to_num().sqrt() * step_sizes * self._counts).sum()) / total
        if math.isfinite(harm):
            self._harm = _mixed(self._harm, harm / total, new)
        self._force = _mixed(self._force, force, new)
        unit = self._force / 3
        price = MARGIN * math.log(2) * (0.0 if math.isnan(self._harm) else self._harm)
        self._strength = min(max(price, LEAST_PULL * unit), MOST_PULL * unit)

    def mean_squares(self) -> list[float]:
        """Of the gradients of every group; the mean of the others' where none was seen, 1 where none was at all."""
        known = self._squares[~self._squares.isnan()]
        usual = float(known.mean()) if len(known) else 1.0
        return [float(square) for square in self._squares.nan_to_num(nan=usual)]

    def first_factors(
        self, step_sizes: torch.Tensor, largest: torch.Tensor, bits_at: Callable[[torch.Tensor], float]
    ) -> torch.Tensor:
        """What to multiply `step_sizes`, the root mean squares of the groups, with: float64 of shape (G,).

        `largest` are the largest magnitudes of the groups; `bits_at` gives the entropy in bits at factors.
        """
        if self.strength_leads:
            return torch.ones_like(step_sizes)
        least = largest / (MOST_USED * BUCKETS / 2 * step_sizes)
        proportions = torch.exp(self._missing(step_sizes))
        wanted = self.first_bits
        low, high = math.log(1e-4), 0.0
        for _ in range(0 if bits_at(torch.maximum(proportions, least)) >= wanted else 20):
            middle = (low + high) / 2
            is_enough = bits_at(torch.maximum(math.exp(middle) * proportions, least)) >= wanted
            low, high = (middle, high) if is_enough else (low, middle)
        return torch.maximum(math.exp(high) * proportions, least)

    def factors(self, bits: float, progress: float, step_sizes: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
        """By what step sizes change at a refresh, float64 of shape (G,): towards the path, and to their proportions.

        `bits` are those of the present indices, `reached` of shape (G,) the largest distance of a weight from the
        centre, in steps: those beyond the grid are brought back into it.
        """
        return torch.maximum(self._wanted(bits, progress, step_sizes, reached), reached / (BUCKETS // 2))

    def _wanted(self, bits: float, progress: float, step_sizes: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
        now, total = math.log(max(bits, 1.0)), self._total
        # A training that was made longer has gone back.
        passed = 0.0 if math.isnan(self._seen) else max(progress - self._seen, 0.0)
        self._seen = progress
        if self.keeps_still(progress) and not self.strength_leads:
            return torch.ones_like(step_sizes)
        path = self.path(bits, progress, passed)
        if self.strength_leads:
            self._press(now - path, passed)
        self._relief = min(math.exp(RELIEF * (now - path)), 1.0)
        if self.strength_leads:
            return torch.ones_like(step_sizes)
        # How the logarithm of the bits falls with that of the step size, for weights as trainings leave them.
        slope = 1 / (math.log(2) * (math.exp(path) / total + 0.3))
        change = max(-LARGEST_CHANGE, min(LARGEST_CHANGE, GAIN * (now - path) / slope))
        shares = (min(SHARING * passed, 1.0) * self._missing(step_sizes)).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
        is_full = reached > MOST_USED * BUCKETS / 2
        return torch.exp(torch.where(is_full, (change + shares).clamp(min=0.0), change + shares))

    def _press(self, error: float, passed: float) -> None:
        """Let λ make good an `error` of the logarithm of the bits, `passed` of the training after the last."""
        error = max(-LARGEST_ERROR, min(LARGEST_ERROR, error))
        gain = INTEGRAL * error * passed
        gain += 0.0 if math.isnan(self._error) else PROPORTIONAL * (error - self._error)
        self._error = error
        pressure = self._pressure + max(-LARGEST_GAIN, min(LARGEST_GAIN, gain))
        if self._strength > 0:
            pressure = min(pressure, math.log(MOST_LED_PULL * self._force / 3 / self._strength))
        self._pressure = max(0.0, pressure)

    @override
    def state_dict(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in FIXED}
        return {**kept, "_squares": self._squares.clone(), "goal": self.goal}

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        state = dict(state_dict)
        saved = state.pop("goal", "no goal")
        require(
            saved == self.goal,
            f"regularizer state: of a training to {saved}, and this one is to {self.goal}; give the same goal to "
            "resume.",
        )
        super().load_state_dict({**state, "_squares": state["_squares"].clone()})

    def _newness(self, progress: float) -> float:
        """Weight of what is new in a running average."""
        passed = 1 / REFRESHES if math.isnan(self._seen) else progress - self._seen
        return min(max(passed / MEMORY, 1e-3), 1.0)

    def _missing(self, step_sizes: torch.Tensor) -> torch.Tensor:
        """Logarithms of the factors by which step sizes come to their proportions, with a mean of 0 over the weights.

        Groups without a gradient keep their own.
        """
        missing = -0.5 * self._squares.log() - step_sizes.log()
        known = torch.isfinite(missing)
        if not bool(known.any()):
            return torch.zeros_like(missing)
        mean = float((missing * self._counts)[known].sum() / self._counts[known].sum())
        return torch.where(known, missing - mean, 0.0)


def _mixed(before: float, new: float, weight: float) -> float:
    return new if math.isnan(before) else before + weight * (new - before)
