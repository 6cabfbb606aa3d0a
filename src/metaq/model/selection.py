"""Which tensors of a trained model are quantised, and why the others are not."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq.coding.entropy import zero_order_entropy_bits
from metaq.container.grids import grids_bytes
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.sharding import is_sharded, unwrapped, whole
from metaq.model.weights import ANY, FilterFn, alias_of, choose, require_values, why_not_quantizable
from metaq.tensors.grid import BucketGrid

Source = nn.Module | Mapping[str, torch.Tensor]

RUNNING_STATISTICS = ("running_mean", "running_var")
"""Last parts of the names under which batch normalisation keeps its running statistics."""

SINGULAR_VECTORS = ("_u", "_v")
"""Ends of the names under which spectral normalisation keeps its estimates of singular vectors."""

TOO_SMALL = "too small to pay"
NO_GRID = "no grid was given"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a model is quantised.

    Attributes
    ----------
    names
        The tensors to quantise, tied ones by one name.
    alias
        For every name of the state dict the one that its tensor goes by: itself unless it is tied.
    reasons
        Why the others are stored exactly, by every name of theirs.
    is_default
        Whether nobody has said what to quantise, so that what does not pay may be left out.
    """

    names: tuple[str, ...]
    alias: Mapping[str, str]
    reasons: Mapping[str, str]
    is_default: bool

    def reasons_without(self, left: Iterable[str]) -> dict[str, str]:
        """The reasons where, of the tensors to quantise, only those `left` were found to pay."""
        paying = set(left)
        small = {name: TOO_SMALL for name, first in self.alias.items() if first in self.names and first not in paying}
        return {**self.reasons, **small}


def select(
    source: Source,
    *,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
) -> Selection:
    """The floating tensors that the rules choose, buffers apart.

    Parameters
    ----------
    source
        A module or a state dict. A state dict does not tell its buffers; there the running statistics of batch
        normalisation and the vectors of spectral normalisation are left out.
    include, exclude
        Name globs. A tied tensor is included by any of its names, and excluded by any.
    filter_fn
        Called once for every floating parameter that the globs leave, with its first name.

    Raises
    ------
    ConfigError
        If a glob matches no tensor, nothing is left, or a tensor is of a kind that no file can hold.
    """
    state_dict, parameters = state_dict_of(source), _named_parameters(source)
    tensors = {name: parameters.get(name, tensor) for name, tensor in state_dict.items()}
    reasons = _reasons(source, state_dict)
    chosen, why = choose(tensors, reasons, include=include, exclude=exclude, filter_fn=filter_fn)
    return Selection(
        names=tuple(chosen),
        alias=alias_of(state_dict, dict.fromkeys([*chosen, *state_dict])),
        reasons=why,
        is_default=tuple(include) == ANY and filter_fn is None,
    )


def reasons_without_grids(source: Source, grids: Mapping[str, BucketGrid]) -> dict[str, str]:
    """Why the tensors that have no grid are stored exactly, by every name of theirs."""
    state_dict, parameters = state_dict_of(source), _named_parameters(source)
    frozen = {name: "frozen, " + NO_GRID for name, parameter in parameters.items() if not parameter.requires_grad}
    return {**dict.fromkeys(state_dict.keys() - grids.keys(), NO_GRID), **frozen, **_reasons(source, state_dict)}


def state_dict_of(source: Source) -> StateDict:
    """The state dict of a module, or a copy of the mapping itself; sharded tensors are gathered from all processes.

    Wrappers of the module, such as ``DistributedDataParallel``, leave no trace in the names.

    Raises
    ------
    ConfigError
        If a value is not a tensor, or has no values yet.
    """
    state_dict = dict(unwrapped(source).state_dict() if isinstance(source, nn.Module) else source)
    # Tied parameters are one; gathered by themselves, they would be two.
    same = {name: id(parameter) for name, parameter in _named_parameters(source).items()}
    gathered: dict[int, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        require_values(name, tensor)
        if is_sharded(tensor):
            key = same.get(name, id(tensor))
            gathered[key] = state_dict[name] = gathered[key] if key in gathered else whole(tensor)
    return state_dict


def parameters_of(source: Source) -> list[torch.Tensor]:
    """The parameters of a module, or all tensors of a mapping."""
    return list(source.parameters() if isinstance(source, nn.Module) else source.values())


def _named_parameters(source: Source) -> dict[str, nn.Parameter]:
    """Parameters of a module by all of their names; none of a mapping."""
    return dict(unwrapped(source).named_parameters(remove_duplicate=False)) if isinstance(source, nn.Module) else {}


def pays(values: NDArray[np.floating], grid: BucketGrid, *, element_bytes: int, shares_grid: bool) -> bool:
    """Whether the grid and the zero-order entropy of the bucket indices take fewer bytes than the elements do.

    A single number never pays.

    Parameters
    ----------
    values
        Finite weights of any shape.
    grid
        Their grid.
    element_bytes
        Size of an element as the model holds it.
    shares_grid
        Whether other tensors pay for the grid.
    """
    if values.size == 1:
        return False
    whole = values.size * element_bytes
    grid_bytes = 0 if shares_grid else len(grids_bytes([grid]))
    if grid_bytes + values.size * np.log2(grid.count) / 8 < whole:
        return True
    return grid_bytes + zero_order_entropy_bits(grid.assign(values).reshape(-1)) / 8 < whole


def _reasons(source: Source, state_dict: StateDict) -> dict[str, str]:
    """Why tensors can only be stored exactly, or must be, whatever the rules say."""
    named = unwrapped(source).named_buffers(remove_duplicate=False) if isinstance(source, nn.Module) else ()
    buffers = {name for name, _ in named}
    reasons = {}
    for name, tensor in state_dict.items():
        # Refuses what no file can hold.
        checkpoint.dtype_of(name, tensor)
        reason = why_not_quantizable(tensor) or kind_of_buffer(name, state_dict)
        if reason is None and name in buffers:
            reason = "buffer"
        if reason is not None:
            reasons[name] = reason
    return reasons


def kind_of_buffer(name: str, names: Container[str]) -> str | None:
    """What a tensor of a model with these `names` is by its name, if that tells that it is no weight."""
    if name.rpartition(".")[2] in RUNNING_STATISTICS:
        return "running statistics of batch normalisation"
    if name.endswith(SINGULAR_VECTORS):
        stem = name.removesuffix(name[-2:])
        # The second is the older way, torch.nn.utils.spectral_norm.
        if ".parametrizations." in f".{name}" or f"{stem}_orig" in names:
            return "vectors of spectral normalisation"
    return None
