"""Latent weights: those the optimiser works on while the model holds quantised ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from metaq import passes
from metaq.cells import bucket_indices
from metaq.passes import BucketWatch, GridSet

SETTLE_EVERY = 25
"""Steps between two searches for oscillating weights."""


class LatentWeights:
    """Copies of parameters and the histories of their buckets.

    Parameters
    ----------
    parameters
        Tensors that take part.
    groups
        Number of the group of each.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], groups: Sequence[int]) -> None:
        together: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for position, parameter in enumerate(parameters):
            together.setdefault((parameter.device, parameter.dtype), []).append(position)
        self._alike = [
            _Alike([parameters[t] for t in positions], positions, [groups[t] for t in positions])
            for positions in together.values()
        ]

    def begin(self, grids: GridSet) -> None:
        """Take the buckets the weights are in for those they have always been in."""
        for alike in self._alike:
            pairs = zip(alike.latent, alike.watch.groups, strict=True)
            alike.watch.begin(torch.cat([bucket_indices(latent, grids[g]).reshape(-1) for latent, g in pairs]))

    def restore(self, factors: NDArray[Any]) -> None:
        """Give the parameters their latent weights, scaled by the factor of their group; `factors` has shape (G,)."""
        for alike in self._alike:
            passes.restore(alike.watch, alike.parameters, factors)

    def snap(self, grids: GridSet, *, freeze_above: float | None) -> None:
        """Take over the updated weights and let the parameters hold quantised ones.

        Every :data:`SETTLE_EVERY` steps, weights that change their bucket more often than `freeze_above` a step are
        frozen, unless that is None.
        """
        for alike in self._alike:
            watch = alike.watch
            watch.steps += 1
            settles = watch.steps % SETTLE_EVERY == 0
            passes.snap(watch, alike.parameters, grids, freeze_above=freeze_above if settles else None)

    def let_some_move(self, share: float, *, seed: int) -> None:
        """Freeze all weights but a random `share` of them."""
        generator = torch.Generator().manual_seed(seed)
        for alike in self._alike:
            frozen = alike.watch.frozen
            frozen.copy_(torch.rand(frozen.shape, generator=generator) >= share)

    @property
    def frozen_count(self) -> int:
        """Weights that no longer move."""
        return sum(int(alike.watch.frozen.sum()) for alike in self._alike)

    def tensors(self) -> list[torch.Tensor]:
        """The latent weights in the order and shapes of the parameters; views, not copies."""
        found = {t: latent for alike in self._alike for t, latent in zip(alike.positions, alike.latent, strict=True)}
        return [found[position] for position in range(len(found))]

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything :meth:`load_state_dict` needs: one entry for all tensors of a device and dtype."""
        return [alike.watch.state_dict() for alike in self._alike]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for alike, state in zip(self._alike, states, strict=True):
            alike.watch.load_state_dict(state)


class _Alike:
    """Parameters of one device and dtype, their latent weights and the history of their buckets."""

    def __init__(self, parameters: list[torch.Tensor], positions: list[int], groups: list[int]) -> None:
        self.parameters = parameters
        self.positions = positions
        self.watch = BucketWatch(parameters, groups)
        pieces = zip(self.watch.pieces(), parameters, strict=True)
        self.latent = [piece.view(parameter.shape) for piece, parameter in pieces]
