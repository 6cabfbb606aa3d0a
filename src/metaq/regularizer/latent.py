"""Latent weights: those the optimiser works on while the model holds quantised ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metaq.entropy import passes
from metaq.entropy.passes import BucketWatch, GridSet

SETTLE_EVERY = 25
"""Steps between two searches for oscillating weights."""


class LatentWeights:
    """Copies of tensors and the histories of their buckets.

    Tensors are those of the model that this process holds, in one order; they are given anew in every call, as a
    model may replace them.

    Parameters
    ----------
    tensors
        Tensors that take part.
    groups
        Number of the group of each.
    parts
        Number of the optimiser of each.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], groups: Sequence[int], parts: Sequence[int]) -> None:
        together: dict[tuple[int, torch.device, torch.dtype], list[int]] = {}
        for position, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
            together.setdefault((part, tensor.device, tensor.dtype), []).append(position)
        self._alike = [_Alike(part, tensors, positions, groups) for (part, *_), positions in together.items()]

    def begin(self, grids: GridSet) -> None:
        """Take the buckets the weights are in for those they have always been in."""
        for alike in self._alike:
            passes.begin(alike.watch, grids)

    def restore(self, tensors: Sequence[torch.Tensor], factors: torch.Tensor, part: int) -> None:
        """Give the tensors of one optimiser their latent weights times the factors of their groups, of shape (G,)."""
        for alike in self._alike_of(part):
            passes.restore(alike.watch, alike.of(tensors), factors)

    def snap(self, tensors: Sequence[torch.Tensor], grids: GridSet, part: int, *, freeze_above: float | None) -> None:
        """Take over the weights that one optimiser has updated and let the tensors hold quantised ones.

        Every :data:`SETTLE_EVERY` steps, weights that change their bucket more often than `freeze_above` a step are
        frozen, unless that is None.
        """
        for alike in self._alike_of(part):
            watch = alike.watch
            watch.steps += 1
            settles = watch.steps % SETTLE_EVERY == 0
            passes.snap(watch, alike.of(tensors), grids, freeze_above=freeze_above if settles else None)

    def frozen_count(self, positions: Sequence[int]) -> int:
        """Weights of some of the tensors that no longer move."""
        states = self.state_of_tensors()
        return sum(int(states[position]["frozen"].sum()) for position in positions)

    def tensors(self) -> list[torch.Tensor]:
        """The latent weights in the order and shapes of the tensors; views, not copies."""
        found = {t: latent for alike in self._alike for t, latent in zip(alike.positions, alike.latent, strict=True)}
        return [found[position] for position in range(len(found))]

    def state_of_tensors(self) -> list[dict[str, Any]]:
        """What is remembered of every tensor, in order: flat tensors, views and not copies, and the steps watched."""
        found: dict[int, dict[str, Any]] = {}
        for alike in self._alike:
            for position, state in zip(alike.positions, alike.watch.state_of_tensors(), strict=True):
                found[position] = {**state, "steps": alike.watch.steps}
        return [found[position] for position in range(len(found))]

    def load_state_of_tensors(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what :meth:`state_of_tensors` gave, perhaps with other optimisers."""
        for alike in self._alike:
            for position, kept in zip(alike.positions, alike.watch.state_of_tensors(), strict=True):
                for name, tensor in kept.items():
                    tensor.copy_(states[position][name].reshape(-1))
                alike.watch.steps = int(states[position]["steps"])

    def _alike_of(self, part: int) -> list[_Alike]:
        return [alike for alike in self._alike if alike.part == part]


class _Alike:
    """Tensors of one optimiser, device and dtype: their latent weights and the history of their buckets."""

    def __init__(self, part: int, tensors: Sequence[torch.Tensor], positions: list[int], groups: Sequence[int]) -> None:
        self.part = part
        self.positions = positions
        self.watch = BucketWatch(self.of(tensors), [groups[t] for t in positions])
        pieces = zip(self.watch.pieces(), self.of(tensors), strict=True)
        self.latent = [piece.view(tensor.shape) for piece, tensor in pieces]

    def of(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Those of all `tensors` that are meant."""
        return [tensors[position] for position in self.positions]
