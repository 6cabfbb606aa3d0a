"""Passes by PyTorch operations: tensors of one dtype on one device, whatever they are.

Tensors are laid side by side in chunks, so that the number of operations does not grow with the number of tensors and
temporary memory not with that of weights. What groups have is wanted as tensors on the device, so that nothing waits
for the host; results stay there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from metaq.entropy.passes.grids import (
    COUNT_SHIFT,
    CPU,
    SLOT_CAPACITY,
    UNIT_BITS,
    GridSet,
    bucket_indices,
    bucket_values,
)
from metaq.entropy.passes.watch import MEMORY, BucketWatch

CPU_CHUNK = 1 << 18
"""Weights laid side by side at a time on a CPU."""

SMALLEST_CHUNK, LARGEST_CHUNK = 1 << 20, 1 << 23
CHUNKS = 8
"""Elsewhere all weights make this many chunks, within these bounds."""


@dataclass(frozen=True)
class _Piece:
    """Rows of a tensor, or all of it, and where they lie among the weights of all tensors."""

    tensor: int
    rows: slice | None
    start: int
    count: int

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """This piece of its tensor; a view."""
        tensor = tensors[self.tensor].detach()
        return tensor if self.rows is None else tensor[self.rows]


def cell_totals(tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and sums of units by cell, int64 of shape (G, C), and how many weights are not finite, int64.

    Weights of one cell share out over lanes, so that additions to one address seldom meet.
    """
    device = grids.device
    cells = len(grids) * grids.count
    totals = torch.zeros(2 * cells + 1, dtype=torch.int64, device=device)
    last = float((grids.count - 1) << UNIT_BITS)
    for pieces in _chunks(tensors):
        weights, group = _side_by_side(pieces, tensors), _group_of(pieces, groups, device)
        positions = _positions(weights, group, grids, 2.0**UNIT_BITS, last).add_(0.5).long()
        packed = (positions & ((1 << UNIT_BITS) - 1)) + (1 << COUNT_SHIFT)
        slots = _slots(packed, group, positions >> UNIT_BITS, grids)
        totals[:cells] += (slots >> COUNT_SHIFT).sum(dim=0)
        totals[cells:-1] += (slots & ((1 << COUNT_SHIFT) - 1)).sum(dim=0)
        totals[-1] += torch.isfinite(weights).logical_not_().sum()
    shape = (len(grids), grids.count)
    return totals[:cells].reshape(shape), totals[cells:-1].reshape(shape), totals[-1]


def bucket_totals(tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> tuple[Tensor, Tensor]:
    """Weights by bucket, int64 of shape (G, C), and how many are not finite, int64."""
    device = grids.device
    cells = len(grids) * grids.count
    totals = torch.zeros(cells + 1, dtype=torch.int64, device=device)
    for pieces in _chunks(tensors):
        weights, group = _side_by_side(pieces, tensors), _group_of(pieces, groups, device)
        indices = _bucket_indices(weights, group, grids)
        totals[:-1] += _slots(torch.ones_like(indices), group, indices, grids).sum(dim=0)
        totals[-1] += torch.isfinite(weights).logical_not_().sum()
    return totals[:-1].reshape(len(grids), grids.count), totals[-1]


def inner_products(left: Sequence[Tensor], right: Sequence[Tensor], groups: Sequence[int], group_count: int) -> Tensor:
    """Σ left · right by group: float64 of shape (G,), on the device where all tensors are."""
    device = left[0].device
    products = torch.zeros(group_count, dtype=torch.float64, device=device)
    for pieces in _chunks(left):
        terms = _side_by_side(pieces, left).double().mul_(_side_by_side(pieces, right))
        lengths = _constant(tuple(piece.count for piece in pieces), device)
        of_pieces = torch.segment_reduce(terms, "sum", lengths=lengths, unsafe=True)
        # A product of matrices adds in a fixed order; additions by index would not on every device.
        products += of_pieces @ _members(tuple(groups[piece.tensor] for piece in pieces), group_count, device)
    return products


def add_slopes(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], groups: Sequence[int], grids: GridSet, slopes: Tensor
) -> None:
    """Add slopes of half cells, of shape (G, 2 (C - 1)), to `gradients`."""
    device = slopes.device
    table = slopes.reshape(-1)
    halves = 2 * (grids.count - 1)
    for pieces in _chunks(weights):
        group = _group_of(pieces, groups, device)
        positions = _positions(_side_by_side(pieces, weights), group, grids, 2.0, halves - 1.0).long()
        parts = [piece.of(gradients) for piece in pieces]
        added = table[positions.add_(group * halves)].to(parts[0].dtype)
        torch._foreach_add_(parts, _apart(added, parts))


