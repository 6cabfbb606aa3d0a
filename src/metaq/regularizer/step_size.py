"""Learning the step sizes of grids from the loss (after Esser et al., "Learned step size quantization", ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metaq.entropy.passes import GroupArray

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99

LARGEST_GRADIENT = 1e150
"""Its square is within the range of float64."""


class StepLearner:
    """Adam on the logarithms of the step sizes of G groups.

    The logarithm keeps a step size positive and makes the learning rate a relative one, whatever the scale of the
    tensor. Everything is on the device of the gradients.
    """

    def __init__(self, group_count: int, device: torch.device | None = None) -> None:
        self.steps, self.first, self.second = (_zeros(group_count, device) for _ in range(3))

    def factors(self, gradients: GroupArray, learning_rate: float, chosen: GroupArray) -> GroupArray:
        """What to multiply the step sizes with, of shape (G,); 1 where no gradient is finite and has been other than 0.

        Parameters
        ----------
        gradients
            Those of the loss by the logarithms, of shape (G,). One that is not finite counts for nothing.
        learning_rate
            Of the logarithms.
        chosen
            Groups whose step this is, bool of shape (G,); nothing changes for the others.
        """
        library: Any = torch if isinstance(gradients, torch.Tensor) else np
        usable = chosen & (abs(gradients) < LARGEST_GRADIENT)
        known = library.where(usable, gradients, 0.0)
        self.steps = self.steps + usable
        self.first = library.where(usable, FIRST_DECAY * self.first + (1 - FIRST_DECAY) * known, self.first)
        second = SECOND_DECAY * self.second + (1 - SECOND_DECAY) * known**2
        self.second = library.where(usable, second, self.second)
        moves = usable & (self.second > 0)
        mean = self.first / library.where(moves, 1 - FIRST_DECAY**self.steps, 1.0)
        mean_square = self.second / library.where(moves, 1 - SECOND_DECAY**self.steps, 1.0)
        steps = library.where(moves, learning_rate * mean / library.sqrt(library.where(moves, mean_square, 1.0)), 0.0)
        factors: GroupArray = library.exp(-steps)
        return factors

    def state_dict(self) -> dict[str, Any]:
        """Everything :meth:`load_state_dict` needs."""
        return {name: torch.as_tensor(getattr(self, name)).clone() for name in _STATE}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name in _STATE:
            setattr(self, name, _like(getattr(self, name), state_dict[name]))


_STATE = ("steps", "first", "second")


def _zeros(count: int, device: torch.device | None) -> GroupArray:
    return np.zeros(count) if device is None else torch.zeros(count, dtype=torch.float64, device=device)


def _like(array: GroupArray, values: torch.Tensor) -> GroupArray:
    """`values` where `array` is."""
    if isinstance(array, torch.Tensor):
        return values.to(array.device, copy=True)
    return values.cpu().numpy().copy()
