"""The path of the bits to a file of a given size."""

import math

import torch
from typing_extensions import override

from metaq.errors import GoalError
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.step_control import StepControl

FALL, RISEN = 0.6, 0.85
"""Shares of the time between warm-up and settling: the bits fall, somewhat below the goal, and have risen to it."""

UNDERSHOOT, UNDERSHOOT_BITS = 0.1, 0.1
"""How far below: the lesser of a share of the goal and of bits a weight."""

AIM = 0.995
"""Bits to reach over those of the goal: weights that fit as training leaves them are better than any chosen later."""

EXCESS_BITS = 0.3
"""Bits a weight above the goal that the first step sizes are chosen for."""

MOST_BITS_PER_WEIGHT = 8.0
"""Of a goal, beside what is fixed."""

MOST_LED_BITS = 1.0
"""Bits a weight of the goal up to which λ may lead; step sizes of the root mean square start at about two."""

ASKING = (0.4, 0.85, 1.0, 1.06)
"""Shares of the time between warm-up and settling at which the coder is asked what share of the entropy it takes."""


class SizeControl(StepControl):
    """Leads to a file of at most `limit_bytes`.

    `fixed_bytes` are those of a file whose weights are all zero, `fixed_estimate` bits what is estimated of it.
    """

    def __init__(
        self,
        config: RegularizerConfig,
        *,
        limit_bytes: int,
        fixed_bytes: int,
        fixed_estimate: float,
        counts: torch.Tensor,
    ) -> None:
        super().__init__(config, counts=counts)
        if limit_bytes <= fixed_bytes:
            raise GoalError(
                f"goal: {limit_bytes:,} bytes cannot be reached; with every weight at zero the file takes "
                f"{fixed_bytes:,} bytes, for names, and for tensors that are kept exactly."
            )
        if 8 * (limit_bytes - fixed_bytes) > MOST_BITS_PER_WEIGHT * float(counts.sum()):
            raise GoalError(
                f"goal: {limit_bytes:,} bytes leave more than {MOST_BITS_PER_WEIGHT:.0f} bits for each of "
                f"{int(counts.sum()):,} weights; metaq.compress reaches that without training."
            )
        self.limit_bytes, self.fixed_bytes, self.fixed_estimate = limit_bytes, fixed_bytes, fixed_estimate
        self._first = math.nan
        self._coded_share = 1.0
        self._asked = 0

    @property
    @override
    def first_bits(self) -> float:
        return 8 * (self.limit_bytes - self.fixed_bytes) + EXCESS_BITS * self._total

    @property
    @override
    def strength_leads(self) -> bool:
        bits = 8 * (self.limit_bytes - self.fixed_bytes)
        return super().strength_leads and bits < MOST_LED_BITS * self._total

    @property
    @override
    def goal(self) -> str:
        return f"{self.limit_bytes:,} bytes"

    @override
    def path(self, bits: float, progress: float, passed: float) -> float:
        self._first = math.log(max(bits, 1.0)) if math.isnan(self._first) else self._first
        goal = AIM * 8 * (self.limit_bytes - self.fixed_bytes) / self._coded_share
        lowest = math.log(max((1 - UNDERSHOOT) * goal, goal - UNDERSHOOT_BITS * self._total))
        share = min(self._pressed(progress), 1.0)
        if share >= FALL:
            return lowest + (math.log(goal) - lowest) * min((share - FALL) / (RISEN - FALL), 1.0)
        return lowest + (self._first - lowest) * (1 - share / FALL) ** 2

    def asks(self, progress: float) -> bool:
        """Whether it is time to tell what the coder makes of the weights."""
        return self._asked < self._due(progress)

    def tell(self, coded_bits: float, bits: float, progress: float) -> None:
        """Take in what weights take in a file whose indices have so many bits of entropy."""
        self._asked, self._coded_share = self._due(progress), max(coded_bits, 8.0) / max(bits, 1.0)

    def _due(self, progress: float) -> int:
        """How often the size was to be told by now."""
        return sum(self._pressed(progress) >= time for time in ASKING)

    def _pressed(self, progress: float) -> float:
        """Share that is over of the time between warm-up and settling."""
        return (progress - self._config.warmup) / max(1 - SETTLE - self._config.warmup, 1e-9)
