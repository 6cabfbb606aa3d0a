"""Learning the step sizes of grids from the loss (after Esser et al., "Learned step size quantization", ICLR 2020)."""

from collections.abc import Mapping
from typing import Any

import torch

from metaq.entropy.passes.grids import CPU

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99

LARGEST_GRADIENT = 1e150
"""Its square is within the range of float64."""


class StepLearner:
    """Adam on the logarithms of the step sizes of G groups.

    The logarithm keeps a step size positive and makes the learning rate a relative one, whatever the scale of the
    tensor. As the weights are scaled with their grid, this is training too, and where weights are to move little, as in
    fine-tuning, so are scales: see :meth:`bounded`. Everything is on the device of the gradients.
    """

    def __init__(self, group_count: int, device: torch.device = CPU) -> None:
        self.steps, self.first, self.second, self.moved = (
            torch.zeros(group_count, dtype=torch.float64, device=device) for _ in range(4)
        )

    def see(self, moved: torch.Tensor, held: torch.Tensor) -> None:
        """Take in the squared lengths of what an optimiser added to the weights of each group, and of these: (G,).

        A step that moved none of them tells nothing.
        """
        told = (moved > 0) & (held > 0) & moved.isfinite()
        self.moved = torch.where(told, (moved / torch.where(told, held, 1.0)).sqrt(), self.moved)

    def bounded(self, learning_rate: float) -> torch.Tensor:
        """The learning rate of every group, float64 (G,): no more than how far its optimiser moves it, relative to its
        length; 0 until a step of that was seen.
        """
        return self.moved.clamp(max=learning_rate)

    def factors(
        self, gradients: torch.Tensor, learning_rate: torch.Tensor | float, chosen: torch.Tensor
    ) -> torch.Tensor:
        """What to multiply the step sizes with, of shape (G,); 1 where no gradient is finite and has been other than 0.

        `gradients` are those of the loss by the logarithms, of shape (G,); those that are not finite count for nothing.
        The learning rate may be one for each, too.
        Nothing changes for groups that are not `chosen`, bool of shape (G,).
        """
        usable = chosen & (gradients.abs() < LARGEST_GRADIENT)
        known = torch.where(usable, gradients, 0.0)
        self.steps = self.steps + usable
        self.first = torch.where(usable, FIRST_DECAY * self.first + (1 - FIRST_DECAY) * known, self.first)
        self.second = torch.where(usable, SECOND_DECAY * self.second + (1 - SECOND_DECAY) * known**2, self.second)
        moves = usable & (self.second > 0)
        mean = self.first / (1 - FIRST_DECAY**self.steps)
        mean_square = self.second / (1 - SECOND_DECAY**self.steps)
        return torch.where(moves, learning_rate * mean / mean_square.sqrt(), 0.0).neg().exp()

    def state_dict(self) -> dict[str, Any]:
        """Everything :meth:`load_state_dict` needs."""
        return {name: tensor.clone() for name, tensor in vars(self).items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, tensor in vars(self).items():
            setattr(self, name, state_dict[name].to(tensor.device, copy=True))
