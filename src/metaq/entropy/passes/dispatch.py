"""One call for all tensors, whichever backends they need.

Where the grids are on the host, results are too; where they are on another device, so are all tensors and results, and
nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from metaq.entropy.passes import compiled_passes, torch_passes
from metaq.entropy.passes.fixed_point import UNIT_BITS
from metaq.entropy.passes.grids import GridSet, GroupArray, on_host
from metaq.entropy.passes.watch import BucketWatch
from metaq.errors import NonFiniteError

COMPILED_KINDS = {(torch.float32, True, True), (torch.float64, True, True)}
"""Dtype, on a CPU, contiguous."""


def cell_sums(tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[GroupArray, GroupArray]:
    """Weights in every cell, and the sum of their distances from its left end in steps.

    Weights outside the range count as lying on the end value; one on the last value is in the last cell, at its end.

    Parameters
    ----------
    tensors
        Floating tensors of any shape and dtype, on any device if the grids are on the host.
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
    device = _device_of(grids)
    if device is not None:
        counts, units, strange = torch_passes.cell_totals(tensors, groups, grids)
        scale = torch.where(strange == 0, 1.0, torch.nan).double()
        return _joined(counts * scale, units * (scale * 2.0**-UNIT_BITS))
    totals, sums = (np.zeros((len(grids), grids.count), np.int64) for _ in range(2))
    is_finite = True
    for is_compiled, chosen in _by_backend(tensors):
        part, of_part = [tensors[t] for t in chosen], [groups[t] for t in chosen]
        if is_compiled:
            is_finite &= compiled_passes.add_cell_sums(part, of_part, grids, totals, sums)
            continue
        counts, units, strange = torch_passes.cell_totals(part, of_part, grids.on(part[0].device))
        totals += counts.cpu().numpy()
        sums += units.cpu().numpy()
        is_finite &= int(strange) == 0
    unit = 1.0 if is_finite else np.nan
    return _joined(totals * unit, sums * (unit * 2.0**-UNIT_BITS))


def bucket_counts(tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> GroupArray:
    """Weights in every bucket by the rule of :meth:`metaq.tensors.grid.BucketGrid.assign`: float64 of shape (G, C).

    Arguments are those of :func:`cell_sums`; all NaN if a weight is NaN or infinite.
    """
    if _device_of(grids) is not None:
        counts, strange = torch_passes.bucket_totals(tensors, groups, grids)
        return counts * torch.where(strange == 0, 1.0, torch.nan).double()
    totals = np.zeros((len(grids), grids.count), np.int64)
    is_finite = True
    for is_compiled, chosen in _by_backend(tensors):
        part, of_part = [tensors[t] for t in chosen], [groups[t] for t in chosen]
        if is_compiled:
            is_finite &= compiled_passes.add_bucket_counts(part, of_part, grids, totals)
            continue
        counts, strange = torch_passes.bucket_totals(part, of_part, grids.on(part[0].device))
        totals += counts.cpu().numpy()
        is_finite &= int(strange) == 0
    return totals * (1.0 if is_finite else np.nan)


def require_finite(*sums: GroupArray) -> None:
    """Refuse sums over weights of which one is not finite; waits for the device if it has to.

    Raises
    ------
    NonFiniteError
        If there is NaN or infinity among `sums`.
    """
    if not all(bool(np.isfinite(on_host(array)).all()) for array in sums):
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
            (is_compiled, [weights[t] for t in chosen], [gradients[t] for t in chosen], [groups[t] for t in chosen])
            for is_compiled, chosen in _by_backend(weights, gradients)
        ]


