"""Freezing weights that keep flipping between two buckets.

Under a straight-through gradient a weight comes to sit on the edge between two buckets and flips at every step,
whatever the learning rate. Fixing it at the bucket it averages to lets all other weights adapt (Nagel et al.,
"Overcoming oscillations in quantization-aware training", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from metaq.cells import bucket_indices, bucket_values
from metaq.grid import BucketGrid

MEMORY = 0.02
"""Weight of the newest step in the running averages: a memory of about fifty steps."""

SETTLE_EVERY = 25
"""Steps between two searches for oscillating weights."""


class OscillationFreezer:
    """Watches the bucket indices of one tensor and freezes those that flip too often.

    Parameters
    ----------
    indices
        Bucket indices at the start, int64, shape of the tensor.
    """

    def __init__(self, indices: torch.Tensor) -> None:
        self.steps = 0
        self.previous = indices
        self.average = indices.to(torch.float32)
        self.flips = torch.zeros_like(self.average)
        self.frozen = torch.zeros_like(indices, dtype=torch.bool)

    def step(self, latent: torch.Tensor, updated: torch.Tensor, grid: BucketGrid, *, threshold: float) -> torch.Tensor:
        """Take over one update of the weights and return the bucket indices they now have.

        Parameters
        ----------
        latent
            Weights before the update; overwritten with those after it, frozen ones left as they are.
        updated
            Weights the optimiser made of them.
        grid
            The buckets.
        threshold
            Flips per step above which a weight is frozen from now on, at the bucket it averages to.

        Returns
        -------
        int64 of the shape of `latent`
        """
        latent.copy_(torch.where(self.frozen, latent, updated))
        indices = bucket_indices(latent, grid)
        self.flips.lerp_((indices != self.previous).to(torch.float32), MEMORY)
        self.average.lerp_(indices.to(torch.float32), MEMORY)
        self.steps += 1
        if self.steps % SETTLE_EVERY == 0:
            oscillating = (self.flips > threshold) & ~self.frozen
            indices = torch.where(oscillating, self.average.round().long(), indices)
            latent.copy_(torch.where(oscillating, bucket_values(indices, grid).to(latent.dtype), latent))
            self.frozen |= oscillating
        self.previous = indices
        return indices

    def count(self) -> int:
        """Number of frozen weights."""
        return int(self.frozen.sum())

    def state_dict(self) -> dict[str, torch.Tensor | int]:
        """Everything :meth:`load_state_dict` needs."""
        return {
            "steps": self.steps,
            "previous": self.previous,
            "average": self.average,
            "flips": self.flips,
            "frozen": self.frozen,
        }

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor | int]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.steps = int(state_dict["steps"])
        for name in ("previous", "average", "flips", "frozen"):
            tensor = state_dict[name]
            if isinstance(tensor, torch.Tensor):
                setattr(self, name, tensor.clone().to(self.previous.device))
