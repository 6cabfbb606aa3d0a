"""Quantising a module by what calibration data tell of it, for any λ."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.compression.compressed import Compressed
from metaq.compression.pipeline import exact_tensor, on_grid, to_tensors
from metaq.compression.search import SizeSearch, smallest_good
from metaq.compression.survey import SortedOut, norm_tolerance
from metaq.compression.uncalibrated import Request
from metaq.model.checkpoint import StateDict, dtype_of, restore
from metaq.model.norms import rounded_norms
from metaq.model.opened import state_dict_of
from metaq.model.selection import RUNNING_STATISTICS
from metaq.quantize.allocation import RateSample, Target, allocate, target_of, values_of
from metaq.quantize.curvature import Batch, Curvature
from metaq.quantize.rdo import SCALAR_SLOPE, Choice, distortion
from metaq.quantize.recovery import Recovery, recalibrated
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, TiedTensor, under_all_names

START_STEP = 0.5
"""Step, in standard deviations of the weights, whose λ is tried first."""

RECOVERED_WIDENING, RECOVERED_BISECTIONS, RECOVERED_NEIGHBOURS = 2.5, 3, (1.2, 1.4, 1.6)
"""With recovery every λ takes gradients of the loss; fewer are tried."""

WEIGHING_SHARE = 1 / 16
"""λ over the usual one for which errors of tensors are tried where no size is asked for."""

WEIGHED_AT_ONCE = 1 << 26
"""Weights that are tried at a time: all of them are in memory."""

MOST_MISTAKEN = 16.0
"""By what factor curvature may be mistaken about a tensor, compared with the others, at most."""

EXCESS = 1.02
"""What the coder takes beyond the estimated code lengths, about."""


Packed = Callable[[Sequence[Tensor], Mapping[str, str], float, Collection[str]], Compressed]
"""From tensors, reasons by name of those that are exact, λ, and names of those to be added to a base, to the file."""


class CalibratedModel:
    """Quantises a module for any λ; a :class:`metaq.compression.search.SizeEstimate` too.

    With a `base`, by name, what is quantised is how far the weights are from that. With `recovery`, tensors are
    quantised one after the other, and those still to come make up for the loss. With `norm_batches`, running statistics
    of batch normalisation are measured anew on them. What is taken from `curvature` is gone from there.
    """

    def __init__(
        self,
        request: Request,
        chosen: SortedOut,
        packed: Packed,
        *,
        curvature: dict[str, Curvature],
        recovery: Recovery | None = None,
        norm_batches: Sequence[Batch] = (),
        base: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        model = request.model
        self._packed = packed
        self._size_option = request.goal.size_option
        self._module = model.module
        self._recovery = recovery
        self._norm_batches = norm_batches
        self._progress = request.progress
        self._tries = 0
        self._known_bytes: dict[float, float] = {}
        self._weights = model.state_dict() if model.module is None else state_dict_of(model.module)
        self._alias = {name: model.first(name) for name in model.holders}
        self._base: dict[str, torch.Tensor] = {}
        self._targets: dict[str, Target] = {}
        self._seen_shares: dict[str, NDArray[np.float64] | None] = {}
        for name in (model.first(tensor.name) for tensor in chosen.weights):
            names = [each for each, first in self._alias.items() if first == name]
            if base is not None and are_near([base.get(each) for each in names], self._weights[name]):
                self._base[name] = base[name]
            target = self._target(name, curvature)
            if name in self._base and not target.values.any():
                continue
            # Matrices over inputs take much memory.
            self._targets[name], self._seen_shares[name] = target, _seen_share(curvature.pop(name), target)
        self._held: dict[str, QuantizedTensor | ExactTensor] = {}
        for first in set(self._alias.values()) - self._targets.keys():
            grid, tensor = chosen.grids.get(model.holders[first]), self._weights[first]
            self._held[first] = exact_tensor(first, tensor) if grid is None else on_grid(first, tensor, grid)
        self._free_statistics = {name for name in self._held if name.rpartition(".")[2] in RUNNING_STATISTICS}
        self._reasons = {**request.selection.reasons, **model.under_all_names(chosen.reasons)}

    def _target(self, name: str, curvature: Mapping[str, Curvature]) -> Target:
        """What is quantised of a tensor: its weights, or how far they are from the base."""
        weights = self._weights[name]
        if name not in self._base:
            return target_of(name, weights, curvature)
        wide = torch.float64 if weights.dtype == torch.float64 else torch.float32
        target = target_of(name, weights.to(wide) - self._base[name].to(wide), curvature)
        return replace(target, dtype=dtype_of(name, weights), center=0.0)

    @cached_property
    def usual(self) -> float:
        """λ that suits a step of ``START_STEP`` times the spread of weights or size of changes, the median over all."""
        if not self._targets:
            return 1.0
        slopes = [
            target.importance.mean * float(_power(target.values, is_change=name in self._base) or 1.0)
            for name, target in self._targets.items()
        ]
        counts = [target.values.size for target in self._targets.values()]
        order = np.argsort(slopes)
        middle = order[np.searchsorted(np.cumsum(np.array(counts)[order]), sum(counts) / 2)]
        return float(max(SCALAR_SLOPE * START_STEP**2 * slopes[middle] / 2, 1e-300))

    def size_bytes(self, multiplier: float) -> float:
        """About how many bytes what is quantised takes for λ = `multiplier`."""
        if multiplier not in self._known_bytes:
            bits = sum(sample.bits(multiplier) for sample in self._samples)
            self._known_bytes[multiplier] = EXCESS / 8 * bits
        return self._known_bytes[multiplier]

    @cached_property
    def _samples(self) -> list[RateSample]:
        self._stage("estimating a size")
        found = []
        for target in self._targets.values():
            found.append(RateSample.of(target))
            self._progress.advance(target.values.size)
        return found

    def at(self, multiplier: float) -> Compressed:
        """Quantise for λ = `multiplier`."""
        self._tries += 1
        self._stage(f"quantising, try {self._tries}")
        if self._recovery is None:
            choices = allocate(self._targets, multiplier=multiplier, progress=self._progress)
        else:
            choices = self._one_after_another(multiplier, self._recovery)
        quantized = {name: choice.tensor for name, choice in choices.items()}
        exact = {name: exact_tensor(name, self._weights[name]) for name in self._targets.keys() - choices.keys()}
        held = {**self._held, **exact, **quantized}
        if self._free_statistics:
            held |= self._statistics(self._restored(self._under_all_names(held)))
        tensors = self._under_all_names(held)
        return self._packed(tensors, self._reasons, multiplier, self._base.keys() & quantized.keys())

    def weigh(self, losses: Callable[[Sequence[StateDict]], Sequence[float]], limit: int | None) -> None:
        """Let errors of tensors count as much as they do by trial, where curvature is mistaken about it.

        `losses` are what the outputs lose with some of the weights. Tensors of one shape whose names differ in numbers
        do the same job, and are tried together; vectors are left as they are. Errors are about those of a file of
        `limit` bytes, or small ones.
        """
        first = None if limit is None else SizeSearch(limit, self, goal=self._size_option).next(lambda: 0)
        multiplier = WEIGHING_SHARE * self.usual if first is None else first.multiplier
        self._stage("weighing tensors")
        choices = allocate(self._targets, multiplier=multiplier, progress=self._progress)
        kinds: dict[tuple[object, ...], list[Choice]] = {}
        for name, choice in choices.items():
            if len(choice.tensor.shape) > 1:
                kinds.setdefault((re.sub(r"\d+", "", name), *choice.tensor.shape), []).append(choice)
        known = []
        for some in _at_once(list(kinds.values())):
            found = losses([self._tied(self._restored([choice.tensor for choice in kind])) for kind in some])
            for kind, loss in zip(some, found, strict=True):
                expected = sum(self._seen(choice) for choice in kind)
                if loss > 0 and expected > 0:
                    known.append((kind, math.log(loss / expected)))
        if not known:
            return
        sizes = [_size_of(kind) for kind, _ in known]
        typical = float(np.average([ratio for _, ratio in known], weights=sizes))
        for kind, ratio in known:
            factor = min(max(math.exp(ratio - typical), 1 / MOST_MISTAKEN), MOST_MISTAKEN)
            for choice in kind:
                target = self._targets[choice.tensor.name]
                self._targets[target.name] = replace(target, importance=target.importance.times(factor))
        # They were taken before.
        self.__dict__.pop("_samples", None)
        self._known_bytes.clear()

    def _seen(self, choice: Choice) -> float:
        """The distortion by what was measured, without what is expected of rows that calibration hardly touched."""
        target, shares = self._targets[choice.tensor.name], self._seen_shares[choice.tensor.name]
        if shares is None:
            return choice.distortion
        errors = values_of(restore([choice.tensor])[target.name]) - target.values
        return distortion(errors.reshape(len(shares), -1) * np.sqrt(shares)[:, None], target.importance)

    def to_bytes(self, limit: int) -> Compressed:
        """The best quantisation whose file has at most `limit` bytes; raises :class:`ConfigError` if no file is that
        small.
        """
        search = SizeSearch(limit, self, goal=self._size_option)
        best: Compressed | None = None
        while (current := search.next(lambda: 0)) is not None:
            found = self.at(current.multiplier)
            search.finish(current, found.file_bytes)
            if search.fitting and search.fitting[-1].number == current.number:
                best = found
        search.best()
        assert best is not None
        return best

    def to_quality(self, is_good: Callable[[Compressed], bool]) -> Compressed | None:
        """The smallest file found that is good, or None."""
        if self._recovery is None:
            return smallest_good(self.at, is_good, self.usual)
        return smallest_good(
            self.at,
            is_good,
            self.usual,
            widening=RECOVERED_WIDENING,
            bisections=RECOVERED_BISECTIONS,
            neighbours=RECOVERED_NEIGHBOURS,
        )

    def _stage(self, label: str) -> None:
        self._progress.stage(label, sum(target.values.size for target in self._targets.values()))

    def _under_all_names(self, held: Mapping[str, QuantizedTensor | ExactTensor]) -> tuple[Tensor, ...]:
        """The tensors that are `held`, and those tied to them."""
        return tuple(under_all_names(held, self._alias))

    def _restored(self, tensors: Sequence[Tensor]) -> StateDict:
        """Weights as a file gives them."""
        found = restore(list(tensors))
        quantized = {tensor.name for tensor in tensors if isinstance(tensor, QuantizedTensor)}
        changed = self._base.keys() & self._targets.keys() & quantized
        # Some types have no sums of their own.
        sums = {name: (self._base[name].double() + found[name].double()).to(found[name].dtype) for name in changed}
        return self._tied(found | sums) if sums else found

    def _statistics(self, weights: StateDict) -> dict[str, QuantizedTensor | ExactTensor]:
        """Running statistics of batch normalisation under quantised `weights`: measured anew if asked for, rounded."""
        if self._norm_batches:
            assert self._module is not None
            weights = weights | recalibrated(self._module, self._norm_batches, weights)
        free = self._free_statistics
        norms = rounded_norms(weights, taken=weights.keys() - free, tolerance=norm_tolerance(self._error(weights)))
        values = {name: weights[name] for name in free} | norms.values
        held = to_tensors(values, grids=norms.grids)
        return {tensor.name: tensor for tensor in held if not isinstance(tensor, TiedTensor)}

    def _error(self, weights: StateDict) -> float:
        """Root mean square error of the quantised weights over their root mean square."""
        squares = errors = 0.0
        for name in self._targets:
            before = values_of(self._weights[name])
            squares += float(np.square(before).sum())
            errors += float(np.square(values_of(weights[name]) - before).sum())
        return math.sqrt(errors / squares) if squares else 0.0

    def _one_after_another(self, multiplier: float, recovery: Recovery) -> dict[str, Choice]:
        """Matrices in the order of the model, then all vectors; what is still to come makes up for what is done."""
        vectors = [name for name, target in self._targets.items() if target.values.ndim < 2]
        groups = [[name] for name, target in self._targets.items() if target.values.ndim > 1]
        left: dict[str, Target] = dict(self._targets)
        weights = dict(self._weights)
        choices: dict[str, Choice] = {}
        for group in [*groups, *([vectors] if vectors else [])]:
            targets = {name: replace(left.pop(name), values=values_of(weights[name])) for name in group}
            found = allocate(targets, multiplier=multiplier, progress=self._progress)
            choices |= found
            weights |= restore([choice.tensor for choice in found.values()])
            weights = self._tied(weights)
            if left:
                free = {name: target.importance for name, target in left.items()}
                weights = self._tied(recovery.improved(weights, free))
        return choices

    def _tied(self, weights: StateDict) -> StateDict:
        return {**weights, **{name: weights[first] for name, first in self._alias.items() if first in weights}}


def are_near(bases: Sequence[torch.Tensor | None], weights: torch.Tensor) -> bool:
    """Whether there is one difference, smaller than the weights, by all names that they have."""
    first = bases[0]
    if first is None or (first.shape, first.dtype) != (weights.shape, weights.dtype):
        return False
    change = weights.double() - first.double()
    same = all(other is not None and torch.equal(other, first) for other in bases[1:])
    return same and bool(torch.isfinite(change).all()) and bool(change.norm() <= weights.double().norm())


def _power(values: NDArray[np.floating], *, is_change: bool) -> float:
    """Mean square of a change, variance of weights."""
    wide = values.astype(np.float64)
    return float(np.square(wide).mean() if is_change else np.var(wide))


def _seen_share(curvature: Curvature, target: Target) -> NDArray[np.float64] | None:
    """Share of what an error counts that was measured, by row, float64 (rows,), or None for all of it."""
    if curvature.measured is None:
        return None
    taken = target.importance.rows if target.importance.inputs is None else curvature.rows
    return curvature.measured / np.maximum(taken, np.finfo(float).tiny)


def _size_of(kind: Sequence[Choice]) -> int:
    return sum(choice.tensor.indices.size for choice in kind)


def _at_once(kinds: Sequence[list[Choice]]) -> Iterator[list[list[Choice]]]:
    """Those that are tried at a time: up to ``WEIGHED_AT_ONCE`` weights, or one kind."""
    some: list[list[Choice]] = []
    for kind in kinds:
        if some and sum(map(_size_of, some)) + _size_of(kind) > WEIGHED_AT_ONCE:
            yield some
            some = []
        some.append(kind)
    if some:
        yield some
