"""Learning the step size of a grid from the loss (after Esser et al., "Learned step size quantization", ICLR 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99


class StepLearner:
    """Adam on one number: the logarithm of a step size.

    The logarithm keeps the step size positive and makes the learning rate a relative one, whatever the scale of the
    tensor.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.first = 0.0
        self.second = 0.0

    def factor(self, gradient: float, learning_rate: float) -> float:
        """What to multiply the step size with, given the loss gradient of its logarithm; 1 for a gradient of zero."""
        self.steps += 1
        self.first = FIRST_DECAY * self.first + (1 - FIRST_DECAY) * gradient
        self.second = SECOND_DECAY * self.second + (1 - SECOND_DECAY) * gradient**2
        if self.second == 0 or not math.isfinite(self.second):
            return 1.0
        mean = self.first / (1 - FIRST_DECAY**self.steps)
        scale = math.sqrt(self.second / (1 - SECOND_DECAY**self.steps))
        return math.exp(-learning_rate * mean / scale)

    def state_dict(self) -> dict[str, float | int]:
        """Everything :meth:`load_state_dict` needs."""
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state_dict: Mapping[str, float | int]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.steps = int(state_dict["steps"])
        self.first, self.second = float(state_dict["first"]), float(state_dict["second"])
