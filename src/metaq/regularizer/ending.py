"""What a training to a goal ends in: the grids and indices of a file that keeps to it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.entropy.cells import bucket_values
from metaq.entropy.objective import entropy_bits
from metaq.entropy.passes import dispatch
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.regularizer.last_choice import LEAST_PRICE, MOST_PRICE, Placed, coarsest, last_choice
from metaq.regularizer.step_control import MOST_USED

SCALINGS, LEAST_EXCESS, MOST_EXCESS = 6, 0.985, 1.06
"""Before the last choice, step sizes change so often at most, until the file over the goal is between these."""

TRIES, COARSER = 6, 1.04
"""Where no choice keeps to the goal, all step sizes grow by this, and by its square at every further try."""

COLLAPSED = 0.5
"""Share of what a file may take below which steps that were to fit have lost too much, and are taken back."""

FILLED = 0.971
"""Share of the goal that a file takes if one can be found."""

FEW_WEIGHTS, TRIED = 1 << 16, (0.7, 0.8, 0.9, 0.94, 0.97, 0.985, 1.01, 1.02, 1.05, 1.09, 1.14, 1.2, 1.3, 1.5, 1.8)
"""Of so few weights other steps are tried beside the last choice, where training has left steps that have to change:
small files come in few sizes, and a price of a bit may be too much for all weights of a layer at once."""

FINEST, COARSER_FROM, COARSEST, FEW_BITS = 0.125, 1.05, 16.0, 2.0
"""Of the search by a figure: what steps change by at least where the figure misses its goal, and at least and at most
where it does not; bits a weight up to which they stay as training has left them and only the price of a bit grows."""

Found = tuple[GridSet, list[torch.Tensor]]
"""Grids, and weights on them, tensor by tensor."""

Measure = Callable[[GridSet, Iterable[torch.Tensor]], int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ending:
    """Weights whose indices are chosen for the last time.

    Attributes
    ----------
    weights, groups
        The latent weights, one tensor each, and the number of the group of each.
    largest
        Largest magnitude of every group, float64 of shape (G,) on the CPU.
    nearest
        From grids to the weights at their nearest values.
    curvature
        That of the loss, tensor by tensor: one number each, or one a weight.
    file_bytes
        From grids and weights on them to the size of the file.
    quick_bytes
        From the same to what is about in proportion to that, found in a hundredth of the time.
    """

    weights: Sequence[torch.Tensor]
    groups: Sequence[int]
    largest: torch.Tensor
    nearest: Callable[[GridSet], Iterable[torch.Tensor]]
    curvature: Sequence[NDArray[np.float64] | float]
    file_bytes: Measure
    quick_bytes: Measure

    def fitted(self, grids: GridSet, *, limit_bytes: int, fixed_bytes: int, least: float) -> Found:
        """A file of at most `limit_bytes`, `fixed_bytes` of which depend on no weight, and not of much less.

        Step sizes grow finer where the bytes that depend on weights are less than the share `least` of what they may
        be, or, unless that is 0, all bytes less than :data:`FILLED` of the limit.
        """
        if least:
            least = max(least, (FILLED * limit_bytes - fixed_bytes) / max(limit_bytes - fixed_bytes, 1))
        size = self.file_bytes(grids, self.nearest(grids))
        is_near = least <= (size - fixed_bytes) / (limit_bytes - fixed_bytes) <= MOST_EXCESS
        scaled = grids if is_near else self._scaled(grids, size, limit_bytes, fixed_bytes)
        for number in range(TRIES):
            if scaled is not grids:
                given, given_size = grids, size
                grids, size = scaled, self.file_bytes(scaled, self.nearest(scaled))
                if size - fixed_bytes < COLLAPSED * (limit_bytes - fixed_bytes) and given_size > limit_bytes:
                    # Weights on other grids fall to zero all at once; those that are missed least may do so first.
                    grids, size = given, given_size
            values, chosen = self._chosen(grids, size, limit_bytes, fixed_bytes)
            if chosen <= limit_bytes:
                break
            scaled = self._times(grids, COARSER ** (2**number))
        found = grids, values
        if is_near or chosen > limit_bytes or self._count > FEW_WEIGHTS:
            return found
        others = ((scaled, list(self.nearest(scaled))) for scaled in (self._times(grids, each) for each in TRIED))
        sizes = [(chosen, found), *((self.file_bytes(*each), each) for each in others)]
        fitting = [(size >= FILLED * limit_bytes, each) for size, each in sizes if size <= limit_bytes]
        return min(fitting, key=lambda each: (not each[0], self._error(each[1][1])))[1]

    def squeezed(self, grids: GridSet, is_good: Callable[[list[torch.Tensor]], bool]) -> Found | None:
        """About the smallest file whose weights are good; None if none are."""
        best: Found | None = None

        def keeps(factor: float, price: float) -> bool:
            """Whether steps longer by `factor` are good enough, and bits of `price`, in mean errors of a step."""
            nonlocal best
            scaled = self._times(grids, factor)
            placed = self._placed(scaled)
            unit = price * float(np.mean([np.mean(tensor.importance) for tensor in placed]))
            levels = [tensor.cheaper(unit)[0] if price else tensor.nearest() for tensor in placed]
            values = self._at(levels, scaled)
            is_kept = is_good(values)
            best = (scaled, values) if is_kept else best
            return is_kept

        bits = float(entropy_bits(dispatch.bucket_counts(self.weights, self.groups, grids)))
        if not keeps(1.0, 0.0):
            coarsest(lambda factor: keeps(factor, 0.0), low=FINEST, high=1.0)
        elif bits > FEW_BITS * self._count:
            coarsest(lambda factor: keeps(factor, 0.0), low=COARSER_FROM, high=COARSEST)
        else:
            coarsest(lambda price: keeps(1.0, price), low=LEAST_PRICE, high=MOST_PRICE)
        return best

    def _chosen(
        self, grids: GridSet, nearest_bytes: int, limit_bytes: int, fixed_bytes: int
    ) -> tuple[list[torch.Tensor], int]:
        """Weights of the last choice on `grids`, and the size of their file."""
        levels, size = last_choice(
            self._placed(grids),
            limit_bytes,
            size_of=lambda levels: self.file_bytes(grids, self._at(levels, grids)),
            estimate_of=lambda levels: self.quick_bytes(grids, self._at(levels, grids)),
            nearest_bytes=nearest_bytes,
            fixed_bytes=fixed_bytes,
        )
        return self._at(levels, grids), size

    def _error(self, values: Sequence[torch.Tensor]) -> float:
        """What weights on a grid cost, by the curvature."""
        errors = (
            (value.detach().to(CPU, torch.float64) - weight.detach().to(CPU, torch.float64)).numpy()
            for value, weight in zip(values, self.weights, strict=True)
        )
        return sum(float((each * error**2).sum()) for each, error in zip(self.curvature, errors, strict=True))

    @property
    def _count(self) -> int:
        return sum(weight.numel() for weight in self.weights)

    def _scaled(self, grids: GridSet, size: int, limit_bytes: int, fixed_bytes: int) -> GridSet:
        """Other grids than `grids`, with which the file takes about the limit instead of `size` bytes."""
        allowed = limit_bytes - fixed_bytes
        excess = (size - fixed_bytes) / allowed
        share = excess / max(self.quick_bytes(grids, self.nearest(grids)) - fixed_bytes, 1)
        for _ in range(SCALINGS):
            grids = self._times(grids, max(excess, 0.1) ** (math.log(2) * (8 * allowed / self._count + 0.3)))
            excess = share * (self.quick_bytes(grids, self.nearest(grids)) - fixed_bytes)
            if LEAST_EXCESS <= excess <= MOST_EXCESS:
                break
        return grids

    def _placed(self, grids: GridSet) -> list[Placed]:
        """The weights on `grids`, and what it costs to move them."""
        half, tensors = grids.count // 2, []
        for weight, group, curvature in zip(self.weights, self.groups, self.curvature, strict=True):
            step_size = float(grids.step_size[group])
            places = weight.detach().to(CPU, torch.float64).numpy() / step_size
            tensors.append(Placed(places=places, importance=curvature * step_size**2, limit=half))
        return tensors

    def _at(self, levels: Sequence[NDArray[np.int32]], grids: GridSet) -> list[torch.Tensor]:
        """Weights at so many steps from the centre."""
        of_groups, half = list(grids), grids.count // 2
        indices = [torch.from_numpy(np.asarray(its, dtype=np.int64)) + half for its in levels]
        return [bucket_values(its, of_groups[g]) for its, g in zip(indices, self.groups, strict=True)]

    def _times(self, grids: GridSet, factor: float) -> GridSet:
        """All steps times `factor`; none becomes so fine that the largest weights are out of reach."""
        least = (self.largest.to(grids.radius.device) / (MOST_USED * grids.radius)).clamp(max=1.0)
        return grids.rescaled(least.clamp(min=factor)).rounded()
