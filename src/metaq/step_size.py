"""Learning the step sizes of grids from the loss (after Esser et al., "Learned step size quantization", ICLR 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.compiled import compiled

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99


class StepLearner:
    """Adam on the logarithms of the step sizes of G groups.

    The logarithm keeps a step size positive and makes the learning rate a relative one, whatever the scale of the
    tensor.
    """

    def __init__(self, group_count: int) -> None:
        self.steps = 0
        self.first = np.zeros(group_count)
        self.second = np.zeros(group_count)

    def factors(self, gradients: NDArray[np.float64], learning_rate: float) -> NDArray[np.float64]:
        """What to multiply the step sizes with, of shape (G,); 1 where there has been no gradient.

        `gradients`, of shape (G,), are those of the loss by the logarithms.
        """
        self.steps += 1
        first_share, second_share = 1 - FIRST_DECAY**self.steps, 1 - SECOND_DECAY**self.steps
        return _adam(self.first, self.second, gradients, learning_rate, first_share, second_share)

    def state_dict(self) -> dict[str, Any]:
        """Everything :meth:`load_state_dict` needs."""
        return {"steps": self.steps, "first": torch.tensor(self.first), "second": torch.tensor(self.second)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.steps = int(state_dict["steps"])
        self.first[:] = state_dict["first"].cpu().numpy()
        self.second[:] = state_dict["second"].cpu().numpy()


@compiled
def _adam(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    gradients: NDArray[np.float64],
    learning_rate: float,
    first_share: float,
    second_share: float,
) -> NDArray[np.float64]:
    factors = np.ones(first.size)
    for group in range(first.size):
        first[group] = FIRST_DECAY * first[group] + (1 - FIRST_DECAY) * gradients[group]
        second[group] = SECOND_DECAY * second[group] + (1 - SECOND_DECAY) * gradients[group] ** 2
        if 0 < second[group] < np.inf:
            mean = first[group] / first_share
            factors[group] = math.exp(-learning_rate * mean / math.sqrt(second[group] / second_share))
    return factors
