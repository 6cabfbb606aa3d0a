"""Latent weights: those the optimiser works on while the model holds quantised ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from metaq.entropy.cells import bucket_indices, bucket_values
from metaq.entropy.passes import dispatch
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.entropy.passes.watch import BucketWatch

SETTLE_EVERY = 25
"""Steps between two searches for oscillating weights."""


class LatentWeights:
    """Copies of tensors and the histories of their buckets.

    Tensors are those of the model that this process holds, in one order; they are given anew in every call, as a
    model may replace them. `groups` and `parts` have the number of the group and of the optimiser of each.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], groups: Sequence[int], parts: Sequence[int]) -> None:
        together: dict[tuple[int, torch.device, torch.dtype], list[int]] = {}
        for position, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
            together.setdefault((part, tensor.device, tensor.dtype), []).append(position)
        self._groups = list(groups)
        self._left: list[tuple[int, int]] = []
        # Of tensors of one optimiser, device and dtype: the number of that optimiser, their positions, and a watch.
        self._alike = [
            (part, chosen, BucketWatch([tensors[t] for t in chosen], [groups[t] for t in chosen]))
            for (part, *_), chosen in together.items()
        ]

    def begin(self, grids: GridSet) -> None:
        """Take the buckets the weights are in for those they have always been in."""
        for *_, watch in self._alike:
            dispatch.begin(watch, grids)

    def note(self, tensors: Sequence[torch.Tensor]) -> None:
        """Remember that `tensors` hold the quantised weights."""
        self._left = _marks(tensors)

    def absorb(self, tensors: Sequence[torch.Tensor], grids: GridSet) -> None:
        """Take over what others have put into `tensors` since :meth:`note`, if that was called; see :meth:`adopt`."""
        if self._left and _marks(tensors) != self._left:
            self.adopt(tensors, grids)

    def adopt(self, tensors: Sequence[torch.Tensor], grids: GridSet) -> None:
        """Take over what others have put into `tensors`.

        A weight that is not the quantised one which was left there is the latent one from now on, and free to move.
        """
        of_groups = list(grids.on(CPU))
        for position, _, kept in self._states():
            held, grid = tensors[position].detach().reshape(-1), of_groups[self._groups[position]]
            left = bucket_values(bucket_indices(kept["latent"], grid), grid).to(held)
            is_other = held != left
            if bool(is_other.any()):
                kept["latent"].copy_(torch.where(is_other, held, kept["latent"]))
                kept["frozen"].logical_and_(~is_other)
                indices = bucket_indices(kept["latent"], grid).to(kept["previous"])
                kept["average"].copy_(torch.where(is_other, indices.to(kept["average"]), kept["average"]))
                kept["previous"].copy_(indices)

    def restore(self, tensors: Sequence[torch.Tensor], factors: torch.Tensor, part: int) -> None:
        """Give the tensors of one optimiser their latent weights times the factors of their groups, of shape (G,)."""
        for watch, chosen in self._of_part(part, tensors):
            dispatch.restore(watch, chosen, factors)

    def rescale(self, factors: torch.Tensor, grids: GridSet) -> None:
        """Note that step sizes have changed by the factors of their groups, of shape (G,), to those of `grids`.

        Weights that have changed their bucket by that alone have not moved.
        """
        for *_, watch in self._alike:
            dispatch.rescale(watch, factors, grids)

    def snap(self, tensors: Sequence[torch.Tensor], grids: GridSet, part: int, *, freeze_above: float | None) -> None:
        """Take over the weights that one optimiser has updated and let the tensors hold quantised ones.

        Every :data:`SETTLE_EVERY` steps, weights that change their bucket more often than `freeze_above` a step are
        frozen; if that is None, all are free.
        """
        for watch, chosen in self._of_part(part, tensors):
            watch.steps += 1
            settles = watch.steps % SETTLE_EVERY == 0
            if settles and freeze_above is None:
                watch.frozen.zero_()
            dispatch.snap(watch, chosen, grids, freeze_above=freeze_above if settles else None)

    def frozen_count(self, positions: Sequence[int]) -> int:
        """Weights of some of the tensors that no longer move."""
        states = self.state_of_tensors()
        return sum(int(states[position]["frozen"].sum()) for position in positions)

    def tensors(self) -> list[torch.Tensor]:
        """The latent weights in the order and shapes of the tensors; views, not copies."""
        found = {t: piece for _, places, watch in self._alike for t, piece in zip(places, watch.tensors, strict=True)}
        return [found[position] for position in range(len(found))]

    def state_of_tensors(self) -> list[dict[str, Any]]:
        """What is remembered of every tensor, in order: flat tensors, views and not copies, and the steps watched."""
        found = {position: {**state, "steps": watch.steps} for position, watch, state in self._states()}
        return [found[position] for position in range(len(found))]

    def load_state_of_tensors(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what :meth:`state_of_tensors` gave, perhaps with other optimisers."""
        for position, watch, kept in self._states():
            for name, tensor in kept.items():
                tensor.copy_(states[position][name].reshape(-1))
            watch.steps = int(states[position]["steps"])

    def _states(self) -> Iterator[tuple[int, BucketWatch, dict[str, torch.Tensor]]]:
        for _, positions, watch in self._alike:
            for position, state in zip(positions, watch.state_of_tensors(), strict=True):
                yield position, watch, state

    def _of_part(self, part: int, tensors: Sequence[torch.Tensor]) -> Iterator[tuple[BucketWatch, list[torch.Tensor]]]:
        """Watches of the weights of one optimiser, and those of all `tensors` that are theirs."""
        return ((watch, [tensors[t] for t in places]) for owner, places, watch in self._alike if owner == part)


def _marks(tensors: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """What changes if a tensor is written to, or is another."""
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
