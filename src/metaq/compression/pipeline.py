"""A model and grids that are given: bucket indices, sizes, and a file of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.coding.entropy import zero_order_entropy_bits
from metaq.compression.sorting import sorted_out
from metaq.compression.survey import look_at
from metaq.config import require
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.opened import AnyModel, Weights, open_model, state_dict_of
from metaq.model.selection import select
from metaq.model.stored import Reader
from metaq.model.weights import ANY, FilterFn, alias_of
from metaq.progress import NoProgress
from metaq.quantize.targets import values_of
from metaq.quantize.uniform import Grouping, quantize_array, uniform_grids
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, TiedTensor


def choose_grids(
    source: AnyModel,
    *,
    count: int,
    center: float | None = None,
    radius: float | None = None,
    grouping: Grouping = "tensor",
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
) -> dict[str, BucketGrid]:
    """Uniform grids over the range of the weights, for the tensors that the rules choose, tied ones once.

    What is kept exactly is told by :func:`metaq.model.selection.select`; so are, whatever the rules say, tensors with
    NaN, infinity or numbers far beyond their weights. Tensors of a few values that lie on a grid have that one.

    Parameters
    ----------
    source
        A module, a state dict, or the path of a file or folder.
    count
        Number of buckets C, at least 2.
    center, radius
        Range of the buckets; by default that of the weights. Where weights are exactly zero and no centre is given, it
        is moved by less than a bucket so that zero is a reference value.
    grouping
        ``"tensor"``: every tensor has its own range where none is given; ``"global"``: one for all.
    include, exclude, filter_fn
        See :func:`metaq.model.selection.select`.

    Raises
    ------
    ConfigError
        If no tensor is chosen, or a value does not make a grid.
    FormatError
        If a file or folder cannot be read.
    """
    return chosen_grids(
        source,
        count=count,
        center=center,
        radius=radius,
        grouping=grouping,
        include=include,
        exclude=exclude,
        filter_fn=filter_fn,
    )[0]


def chosen_grids(
    source: AnyModel,
    *,
    count: int,
    center: float | None,
    radius: float | None,
    grouping: Grouping,
    include: Sequence[str],
    exclude: Sequence[str],
    filter_fn: FilterFn | None = None,
) -> tuple[dict[str, BucketGrid], dict[str, str]]:
    """What :func:`choose_grids` gives, and why the other tensors have no grid, by every name of theirs."""
    model = open_model(source)
    selection = select(model, include=include, exclude=exclude, filter_fn=filter_fn)
    names = {model.holders[name]: name for name in selection.names}
    tensors = [tensor for tensor in model.tensors if tensor.name in names]
    with Reader() as reader:
        facts = {tensor.name: look_at(reader, tensor, NoProgress())[0] for tensor in tensors}
        found = sorted_out(reader, tensors, facts)
        arrays = {names[tensor.name]: reader.values(tensor, 0, tensor.count) for tensor in found.weights}
    grids = {names[name]: grid for name, grid in found.grids.items()}
    if arrays:
        grids |= uniform_grids(arrays, count=count, center=center, radius=radius, grouping=grouping)
    reasons = {name: found.reasons[holder] for name, holder in model.holders.items() if holder in found.reasons}
    return {name: grids[name] for name in names.values() if name in grids}, {**selection.reasons, **reasons}


def to_tensors(source: Weights, *, grids: Mapping[str, BucketGrid]) -> list[Tensor]:
    """Bucket indices for every tensor that has a grid, by any of its names, exact bits for the others; tied tensors
    once.

    Raises :class:`ConfigError` if a grid names no tensor, or one that cannot be quantised, or names of a tied tensor
    have different grids.
    """
    state_dict = state_dict_of(source)
    for name in grids:
        require(name in state_dict, f"{name}: a grid is given for it but there is no such tensor.")
    alias = alias_of(state_dict, state_dict)
    by_first: dict[str, BucketGrid] = {}
    for name, grid in grids.items():
        first = alias[name]
        require(
            by_first.setdefault(first, grid) == grid,
            f"{name}: has another grid than {first}, to which it is tied; give one of them.",
        )
    held: dict[str, QuantizedTensor | ExactTensor] = {}
    for name in dict.fromkeys(alias.values()):
        tensor = state_dict[name]
        held[name] = on_grid(name, tensor, by_first[name]) if name in by_first else exact_tensor(name, tensor)
    return [held[name] if name in held else TiedTensor(name=name, first=held[alias[name]]) for name in state_dict]


def exact_tensor(name: str, tensor: torch.Tensor) -> ExactTensor:
    """`tensor` bit for bit; raises :class:`ConfigError` for types that no file can hold."""
    return ExactTensor(name=name, values=checkpoint.to_storage(name, tensor), dtype=checkpoint.dtype_of(name, tensor))


def on_grid(name: str, tensor: torch.Tensor, grid: BucketGrid) -> QuantizedTensor:
    """`tensor` on `grid`; raises :class:`ConfigError` if a value is NaN or infinite."""
    return quantize_array(name, values_of(tensor), grid, checkpoint.dtype_of(name, tensor))


def quantized_state_dict(source: Weights, *, grids: Mapping[str, BucketGrid]) -> StateDict:
    """State dict with every tensor that has a grid snapped to it: what a saved file restores to, bit for bit."""
    return checkpoint.restore(to_tensors(source, grids=grids))


def entropy_bits(tensors: Sequence[Tensor]) -> float:
    """Zero-order entropy of all bucket indices in bits, with one table for all tensors of the same grid."""
    by_grid: dict[BucketGrid, list[NDArray[np.int64]]] = {}
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor):
            by_grid.setdefault(tensor.grid, []).append(tensor.indices.reshape(-1))
    return sum(zero_order_entropy_bits(np.concatenate(indices)) for indices in by_grid.values())


def sizes(state_dict: Mapping[str, torch.Tensor], *, file_bytes: int) -> dict[str, float | int]:
    """Bytes of the file beside those of the tensors, tied ones once: ``bytes``, ``float_bytes``, ``ratio``, …"""
    held = [state_dict[name] for name in set(alias_of(state_dict, state_dict).values())]
    float_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    weights = sum(tensor.numel() for tensor in held)
    return {
        "bytes": file_bytes,
        "float_bytes": float_bytes,
        "ratio": float_bytes / file_bytes,
        "weights": weights,
        "bits_per_weight": 8 * file_bytes / max(weights, 1),
    }
