"""The road from a model to a file and back: the only place where the stages are joined."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from metaq import container
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.config import require
from metaq.container import WriteReport
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.selection import Source as Source
from metaq.model.selection import parameters_of, pays, reasons_without_grids, select
from metaq.model.selection import state_dict_of as state_dict_of
from metaq.model.sharding import in_one_process
from metaq.model.weights import ANY, FilterFn, alias_of
from metaq.quantize import Grouping, quantize_array, uniform_grids
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, TiedTensor


def choose_grids(
    source: Source,
    *,
    count: int,
    center: float | None = None,
    radius: float | None = None,
    grouping: Grouping = "tensor",
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
) -> dict[str, BucketGrid]:
    """Uniform grids for post-training quantisation of the floating tensors that the rules choose, tied ones once.

    Buffers are not quantised: those of a module, and in a state dict the running statistics of batch normalisation and
    the vectors of spectral normalisation. Where neither `include` nor `filter_fn` is given, nor are tensors that do not
    pay: scalars, and those whose grid and bucket indices take no fewer bytes than their elements
    (:func:`metaq.model.selection.pays`).

    Parameters
    ----------
    source
        A module or a state dict.
    count
        Number of buckets C, at least 2.
    center, radius
        Range of the buckets; by default that of the weights.
    grouping
        ``"tensor"``: every tensor has its own range where none is given; ``"global"``: one for all.
    include, exclude, filter_fn
        See :func:`metaq.model.selection.select`.

    Raises
    ------
    ConfigError
        If no tensor is chosen, a weight is NaN or infinite, or a value does not make a grid.
    """
    state_dict = state_dict_of(source)
    selection = select(source, include=include, exclude=exclude, filter_fn=filter_fn)
    arrays = {name: state_dict[name].detach().double().cpu().numpy() for name in selection.names}
    grids = uniform_grids(arrays, count=count, center=center, radius=radius, grouping=grouping)
    if not selection.is_default:
        return grids
    return {
        name: grid
        for name, grid in grids.items()
        if pays(
            arrays[name],
            grid,
            element_bytes=state_dict[name].element_size(),
            shares_grid=grouping == "global" and len(grids) > 1,
        )
    }


def quantizable_names(state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the floating tensors with at least one element; all others can only be stored exactly."""
    return [
        name
        for name, tensor in state_dict.items()
        if tensor.numel() > 0 and checkpoint.dtype_of(name, tensor).kind == "float"
    ]


def to_tensors(source: Source, *, grids: Mapping[str, BucketGrid]) -> list[Tensor]:
    """Bucket indices for every tensor that has a grid, exact bits for the others; tied tensors once.

    Tied tensors have the grid of any of their names.

    Raises
    ------
    ConfigError
        If a grid names no tensor, or one that cannot be quantised, or names of a tied tensor have different grids.
    """
    state_dict = state_dict_of(source)
    for name in grids:
        require(name in state_dict, f"{name}: a grid is given for it but there is no such tensor.")
    alias = alias_of(state_dict, state_dict)
    by_first = _grids_by_first(alias, grids)
    held: dict[str, QuantizedTensor | ExactTensor] = {}
    for name in dict.fromkeys(alias.values()):
        tensor = state_dict[name]
        held[name] = _quantized(name, tensor, by_first[name]) if name in by_first else exact_tensor(name, tensor)
    return [held[name] if name in held else TiedTensor(name=name, first=held[alias[name]]) for name in state_dict]


def exact_tensor(name: str, tensor: torch.Tensor) -> ExactTensor:
    """`tensor` bit for bit; raises :class:`ConfigError` for types that no file can hold."""
    return ExactTensor(name=name, values=checkpoint.to_storage(name, tensor), dtype=checkpoint.dtype_of(name, tensor))


def quantized_state_dict(source: Source, *, grids: Mapping[str, BucketGrid]) -> StateDict:
    """State dict with every tensor that has a grid snapped to it: what a saved file restores to, bit for bit."""
    return checkpoint.restore(to_tensors(source, grids=grids))


def save(
    path: str | os.PathLike[str],
    source: Source,
    *,
    grids: Mapping[str, BucketGrid],
    metadata: Mapping[str, str | int | float] | None = None,
    coder: str = container.DEFAULT_CODER,
) -> WriteReport:
    """Quantise, code and write a model as one self-contained ``.metaq`` file, atomically.

    Where parameters are sharded, every process has to call this, and the first one writes.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    source
        A module or a state dict.
    grids
        Bucket grid by tensor name, as given by ``EntropyRegularizer.grids()`` or :func:`choose_grids`. Tensors without
        one are stored exactly.
    metadata
        Small free facts to keep in the file.
    coder
        ``"small"`` or ``"fast"``.

    Returns
    -------
    WriteReport
        Bytes of the file and where they went, and how much of the model is quantised.

    Raises
    ------
    ConfigError, OutputError
        If a tensor cannot be quantised, or the file cannot be written.
    """
    tensors = to_tensors(source, grids=grids)
    report = in_one_process(
        parameters_of(source), lambda: container.write(path, tensors, metadata=metadata, coder=coder)
    )
    return replace(report, coverage=report.coverage.explained(reasons_without_grids(source, grids)))


def load(path: str | os.PathLike[str]) -> StateDict:
    """State dict of a ``.metaq`` file, bit for bit the quantised weights that were saved.

    Raises
    ------
    FormatError
        If the file is missing, damaged, foreign, or of a newer format.
    """
    return checkpoint.weights_of(container.read(path))


def _grids_by_first(alias: Mapping[str, str], grids: Mapping[str, BucketGrid]) -> dict[str, BucketGrid]:
    """Grids by the first name of every tensor."""
    found: dict[str, BucketGrid] = {}
    for name, grid in grids.items():
        first = alias[name]
        require(
            found.setdefault(first, grid) == grid,
            f"{name}: has another grid than {first}, to which it is tied; give one of them.",
        )
    return found


def _quantized(name: str, tensor: torch.Tensor, grid: BucketGrid) -> QuantizedTensor:
    values = tensor.detach().double().cpu().numpy()
    return quantize_array(name, values, grid, checkpoint.dtype_of(name, tensor))


def entropy_bits(tensors: Sequence[Tensor]) -> float:
    """Zero-order entropy of all bucket indices in bits, with one table for all tensors of the same grid."""
    by_grid: dict[BucketGrid, list[NDArray[np.int64]]] = {}
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor):
            by_grid.setdefault(tensor.grid, []).append(tensor.indices.reshape(-1))
    return sum(zero_order_entropy_bits(np.concatenate(indices)) for indices in by_grid.values())


def model_bytes(state_dict: Mapping[str, torch.Tensor]) -> int:
    """Size in bytes of the tensors as the model holds them, tied ones once."""
    firsts = (state_dict[name] for name in set(alias_of(state_dict, state_dict).values()))
    return sum(tensor.numel() * tensor.element_size() for tensor in firsts)


def sizes(state_dict: Mapping[str, torch.Tensor], *, file_bytes: int) -> dict[str, float | int]:
    """Bytes of the file beside those of the tensors, tied ones once: ``bytes``, ``float_bytes``, ``ratio``, …"""
    float_bytes = model_bytes(state_dict)
    weights = sum(state_dict[name].numel() for name in set(alias_of(state_dict, state_dict).values()))
    return {
        "bytes": file_bytes,
        "float_bytes": float_bytes,
        "ratio": float_bytes / file_bytes,
        "weights": weights,
        "bits_per_weight": 8 * file_bytes / max(weights, 1),
    }
