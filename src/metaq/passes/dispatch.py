"""One call for all tensors, whichever backends they need."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.errors import NonFiniteError
from metaq.passes import compiled_passes, torch_passes
from metaq.passes.fixed_point import UNIT_BITS
from metaq.passes.grids import GridSet
from metaq.passes.watch import BucketWatch

COMPILED_DTYPES = (torch.float32, torch.float64)


def cell_sums(
    tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights in every cell, and the sum of their distances from its left end in steps.

    Weights outside the range count as lying on the end value; one on the last value is in the last cell, at its end.

    Parameters
    ----------
    tensors
        Floating tensors of any shape, dtype and device.
    groups
        Number of the group of every tensor, below ``len(grids)``.
    grids
        Grid of every group.

    Returns
    -------
    counts, fractions
        float64 of shape (G, C - 1); every distance is rounded to a multiple of 2^-32 steps.

    Raises
    ------
    NonFiniteError
        If a weight is NaN or infinite.
    """
    counts = np.zeros((len(grids), grids.count), np.int64)
    units = np.zeros((len(grids), grids.count), np.int64)
    finite = True
    for backend, chosen in _by_backend(tensors):
        part = [tensors[t] for t in chosen]
        finite &= backend.add_cell_sums(part, [groups[t] for t in chosen], grids, counts, units)
    _require_finite(finite)
    on_last = counts[:, -1:]
    inner = counts[:, :-1].astype(np.float64)
    fractions = np.ldexp(units[:, :-1].astype(np.float64), -UNIT_BITS)
    inner[:, -1:] += on_last
    fractions[:, -1:] += on_last
    return inner, fractions


def bucket_counts(tensors: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> NDArray[np.float64]:
    """Weights in every bucket by the rule of :meth:`metaq.grid.BucketGrid.assign`: float64 of shape (G, C).

    Arguments and errors are those of :func:`cell_sums`.
    """
    counts = np.zeros((len(grids), grids.count), np.int64)
    finite = True
    for backend, chosen in _by_backend(tensors):
        part = [tensors[t] for t in chosen]
        finite &= backend.add_bucket_counts(part, [groups[t] for t in chosen], grids, counts)
    _require_finite(finite)
    return counts.astype(np.float64)


def inner_products(
    left: Sequence[torch.Tensor], right: Sequence[torch.Tensor], groups: Sequence[int], group_count: int
) -> NDArray[np.float64]:
    """Σ left · right over all pairs of tensors of a group: float64 of shape (G,)."""
    products = np.zeros(group_count)
    for backend, chosen in _by_backend(left, right):
        pairs = [left[t] for t in chosen], [right[t] for t in chosen]
        backend.add_inner_products(*pairs, [groups[t] for t in chosen], products)
    return products


def add_slopes(
    weights: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    groups: Sequence[int],
    grids: GridSet,
    slopes: NDArray[np.float64],
) -> None:
    """Add to every gradient the slope of the half cell that its weight lies in.

    Parameters
    ----------
    weights, gradients
        Pairs of tensors of the same shape and dtype; the gradients are changed in place.
    groups, grids
        As in :func:`cell_sums`.
    slopes
        Slope on the lower and the upper half of every cell in turn, float64 of shape (G, 2 (C - 1)); a weight in the
        middle of a cell is in its upper half.
    """
    for backend, chosen in _by_backend(weights, gradients):
        pairs = [weights[t] for t in chosen], [gradients[t] for t in chosen]
        backend.add_slopes(*pairs, [groups[t] for t in chosen], grids, slopes)


def restore(watch: BucketWatch, parameters: Sequence[torch.Tensor], factors: NDArray[np.float64]) -> None:
    """Multiply the latent weights of `watch` by the factor of their group and copy them to `parameters`.

    `factors` is of shape (G,).
    """
    backend = compiled_passes if _is_compiled([watch.latent, *parameters]) else torch_passes
    backend.restore(watch, parameters, factors)


def snap(watch: BucketWatch, parameters: Sequence[torch.Tensor], grids: GridSet, *, freeze_above: float | None) -> None:
    """Take the updated `parameters` over into the latent weights of `watch` and snap them to their buckets.

    Frozen weights stay where they are. With `freeze_above`, weights whose bucket changes more often than this per step
    are moved to the bucket they average to and frozen.
    """
    backend = compiled_passes if _is_compiled([watch.latent, *parameters]) else torch_passes
    backend.snap(watch, parameters, grids, freeze_above)


def _by_backend(*lists: Sequence[torch.Tensor]) -> list[tuple[ModuleType, list[int]]]:
    """Positions of the tensors that one backend can take in one call; tensors at one position go together."""
    chosen: dict[tuple[bool, torch.device, torch.dtype], list[int]] = {}
    for position, together in enumerate(zip(*lists, strict=True)):
        key = (_is_compiled(together), together[0].device, together[0].dtype)
        chosen.setdefault(key, []).append(position)
    return [(compiled_passes if key[0] else torch_passes, positions) for key, positions in chosen.items()]


def _is_compiled(tensors: Sequence[torch.Tensor]) -> bool:
    dtype = tensors[0].dtype
    if dtype not in COMPILED_DTYPES:
        return False
    return all(tensor.is_cpu and tensor.dtype == dtype and tensor.is_contiguous() for tensor in tensors)


def _require_finite(finite: bool) -> None:
    if not finite:
        raise NonFiniteError("weights: training has diverged to NaN or infinity; lower the learning rate.")
