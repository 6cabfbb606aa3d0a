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

COMPILED_KINDS = {(torch.float32, True, True), (torch.float64, True, True)}
"""Dtype, on a CPU, contiguous."""


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


def inner_products(pairs: TensorPairs, group_count: int) -> NDArray[np.float64]:
    """Σ weight · gradient over all pairs of a group: float64 of shape (G,)."""
    products = np.zeros(group_count)
    for backend, weights, gradients, groups in pairs.parts:
        backend.add_inner_products(weights, gradients, groups, products)
    return products


def add_slopes(pairs: TensorPairs, grids: GridSet, slopes: NDArray[np.float64]) -> None:
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
        backend.add_slopes(weights, gradients, groups, grids, slopes)


def restore(watch: BucketWatch, parameters: Sequence[torch.Tensor], factors: NDArray[np.float64]) -> None:
    """Multiply the latent weights of `watch` by the factor of their group and copy them to `parameters`.

    `factors` is of shape (G,).
    """
    backend = compiled_passes if _are_compiled([watch.latent], parameters) else torch_passes
    backend.restore(watch, parameters, factors)


def snap(watch: BucketWatch, parameters: Sequence[torch.Tensor], grids: GridSet, *, freeze_above: float | None) -> None:
    """Take the updated `parameters` over into the latent weights of `watch` and snap them to their buckets.

    Frozen weights stay where they are. With `freeze_above`, weights whose bucket changes more often than this per step
    are moved to the bucket they average to and frozen.
    """
    backend = compiled_passes if _are_compiled([watch.latent], parameters) else torch_passes
    backend.snap(watch, parameters, grids, freeze_above)


def _by_backend(*lists: Sequence[torch.Tensor]) -> list[tuple[ModuleType, list[int]]]:
    """Positions of the tensors that one backend can take in one call; tensors at one position go together."""
    if _are_compiled(*lists):
        return [(compiled_passes, list(range(len(lists[0]))))]
    chosen: dict[tuple[ModuleType, torch.dtype, torch.device | None], list[int]] = {}
    for position, together in enumerate(zip(*lists, strict=True)):
        dtype, device = together[0].dtype, together[0].device
        key = (compiled_passes, dtype, None) if _are_compiled(together) else (torch_passes, dtype, device)
        chosen.setdefault(key, []).append(position)
    return [(key[0], positions) for key, positions in chosen.items()]


def _are_compiled(*lists: Sequence[torch.Tensor]) -> bool:
    """Whether one call of the compiled passes can take all tensors."""
    kinds = {(tensor.dtype, tensor.is_cpu, tensor.is_contiguous()) for tensors in lists for tensor in tensors}
    return len(kinds) == 1 and kinds <= COMPILED_KINDS


def _require_finite(finite: bool) -> None:
    if not finite:
        raise NonFiniteError("weights: training has diverged to NaN or infinity; lower the learning rate.")
