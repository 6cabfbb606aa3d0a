"""One call for all tensors, whichever backends they need.

Results are on the device of the grids. Where all tensors are there too, nothing waits for the host.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from metaq.entropy.passes import compiled_passes, torch_passes
from metaq.entropy.passes.grids import UNIT_BITS, GridSet, bucket_indices
from metaq.entropy.passes.watch import BucketWatch
from metaq.errors import NonFiniteError

COMPILED_KINDS = {(torch.float32, True, True), (torch.float64, True, True)}
"""Dtype, on a CPU, contiguous."""


def cell_sums(tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> tuple[Tensor, Tensor]:
    """Weights in every cell, and the sum of their distances from its left end in steps.

    Weights outside the range count as lying on the end value; one on the last value is in the last cell, at its end.
    Tensors are floating, of any shape and dtype, on any device if the grids are on the CPU; `groups` has the number of
    the group of each. Returns float64 of shape (G, C - 1), with every distance rounded to a multiple of 2^-32 steps:
    all NaN if a weight is NaN or infinite, see :func:`require_finite`.
    """
    counts, units, scale = _totals("cell_totals", tensors, groups, grids)
    counts, fractions = counts * scale, units * (scale * 2.0**-UNIT_BITS)
    # Weights on the last value are at the end of the last cell.
    counts[:, -2] += counts[:, -1]
    fractions[:, -2] += counts[:, -1]
    return counts[:, :-1], fractions[:, :-1]


def bucket_counts(tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> Tensor:
    """Weights in every bucket by the rule of :meth:`metaq.tensors.grid.BucketGrid.assign`: float64 of shape (G, C).

    Arguments are those of :func:`cell_sums`; all NaN if a weight is NaN or infinite.
    """
    counts, scale = _totals("bucket_totals", tensors, groups, grids)
    return counts * scale


def require_finite(*sums: Tensor) -> None:
    """Refuse sums over weights of which one is not finite by :class:`NonFiniteError`; may wait for the device."""
    if not all(bool(torch.isfinite(array).all()) for array in sums):
        raise NonFiniteError(
            "weights: training has diverged to NaN or infinity; lower the learning rate. If a layer divides by the "
            "size of its weights, as weight_norm does, take that away first: rows may become zero."
        )


class TensorPairs:
    """Weights and gradients of the same shapes and dtypes, each pair with its group, sorted by backend."""

    def __init__(self, weights: list[Tensor], gradients: list[Tensor], groups: list[int]) -> None:
        self.weights, self.gradients, self.groups = weights, gradients, groups
        self.parts = [
            (backend, [weights[t] for t in chosen], [gradients[t] for t in chosen], [groups[t] for t in chosen])
            for backend, chosen in _by_backend(weights, gradients)
        ]


def inner_products(pairs: TensorPairs, group_count: int, device: torch.device) -> Tensor:
    """Σ weight · gradient over all pairs of a group: float64 of shape (G,) on `device`."""
    products = torch.zeros(group_count, dtype=torch.float64, device=device)
    for backend, weights, gradients, groups in pairs.parts:
        products += backend.inner_products(weights, gradients, groups, group_count).to(device)
    return products


def add_slopes(pairs: TensorPairs, grids: GridSet, slopes: Tensor) -> None:
    """Add to every gradient, in place, the slope of the half cell that its weight lies in.

    `slopes` are those on the lower and the upper half of every cell in turn, float64 of shape (G, 2 (C - 1)); a weight
    in the middle of a cell is in its upper half.
    """
    for backend, weights, gradients, groups in pairs.parts:
        device = weights[0].device
        backend.add_slopes(weights, gradients, groups, grids.on(device), slopes.to(device))


def begin(watch: BucketWatch, grids: GridSet) -> None:
    """Take the buckets that the latent weights of `watch` are in for those they have always been in."""
    here = grids.on(watch.latent.device)
    for kept, group in zip(watch.state_of_tensors(), watch.groups, strict=True):
        lower, step_size = here.lower[group], here.step_size[group]
        indices = bucket_indices(kept["latent"], lower=lower, step_size=step_size, count=here.count)
        kept["previous"].copy_(indices)
        kept["average"].copy_(indices)


def rescale(watch: BucketWatch, factors: Tensor, grids: GridSet) -> None:
    """Tell `watch` of step sizes that are other by the factors of their groups, of (G,), now those of `grids`."""
    _backend([watch.latent]).rescale(watch, factors, grids.on(watch.latent.device))


def restore(watch: BucketWatch, parameters: Sequence[Tensor], factors: Tensor) -> None:
    """Multiply the latent weights of `watch` by the factor of their group, of (G,), and copy them to `parameters`."""
    of_groups = factors.to(watch.latent).unbind()
    torch._foreach_mul_(watch.tensors, [of_groups[group] for group in watch.groups])
    torch._foreach_copy_(list(parameters), watch.tensors)


def snap(watch: BucketWatch, parameters: Sequence[Tensor], grids: GridSet, *, freeze_above: float | None) -> None:
    """Take the updated `parameters` over into the latent weights of `watch` and snap them to their buckets.

    Frozen weights stay where they are. With `freeze_above`, weights whose bucket changes more often than this per step
    are moved to the bucket they average to and frozen, but for those that are two buckets or more from there: they do
    not oscillate, but travel.
    """
    _backend(parameters, [watch.latent]).snap(watch, parameters, grids.on(watch.latent.device), freeze_above)


def _totals(method: str, tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> list[Tensor]:
    """Tables that a method of the backends counts, int64 of shape (G, C), and NaN if a weight is not finite, else 1."""
    tables = 2 if method == "cell_totals" else 1
    sums = [torch.zeros(len(grids), grids.count, dtype=torch.int64, device=grids.device) for _ in range(tables)]
    strange = torch.zeros((), dtype=torch.int64, device=grids.device)
    for backend, chosen in _by_backend(tensors):
        part = [tensors[t] for t in chosen]
        found = getattr(backend, method)(part, [groups[t] for t in chosen], grids.on(part[0].device))
        for total, addend in zip((*sums, strange), found, strict=True):
            total += addend.to(grids.device)
    return [*sums, torch.where(strange == 0, 1.0, torch.nan).double()]


def _by_backend(*lists: Sequence[Tensor]) -> list[tuple[ModuleType, list[int]]]:
    """Backends, and positions of the tensors that one call of each can take; those at one position go together."""
    if _backend(*lists) is compiled_passes:
        return [(compiled_passes, list(range(len(lists[0]))))]
    chosen: dict[tuple[ModuleType, torch.dtype, torch.device], list[int]] = {}
    for position, together in enumerate(zip(*lists, strict=True)):
        key = _backend(together), together[0].dtype, together[0].device
        chosen.setdefault(key, []).append(position)
    return [(backend, positions) for (backend, *_), positions in chosen.items()]


def _backend(*lists: Sequence[Tensor]) -> ModuleType:
    """What one call with all tensors needs."""
    kinds = {(tensor.dtype, tensor.is_cpu, tensor.is_contiguous()) for tensors in lists for tensor in tensors}
    return compiled_passes if len(kinds) == 1 and kinds <= COMPILED_KINDS else torch_passes
