"""Passes by PyTorch operations: tensors of one dtype on one device, whatever they are.

Tensors are laid side by side in chunks, so that the number of operations does not grow with the number of tensors, and
results go to the host once a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.passes.fixed_point import COUNT_SHIFT, SLOT_CAPACITY, UNIT_BITS
from metaq.passes.grids import GridSet
from metaq.passes.watch import MEMORY, BucketWatch

CHUNK_SIZES = {"cpu": 1 << 18, "cuda": 1 << 23}
"""Weights laid side by side at a time, by type of device."""


def add_cell_sums(
    tensors: Sequence[torch.Tensor],
    groups: Sequence[int],
    grids: GridSet,
    counts: NDArray[np.int64],
    units: NDArray[np.int64],
) -> bool:
    """Add to `counts` and `units`, int64 of shape (G, C), by cell; whether all weights are finite.

    Weights of one cell share out over lanes, so that additions to one address seldom meet.
    """
    cells = len(grids) * grids.count
    totals = torch.zeros(2 * cells + 1, dtype=torch.int64, device=tensors[0].device)
    for weights, group in _chunks(tensors, groups):
        last = float((grids.count - 1) << UNIT_BITS)
        scale = 2.0**UNIT_BITS / grids.step_size
        positions = _positions(weights, group, grids.first, scale, last).add_(0.5).long()
        lanes = 2 * -(-weights.numel() // SLOT_CAPACITY)
        lane = torch.arange(weights.numel(), device=weights.device) % lanes
        index = lane.mul_(cells).add_(group * grids.count).add_(positions >> UNIT_BITS)
        packed = (positions & ((1 << UNIT_BITS) - 1)) + (1 << COUNT_SHIFT)
        slots = torch.zeros(lanes * cells, dtype=torch.int64, device=weights.device).scatter_add_(0, index, packed)
        totals[:cells] += (slots >> COUNT_SHIFT).reshape(lanes, cells).sum(dim=0)
        totals[cells:-1] += (slots & ((1 << COUNT_SHIFT) - 1)).reshape(lanes, cells).sum(dim=0)
        totals[-1] += torch.isfinite(weights).logical_not_().sum()
    host = totals.cpu().numpy()
    counts += host[:cells].reshape(counts.shape)
    units += host[cells:-1].reshape(units.shape)
    return bool(host[-1] == 0)


def add_bucket_counts(
    tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet, counts: NDArray[np.int64]
) -> bool:
    """Add to `counts`, int64 of shape (G, C), by bucket; whether all weights are finite."""
    cells = len(grids) * grids.count
    totals = torch.zeros(cells + 1, dtype=torch.int64, device=tensors[0].device)
    for weights, group in _chunks(tensors, groups):
        lanes = 2 * -(-weights.numel() // SLOT_CAPACITY)
        lane = torch.arange(weights.numel(), device=weights.device) % lanes
        index = lane.mul_(cells).add_(group * grids.count).add_(_bucket_indices(weights, group, grids))
        slots = torch.zeros(lanes * cells, dtype=torch.int64, device=weights.device)
        slots.scatter_add_(0, index, torch.ones_like(index))
        totals[:-1] += slots.reshape(lanes, cells).sum(dim=0)
        totals[-1] += torch.isfinite(weights).logical_not_().sum()
    host = totals.cpu().numpy()
    counts += host[:-1].reshape(counts.shape)
    return bool(host[-1] == 0)


def add_inner_products(
    left: Sequence[torch.Tensor], right: Sequence[torch.Tensor], groups: Sequence[int], products: NDArray[np.float64]
) -> None:
    """Add to `products`, float64 of shape (G,)."""
    terms = _side_by_side(left).double().mul_(_side_by_side(right))
    sizes = torch.tensor([tensor.numel() for tensor in left], device=terms.device)
    totals = torch.segment_reduce(terms, "sum", lengths=sizes)
    np.add.at(products, np.array(groups), totals.cpu().numpy())


def add_slopes(
    weights: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    groups: Sequence[int],
    grids: GridSet,
    slopes: NDArray[np.float64],
) -> None:
    """Add slopes of half cells, of shape (G, 2 (C - 1)), to `gradients`."""
    table = torch.from_numpy(slopes).to(weights[0].device).to(weights[0].dtype)
    halves = 2 * (grids.count - 1)
    flat = []
    for chunk, group in _chunks(weights, groups):
        positions = _positions(chunk, group, grids.first, 2.0 / grids.step_size, halves - 1.0).long()
        flat.append(table.reshape(-1)[positions.add_(group * halves)])
    torch._foreach_add_(list(gradients), _apart(torch.cat(flat), gradients))


def restore(watch: BucketWatch, parameters: Sequence[torch.Tensor], factors: NDArray[np.float64]) -> None:
    """Latent weights times the factors of their groups, also for the model."""
    pieces = watch.pieces()
    torch._foreach_mul_(pieces, [float(factors[group]) for group in watch.groups])
    torch._foreach_copy_(list(parameters), _apart(watch.latent, parameters))


def snap(watch: BucketWatch, parameters: Sequence[torch.Tensor], grids: GridSet, freeze_above: float | None) -> None:
    """Latent weights, averages and snapped parameters."""
    updated = _side_by_side(parameters)
    group = _spread(watch.groups, watch.sizes, updated.device)
    watch.latent.copy_(torch.where(watch.frozen, watch.latent, updated))
    indices = _bucket_indices(watch.latent, group, grids)
    watch.flips += (indices != watch.previous).float().sub_(watch.flips).mul_(MEMORY)
    watch.average += indices.float().sub_(watch.average).mul_(MEMORY)
    values = _bucket_values(indices, group, grids).to(updated.dtype)
    if freeze_above is not None:
        oscillating = (watch.flips > freeze_above) & ~watch.frozen
        indices = torch.where(oscillating, watch.average.round().long(), indices)
        values = _bucket_values(indices, group, grids).to(updated.dtype)
        watch.latent.copy_(torch.where(oscillating, values, watch.latent))
        watch.frozen |= oscillating
    watch.previous.copy_(indices)
    torch._foreach_copy_(list(parameters), _apart(values, parameters))


def _side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _apart(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views of `flat` in the shapes of `tensors`."""
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def _spread(groups: Sequence[int], sizes: Sequence[int], device: torch.device) -> torch.Tensor:
    """The group of every weight: int64 of shape (n,)."""
    repeats = torch.tensor(sizes, device=device)
    return torch.repeat_interleave(torch.tensor(groups, device=device), repeats, output_size=sum(sizes))