def inner_products(pairs: TensorPairs, group_count: int, device: torch.device | None = None) -> GroupArray:
    """Σ weight · gradient over all pairs of a group: float64 of shape (G,), on the host if `device` is None."""
    if device is not None:
        return torch_passes.inner_products(pairs.weights, pairs.gradients, pairs.groups, group_count, device)
    products = np.zeros(group_count)
    for is_compiled, weights, gradients, groups in pairs.parts:
        if is_compiled:
            compiled_passes.add_inner_products(weights, gradients, groups, products)
        else:
            found = torch_passes.inner_products(weights, gradients, groups, group_count, weights[0].device)
            products += found.cpu().numpy()
    return products


def add_slopes(pairs: TensorPairs, grids: GridSet, slopes: GroupArray) -> None:
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
    for is_compiled, weights, gradients, groups in pairs.parts:
        if is_compiled and _device_of(grids) is None:
            compiled_passes.add_slopes(weights, gradients, groups, grids, on_host(slopes))
        else:
            device = weights[0].device
            torch_passes.add_slopes(weights, gradients, groups, grids.on(device), _on(slopes, device))


def begin(watch: BucketWatch, grids: GridSet) -> None:
    """Take the buckets that the latent weights of `watch` are in for those they have always been in."""
    torch_passes.begin(watch, grids.on(watch.latent.device))


def restore(watch: BucketWatch, parameters: Sequence[torch.Tensor], factors: GroupArray) -> None:
    """Multiply the latent weights of `watch` by the factor of their group and copy them to `parameters`.

    `factors` is of shape (G,).
    """
    if isinstance(factors, np.ndarray) and _are_compiled([watch.latent], parameters):
        compiled_passes.restore(watch, parameters, factors)
    else:
        torch_passes.restore(watch, parameters, _on(factors, watch.latent.device))


def snap(watch: BucketWatch, parameters: Sequence[torch.Tensor], grids: GridSet, *, freeze_above: float | None) -> None:
    """Take the updated `parameters` over into the latent weights of `watch` and snap them to their buckets.

    Frozen weights stay where they are. With `freeze_above`, weights whose bucket changes more often than this per step
    are moved to the bucket they average to and frozen.
    """
    if _device_of(grids) is None and _are_compiled([watch.latent], parameters):
        compiled_passes.snap(watch, parameters, grids, freeze_above)
    else:
        torch_passes.snap(watch, parameters, grids.on(watch.latent.device), freeze_above)


def _joined(counts: GroupArray, fractions: GroupArray) -> tuple[GroupArray, GroupArray]:
    """Sums by cell, of shape (G, C - 1): weights on the last value are at the end of the last cell."""
    on_last = counts[:, -1]
    counts, fractions = counts[:, :-1], fractions[:, :-1]
    counts[:, -1] += on_last
    fractions[:, -1] += on_last
    return counts, fractions


def _by_backend(*lists: Sequence[torch.Tensor]) -> list[tuple[bool, list[int]]]:
    """Whether they are for the compiled passes, and positions of tensors that one call can take.

    Tensors at one position go together.
    """
    if _are_compiled(*lists):
        return [(True, list(range(len(lists[0]))))]
    chosen: dict[tuple[bool, torch.dtype, torch.device | None], list[int]] = {}
    for position, together in enumerate(zip(*lists, strict=True)):
        dtype, device = together[0].dtype, together[0].device
        key = (True, dtype, None) if _are_compiled(together) else (False, dtype, device)
        chosen.setdefault(key, []).append(position)
    return [(key[0], positions) for key, positions in chosen.items()]


def _are_compiled(*lists: Sequence[torch.Tensor]) -> bool:
    """Whether one call of the compiled passes can take all tensors."""
    kinds = {(tensor.dtype, tensor.is_cpu, tensor.is_contiguous()) for tensors in lists for tensor in tensors}
    return len(kinds) == 1 and kinds <= COMPILED_KINDS


def _device_of(grids: GridSet) -> torch.device | None:
    """The device that nothing may leave, or None where the grids are on the host."""
    return grids.radius.device if isinstance(grids.radius, torch.Tensor) else None


def _on(array: GroupArray, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(array, device=device)