def snap(watch: BucketWatch, parameters: Sequence[Tensor], grids: GridSet, freeze_above: float | None) -> None:
    """Latent weights, averages and snapped parameters."""
    for pieces in _chunks(parameters):
        span = slice(pieces[0].start, pieces[-1].start + pieces[-1].count)
        latent, frozen, previous = watch.latent[span], watch.frozen[span], watch.previous[span]
        average, flips = watch.average[span], watch.flips[span]
        group = _group_of(pieces, watch.groups, latent.device)
        latent.copy_(torch.where(frozen, latent, _side_by_side(pieces, parameters)))
        indices = _bucket_indices(latent, group, grids)
        flips += (indices != previous).float().sub_(flips).mul_(MEMORY)
        average += indices.float().sub_(average).mul_(MEMORY)
        values = _bucket_values(indices, group, grids).to(latent.dtype)
        if freeze_above is not None:
            usual = average.round().long()
            oscillating = (flips > freeze_above) & ~frozen & ((usual - indices).abs() <= 1)
            indices = torch.where(oscillating, usual, indices)
            values = _bucket_values(indices, group, grids).to(latent.dtype)
            latent.copy_(torch.where(oscillating, values, latent))
            frozen |= oscillating
        previous.copy_(indices)
        parts = [piece.of(parameters) for piece in pieces]
        torch._foreach_copy_(parts, _apart(values, parts))


def rescale(watch: BucketWatch, factors: Tensor, grids: GridSet) -> None:
    """Averages and buckets on grids with other step sizes."""
    middle = (grids.count - 1) / 2
    for kept, group in zip(watch.state_of_tensors(), watch.groups, strict=True):
        kept["average"].sub_(middle).div_(factors[group].to(kept["average"])).add_(middle)
        lower, step_size = grids.lower[group], grids.step_size[group]
        kept["previous"].copy_(bucket_indices(kept["latent"], lower=lower, step_size=step_size, count=grids.count))


def _chunks(tensors: Sequence[Tensor]) -> Iterator[list[_Piece]]:
    """Pieces of tensors in their order, not many more weights than a chunk has at a time; none without elements."""
    total = sum(tensor.numel() for tensor in tensors)
    usual = min(max(total // CHUNKS, SMALLEST_CHUNK), LARGEST_CHUNK)
    limit = CPU_CHUNK if all(tensor.is_cpu for tensor in tensors) else usual
    chunk: list[_Piece] = []
    held = start = 0
    for number, tensor in enumerate(tensors):
        for rows, count in _cuts(tensor, limit):
            if chunk and held + count > limit:
                yield chunk
                chunk, held = [], 0
            chunk.append(_Piece(number, rows, start, count))
            held += count
            start += count
    if chunk:
        yield chunk


def _cuts(tensor: Tensor, limit: int) -> Iterator[tuple[slice | None, int]]:
    """Runs of rows that have at most `limit` elements, or a single one, and how many they have."""
    count = tensor.numel()
    if count == 0:
        return
    if count <= limit or tensor.ndim == 0:
        yield None, count
        return
    row = count // len(tensor)
    step = max(limit // row, 1)
    for first in range(0, len(tensor), step):
        last = min(first + step, len(tensor))
        yield slice(first, last), (last - first) * row


def _side_by_side(pieces: Sequence[_Piece], tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.of(tensors).reshape(-1) for piece in pieces])


def _apart(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of `flat` in the shapes of `tensors`."""
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def _group_of(pieces: Sequence[_Piece], groups: Sequence[int], device: torch.device) -> Tensor:
    """The group of every weight: int64 of shape (n,)."""
    counts = tuple(piece.count for piece in pieces)
    numbers = _constant(tuple(groups[piece.tensor] for piece in pieces), device)
    return torch.repeat_interleave(numbers, _constant(counts, device), output_size=sum(counts))


@lru_cache(maxsize=1 << 12)
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, because bringing numbers to a device makes the host wait."""
    return torch.tensor(values, dtype=torch.int64, device=device)


@lru_cache(maxsize=1 << 10)
def _members(groups: tuple[int, ...], group_count: int, device: torch.device) -> Tensor:
    """1 where a piece belongs to a group: float64 of shape (pieces, G)."""
    table = torch.zeros(len(groups), group_count, dtype=torch.float64, device=CPU)
    table[range(len(groups)), list(groups)] = 1
    return table.to(device)


def _slots(values: Tensor, group: Tensor, cell: Tensor, grids: GridSet) -> Tensor:
    """Sums of `values` by lane and by cell of all groups: int64 of shape (lanes, G C)."""
    cells = len(grids) * grids.count
    lanes = 2 * -(-len(values) // SLOT_CAPACITY)
    index = (torch.arange(len(values), device=values.device) % lanes).mul_(cells).add_(group * grids.count).add_(cell)
    slots = torch.zeros(lanes * cells, dtype=torch.int64, device=values.device)
    return slots.scatter_add_(0, index, values).reshape(lanes, cells)


def _positions(weights: Tensor, group: Tensor, grids: GridSet, units_per_step: float, last: float) -> Tensor:
    """Distance from the first reference value in units, float64 in ``[0, last]``; 0 for NaN."""
    distances = weights.double().sub(grids.first[group])
    scale = (units_per_step / grids.step_size)[group]
    return distances.mul_(scale).nan_to_num_(nan=0.0).clamp_(0, last)


def _bucket_indices(weights: Tensor, group: Tensor, grids: GridSet) -> Tensor:
    return bucket_indices(weights, lower=grids.lower[group], step_size=grids.step_size[group], count=grids.count)


def _bucket_values(indices: Tensor, group: Tensor, grids: GridSet) -> Tensor:
    return bucket_values(indices, center=grids.center[group], radius=grids.radius[group], count=grids.count)
