"""One call for all tensors, whichever backends they need.

Results are on the device of the grids. Where all tensors are there too, nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import torch

from metaq.entropy.passes import compiled_passes, torch_passes
from metaq.entropy.passes.fixed_point import UNIT_BITS
from metaq.entropy.passes.grids import GridSet
from metaq.entropy.passes.watch import BucketWatch
from metaq.errors import NonFiniteError

COMPILED_KINDS = {(torch.float32, True, True), (torch.float64, True, True)}
"""Dtype, on a CPU, contiguous."""


def cell_sums(
    tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in every cell, and the sum of their distances from its left end in steps.

    Weights outside the range count as lying on the end value; one on the last value is in the last cell, at its end.

    Parameters
    ----------
    tensors
        Floating tensors of any shape and dtype, on any device if the grids are on the CPU.
    groups
        Number of the group of every tensor, below ``len(grids)``.
    grids
        Grid of every group.

    Returns
    -------
    counts, fractions
        float64 of shape (G, C - 1); every distance is rounded to a multiple of 2^-32 steps. All NaN if a weight is NaN
        or infinite: see :func:`require_finite`.
    """
    counts, units = (_zeros(grids, dtype=torch.int64) for _ in range(2))
    strange = torch.zeros((), dtype=torch.int64, device=grids.device)
    for backend, part, of_part in _parts(tensors, groups):
        found = backend.cell_totals(part, of_part, grids.on(part[0].device))
        for total, addend in zip((counts, units, strange), found, strict=True):
            total += addend.to(grids.device)
    scale = _nan_if(strange)
    return _joined(counts * scale, units * (scale * 2.0**-UNIT_BITS))


def bucket_counts(tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> torch.Tensor:
    """Weights in every bucket by the rule of :meth:`metaq.tensors.grid.BucketGrid.assign`: float64 of shape (G, C).

    Arguments are those of :func:`cell_sums`; all NaN if a weight is NaN or infinite.
    """
    counts = _zeros(grids, dtype=torch.int64)
    strange = torch.zeros((), dtype=torch.int64, device=grids.device)
    for backend, part, of_part in _parts(tensors, groups):
        found = backend.bucket_totals(part, of_part, grids.on(part[0].device))
        for total, addend in zip((counts, strange), found, strict=True):
            total += addend.to(grids.device)
    return counts * _nan_if(strange)


def require_finite(*sums: torch.Tensor) -> None:
    """Refuse sums over weights of which one is not finite; waits for the device if it has to.

    Raises
    ------
    NonFiniteError
        If there is NaN or infinity among `sums`.
    """
    if not all(bool(torch.isfinite(array).all()) for array in sums):
        raise NonFiniteError("weights: training has diverged to NaN or infinity; lower the learning rate.")


class TensorPairs:
    """Weights and gradients of the same shapes and dtypes, sorted by backend.

    Parameters
    ----------
    weights, gradients
        Tensors in pairs.
    groups
        Number of the group of every pair.
    """

    def __init__(self, weights: list[torch.Tensor], gradients: list[torch.Tensor], groups: list[int]) -> None:
        self.weights, self.gradients, self.groups = weights, gradients, groups
        self.parts = [
            (backend, [weights[t] for t in chosen], [gradients[t] for t in chosen], [groups[t] for t in chosen])
            for backend, chosen in _by_backend(weights, gradients)
        ]


def inner_products(pairs: TensorPairs, group_count: int, device: torch.device) -> torch.Tensor:
    """Σ weight · gradient over all pairs of a group: float64 of shape (G,) on `device`."""
    products = torch.zeros(group_count, dtype=torch.float64, device=device)
    for backend, weights, gradients, groups in pairs.parts:
        products += backend.inner_products(weights, gradients, groups, group_count).to(device)
    return products


def add_slopes(pairs: TensorPairs, grids: GridSet, slopes: torch.Tensor) -> None:
    """Add to every gradient the slope of the half cell that its weight lies in.

    Parameters
    ----------
    pairs
        Weights and gradients; the gradients are changed in place.
    grids
        Grid of every group.
    slopes
        Slope on the lower and the upper half of every cell in turn, float64 of shape (G, 2 (C - 1)); a weight in the
        middle of a cell is in its upper half.
    """
    for backend, weights, gradients, groups in pairs.parts:
        device = weights[0].device
        backend.add_slopes(weights, gradients, groups, grids.on(device), slopes.to(device))


def begin(watch: BucketWatch, grids: GridSet) -> None:
    """Take the buckets that the latent weights of `watch` are in for those they have always been in."""
    torch_passes.begin(watch, grids.on(watch.latent.device))


def restore(watch: BucketWatch, parameters: Sequence[torch.Tensor], factors: torch.Tensor) -> None:
    """Multiply the latent weights of `watch` by the factor of their group and copy them to `parameters`.

    `factors` is of shape (G,).
    """
    _backend(parameters, [watch.latent]).restore(watch, parameters, factors.to(watch.latent.device))


def snap(watch: BucketWatch, parameters: Sequence[torch.Tensor], grids: GridSet, *, freeze_above: float | None) -> None:
    """Take the updated `parameters` over into the latent weights of `watch` and snap them to their buckets.

    Frozen weights stay where they are. With `freeze_above`, weights whose bucket changes more often than this per step
    are moved to the bucket they average to and frozen.
    """
    _backend(parameters, [watch.latent]).snap(watch, parameters, grids.on(watch.latent.device), freeze_above)


def _zeros(grids: GridSet, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(len(grids), grids.count, dtype=dtype, device=grids.device)


def _nan_if(strange: torch.Tensor) -> torch.Tensor:
    """NaN if weights are not finite, else 1."""
    return torch.where(strange == 0, 1.0, torch.nan).double()


def _joined(counts: torch.Tensor, fractions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums by cell, of shape (G, C - 1): weights on the last value are at the end of the last cell."""
    on_last = counts[:, -1]
    counts, fractions = counts[:, :-1], fractions[:, :-1]
    counts[:, -1] += on_last
    fractions[:, -1] += on_last
    return counts, fractions


def _parts(
    tensors: Sequence[torch.Tensor], groups: Sequence[int]
) -> Iterator[tuple[ModuleType, list[torch.Tensor], list[int]]]:
    """Tensors and groups that go through one call of a backend."""
    for backend, chosen in _by_backend(tensors):
        yield backend, [tensors[t] for t in chosen], [groups[t] for t in chosen]


def _by_backend(*lists: Sequence[torch.Tensor]) -> list[tuple[ModuleType, list[int]]]:
    """Backends, and positions of the tensors that one call of each can take.

    Tensors at one position go together.
    """
    if _backend(*lists) is compiled_passes:
        return [(compiled_passes, list(range(len(lists[0]))))]
    chosen: dict[tuple[ModuleType, torch.dtype, torch.device], list[int]] = {}
    for position, together in enumerate(zip(*lists, strict=True)):
        key = _backend(together), together[0].dtype, together[0].device
        chosen.setdefault(key, []).append(position)
    return [(backend, positions) for (backend, *_), positions in chosen.items()]


def _backend(*lists: Sequence[torch.Tensor]) -> ModuleType:
    """What one call with all tensors needs."""
    kinds = {(tensor.dtype, tensor.is_cpu, tensor.is_contiguous()) for tensors in lists for tensor in tensors}
    return compiled_passes if len(kinds) == 1 and kinds <= COMPILED_KINDS else torch_passes