def _chunks(tensors: Sequence[torch.Tensor], groups: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Weights side by side and the group of each, not many more than a chunk at a time, in the tensors' order."""
    limit = CHUNK_SIZES.get(tensors[0].device.type, CHUNK_SIZES["cuda"])
    parts: list[torch.Tensor] = []
    part_groups: list[int] = []
    held = 0
    for tensor, group in zip(tensors, groups, strict=True):
        for part in torch.split(tensor.detach().reshape(-1), limit):
            if parts and held + part.numel() > limit:
                yield torch.cat(parts), _spread(part_groups, [p.numel() for p in parts], tensor.device)
                parts, part_groups, held = [], [], 0
            parts.append(part)
            part_groups.append(group)
            held += part.numel()
    if parts:
        yield torch.cat(parts), _spread(part_groups, [p.numel() for p in parts], tensors[0].device)


def _of_weights(parameter: NDArray[np.float64], group: torch.Tensor) -> torch.Tensor:
    """A parameter of the grids, for every weight: float64 of the shape of `group`."""
    return torch.from_numpy(parameter).to(group.device)[group]


def _positions(
    weights: torch.Tensor, group: torch.Tensor, first: NDArray[np.float64], scale: NDArray[np.float64], last: float
) -> torch.Tensor:
    """Distance from the first reference value times `scale`, float64 in ``[0, last]``; 0 for NaN."""
    distances = weights.double() - _of_weights(first, group)
    return distances.mul_(_of_weights(scale, group)).nan_to_num_(nan=0.0).clamp_(0, last)


def _bucket_indices(weights: torch.Tensor, group: torch.Tensor, grids: GridSet) -> torch.Tensor:
    """Bucket of every weight by the rule of :meth:`metaq.grid.BucketGrid.assign`, int64; 0 for NaN."""
    positions = (weights.double() - _of_weights(grids.lower, group)).div_(_of_weights(grids.step_size, group))
    return positions.nan_to_num_(nan=0.0).clamp_(0, grids.count - 1).long()


def _bucket_values(indices: torch.Tensor, group: torch.Tensor, grids: GridSet) -> torch.Tensor:
    """Reference values by the formula of :meth:`metaq.grid.BucketGrid.values_of`: float64."""
    numerators = (2 * indices + (1 - grids.count)).double()
    numerators.mul_(_of_weights(grids.radius, group)).div_(grids.count)
    return numerators.add_(_of_weights(grids.center, group))
