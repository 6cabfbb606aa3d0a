"""The road from a model to a file and back: the only place where the stages are joined."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq import checkpoint, container
from metaq.checkpoint import StateDict
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.config import require
from metaq.container import WriteReport
from metaq.grid import BucketGrid
from metaq.quantize import Grouping, quantize_array, uniform_grids
from metaq.tensors import Dtype, ExactTensor, QuantizedTensor, Tensor
from metaq.weights import select_names

Source = nn.Module | Mapping[str, torch.Tensor]

RUNNING_STATISTICS = ("running_mean", "running_var")
"""Last parts of the names under which batch normalisation keeps its running statistics."""

QUANTIZED_DTYPES = tuple(dtype for dtype in Dtype if dtype.is_quantizable and not dtype.is_float8)
"""Types that are quantised in a state dict; the scale of those of eight bits is kept elsewhere."""


def choose_grids(
    source: Source,
    *,
    count: int,
    center: float | None = None,
    radius: float | None = None,
    grouping: Grouping = "tensor",
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> dict[str, BucketGrid]:
    """Uniform grids for post-training quantisation of every floating tensor that the name globs choose.

    Buffers are not quantised: those of a module, and in a state dict the running statistics of batch normalisation.

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
    include, exclude
        Name globs.

    Raises
    ------
    ConfigError
        If no tensor is chosen, a weight is NaN or infinite, or a value does not make a grid.
    """
    state_dict = state_dict_of(source)
    names = select_names(compressible_names(source), include=include, exclude=exclude)
    arrays = {name: state_dict[name].detach().double().cpu().numpy() for name in names}
    return uniform_grids(arrays, count=count, center=center, radius=radius, grouping=grouping)


def compressible_names(source: Source) -> list[str]:
    """Names of the tensors that are quantised unless excluded: floating, not empty, and no buffers.

    A state dict does not tell its buffers; there the running statistics of batch normalisation are left out.
    """
    buffers = {name for name, _ in source.named_buffers()} if isinstance(source, nn.Module) else set()
    return [
        name
        for name in quantizable_names(state_dict_of(source))
        if name not in buffers and name.rpartition(".")[2] not in RUNNING_STATISTICS
    ]


def alias_of(state_dict: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, str]:
    """For each of `names` the first of them that is the same memory: itself unless tensors are tied."""
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    return {name: first.setdefault(_memory(state_dict[name]), name) for name in names}


def quantizable_names(state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the floating tensors with at least one element; all others can only be stored exactly."""
    return [
        name
        for name, tensor in state_dict.items()
        if tensor.numel() > 0 and checkpoint.dtype_of(name, tensor) in QUANTIZED_DTYPES
    ]


def to_tensors(source: Source, *, grids: Mapping[str, BucketGrid]) -> list[Tensor]:
    """Bucket indices for every tensor that has a grid, exact bits for the others.

    Tied tensors of a module share the grid of the name it is listed under.

    Raises
    ------
    ConfigError
        If a grid names no tensor, or one that cannot be quantised.
    """
    state_dict = state_dict_of(source)
    for name in grids:
        require(name in state_dict, f"{name}: a grid is given for it but there is no such tensor.")
    dtypes = {name: checkpoint.dtype_of(name, tensor) for name, tensor in state_dict.items()}
    tied = _tied_grids(state_dict, grids)
    tensors: list[Tensor] = []
    for name, tensor in state_dict.items():
        dtype = dtypes[name]
        if name in tied:
            values = tensor.detach().double().cpu().numpy()
            tensors.append(quantize_array(name, values, tied[name], dtype))
        else:
            tensors.append(ExactTensor(name=name, values=checkpoint.to_storage(name, tensor), dtype=dtype))
    return tensors


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
        ``"small"``, ``"fast"``, the name of another coder, or ``"auto"`` to try all of them on small tensors.

    Returns
    -------
    WriteReport
        Bytes of the file and where they went.

    Raises
    ------
    ConfigError, OutputError
        If a tensor cannot be quantised, or the file cannot be written.
    """
    return container.write(path, to_tensors(source, grids=grids), metadata=metadata, coder=coder)


def load(path: str | os.PathLike[str]) -> StateDict:
    """State dict of a ``.metaq`` file, bit for bit the quantised weights that were saved.

    Raises
    ------
    FormatError
        If the file is missing, damaged, foreign, or of a newer format.
    """
    return checkpoint.weights_of(container.read(path))


def state_dict_of(source: Source) -> StateDict:
    """The state dict of a module, or a copy of the mapping itself."""
    return dict(source.state_dict() if isinstance(source, nn.Module) else source)


def _tied_grids(state_dict: StateDict, grids: Mapping[str, BucketGrid]) -> dict[str, BucketGrid]:
    by_memory = {_memory(state_dict[name]): grid for name, grid in grids.items()}
    tied = {name: by_memory[_memory(t)] for name, t in state_dict.items() if t.numel() and _memory(t) in by_memory}
    return {**tied, **grids}


def _memory(tensor: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def entropy_bits(tensors: Sequence[Tensor]) -> float:
    """Zero-order entropy of all bucket indices in bits, with one table for all tensors of the same grid."""
    by_grid: dict[BucketGrid, list[NDArray[np.int64]]] = {}
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor):
            by_grid.setdefault(tensor.grid, []).append(tensor.indices.reshape(-1))
    return sum(zero_order_entropy_bits(np.concatenate(indices)) for indices in by_grid.values())


def sizes(state_dict: Mapping[str, torch.Tensor], *, file_bytes: int) -> dict[str, float | int]:
    """Bytes of the file beside those of the tensors: ``bytes``, ``float_bytes``, ``ratio``, ``weights``, …"""
    float_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
    weights = sum(tensor.numel() for tensor in state_dict.values())
    return {
        "bytes": file_bytes,
        "float_bytes": float_bytes,
        "ratio": float_bytes / file_bytes,
        "weights": weights,
        "bits_per_weight": 8 * file_bytes / max(weights, 1),
    }
