"""What is remembered of every weight's bucket while a model trains on quantised weights."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray

MEMORY = 0.02
"""Weight of the newest step in the running averages: a memory of about fifty steps."""


class BucketWatch:
    """Latent weights of tensors of one dtype and device, side by side, and the recent history of their buckets.

    Of n weights: `latent`, which the optimiser works on; `previous`, the bucket after the last step, int32; `average`
    and `flips`, running averages of the bucket and of how often it changes per step, float32; `frozen`, which no longer
    move, bool. `steps` were watched. Every tensor has a size and the number of its group.
    """

    STATE = ("latent", "previous", "average", "flips", "frozen")

    def __init__(self, tensors: Sequence[torch.Tensor], groups: list[int]) -> None:
        self.steps = 0
        self.sizes = [tensor.numel() for tensor in tensors]
        self.groups = groups
        self._shapes = [tensor.shape for tensor in tensors]
        self.latent = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        self.previous = torch.zeros_like(self.latent, dtype=torch.int32)
        self.average = torch.zeros_like(self.latent, dtype=torch.float32)
        self.flips = torch.zeros_like(self.average)
        self.frozen = torch.zeros_like(self.latent, dtype=torch.bool)

    def __getstate__(self) -> dict[str, Any]:
        # Copied beside the tensors, views of them would become tensors of their own.
        return {name: value for name, value in vars(self).items() if name not in ("tensors", "arrays")}

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        """The latent weights of every tensor in its shape; views, not copies."""
        pieces = zip(torch.split(self.latent, self.sizes), self._shapes, strict=True)
        return [piece.view(shape) for piece, shape in pieces]

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The tensors named in :attr:`STATE` as NumPy arrays of the same memory; only on a CPU."""
        return tuple(getattr(self, name).numpy() for name in self.STATE)

    def state_of_tensors(self) -> list[dict[str, torch.Tensor]]:
        """What is remembered of every tensor, by the names of :attr:`STATE`; flat views, not copies."""
        split = {name: torch.split(getattr(self, name), self.sizes) for name in self.STATE}
        return [{name: pieces[t] for name, pieces in split.items()} for t in range(len(self.sizes))]
