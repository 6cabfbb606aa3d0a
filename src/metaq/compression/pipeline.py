"""A model and grids that are given, or chosen by the range of the weights: bucket indices and sizes of its file."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq import container
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.compression.options import globs, require_functions, require_model
from metaq.compression.survey import look_at, sorted_out
from metaq.config import require
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.norms import rounded_norms
from metaq.model.opened import AnyModel, Weights, open_model, state_dict_of
from metaq.model.selection import select
from metaq.model.sharding import unwrapped
from metaq.model.stored import Reader
from metaq.model.structure import Chain, arranged_like, arrangement, arrangements, find_chains
from metaq.model.weights import ANY, FilterFn, alias_of
from metaq.progress import NoProgress, Progress
from metaq.quantize.allocation import values_of
from metaq.quantize.uniform import Grouping, quantize_array, uniform_grids
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, under_all_names

HARDLY_MORE = 1.01
"""What a file may take more than the smallest one where it is more like the one before."""


class ChosenGrids(dict[str, BucketGrid]):
    """Bucket grids by name of the tensor; `reasons` tell by every name why the other tensors have none."""

    def __init__(self, grids: Mapping[str, BucketGrid], reasons: Mapping[str, str]) -> None:
        super().__init__(grids)
        self.reasons = reasons


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
) -> ChosenGrids:
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
    require_model("source", source)
    require_functions(filter_fn=filter_fn)
    model = open_model(source)
    selection = select(model, include=globs("include", include), exclude=globs("exclude", exclude), filter_fn=filter_fn)
    names = {model.holders[name]: name for name in selection.names}
    tensors = [tensor for tensor in model.tensors if tensor.name in names]
    with Reader() as reader:
        facts = {tensor.name: look_at(reader, tensor, NoProgress())[0] for tensor in tensors}
        found = sorted_out(reader, tensors, facts)
        arrays = {names[tensor.name]: reader.values(tensor, 0, tensor.count) for tensor in found.weights}
    grids = {names[name]: grid for name, grid in found.grids.items()}
    if arrays:
        grids |= uniform_grids(arrays, count=count, center=center, radius=radius, grouping=grouping)
    found_grids = {name: grids[name] for name in names.values() if name in grids}
    return ChosenGrids(found_grids, {**selection.reasons, **model.under_all_names(found.reasons)})


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
    return under_all_names(held, alias)


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
    by_grid: dict[BucketGrid, list[NDArray[np.integer]]] = {}
    for tensor in tensors:
        if isinstance(tensor, QuantizedTensor):
            by_grid.setdefault(tensor.grid, []).append(tensor.indices.reshape(-1))
    return sum(zero_order_entropy_bits(np.concatenate(indices)) for indices in by_grid.values())


def sizes(state_dict: Mapping[str, torch.Tensor], *, file_bytes: int) -> dict[str, float | int]:
    """Bytes of the file beside those of the tensors, tied ones once: ``bytes``, ``float_bytes``, ``ratio``, …"""
    held = [state_dict[name] for name in set(alias_of(state_dict, state_dict).values())]
    float_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    return container.sizes(file_bytes, float_bytes, sum(tensor.numel() for tensor in held))


def trained_tensors(
    model: nn.Module,
    grids: Mapping[str, BucketGrid],
    *,
    coder: str = container.DEFAULT_CODER,
    progress: Progress | None = None,
    known: StateDict | None = None,
    limit_bytes: int | None = None,
) -> list[Tensor]:
    """What the file of a trained module holds: fewer bytes than its tensors as they are, and the same outputs.

    The vectors of batch normalisation that have no grid are rounded (:func:`metaq.model.norms.rounded_norms`). Hidden
    units that only one other layer reads come in the order, and behind an odd function such as tanh with the signs,
    that need the fewest bytes (:func:`metaq.model.structure.arrangements`); where the way from layer to layer is not
    known, they stay as they are.

    The model is not changed. Where its parameters are sharded, every process has to call this, and all get the same
    tensors. Tensors without a grid, by name, are kept exactly. With `known`, weights of the last file of the same
    training, which those of this one replace, units keep the order that they have there if that takes hardly more
    bytes and no more than `limit_bytes`: then the files differ little. Raises :class:`ConfigError` if a tensor cannot
    be quantised, or a grid names none.
    """
    weights, grids, chains = _as_trained(model, grids)
    if not chains:
        return to_tensors(weights, grids=grids)
    like = arranged_like(weights, chains, known) if known else None
    found = _cheapest(arrangements(weights, chains), like, grids, coder, progress or NoProgress(), limit_bytes)
    if known is not None:
        names = {f"{chain.producer}.weight" for chain in chains}
        known |= checkpoint.restore([tensor for tensor in found if tensor.name in names])
    return found


def trained_size(
    model: nn.Module, grids: Mapping[str, BucketGrid], *, metadata: container.Metadata | None = None
) -> int:
    """Bytes of the file of :func:`trained_tensors` and `metadata`, coded by ``"small"``."""
    weights, grids, chains = _as_trained(model, grids)
    tried = arrangements(weights, chains) if chains else [weights]
    return min(len(container.encode(to_tensors(each, grids=grids), metadata=metadata)) for each in tried)


def estimated_bits(model: nn.Module, grids: Mapping[str, BucketGrid]) -> float:
    """Bits of all that is quantised in the file of :func:`trained_tensors` but for some per cent, found sooner."""
    weights, grids, chains = _as_trained(model, grids)
    return container.estimated_bits(to_tensors(arrangement(weights, chains), grids=grids))


def _as_trained(
    model: nn.Module, grids: Mapping[str, BucketGrid]
) -> tuple[StateDict, Mapping[str, BucketGrid], list[Chain]]:
    """What a file holds but for the order of units, and the chains of units that may be arranged."""
    weights = quantized_state_dict(model, grids=grids)
    norms = rounded_norms(weights, taken=grids.keys() | _tied(weights))
    weights, grids = weights | norms.values, {**grids, **norms.grids}
    return weights, grids, movable_chains(model, weights, grids)


def movable_chains(model: nn.Module, weights: StateDict, grids: Mapping[str, BucketGrid]) -> list[Chain]:
    """Chains of `model` whose units may be arranged anew in `weights`, its state dict, without leaving the grids.

    Tensors with several names stay as they are, those that are kept exactly, and signs where the grid does not hold
    them both.
    """
    tied = _tied(weights)
    found = []
    for chain in find_chains(unwrapped(model)):
        names = {f"{chain.producer}.weight", f"{chain.consumer}.weight"}
        names |= {f"{chain.producer}.bias"} & weights.keys()
        if names <= grids.keys() and not names & tied:
            is_odd = chain.is_odd and all(grids[name].center == 0 for name in names)
            found.append(replace(chain, is_odd=is_odd))
    return found


def _cheapest(
    tried: Sequence[StateDict],
    like: StateDict | None,
    grids: Mapping[str, BucketGrid],
    coder: str,
    progress: Progress,
    limit_bytes: int | None,
) -> list[Tensor]:
    """The tensors of the smallest file, or of `like` if their file is hardly larger and within the limit."""
    progress.stage("arranging units", len(tried))
    best, least = list[Tensor](), sys.maxsize
    for weights in tried:
        tensors = to_tensors(weights, grids=grids)
        size_bytes = len(container.encode(tensors, coder=coder))
        if size_bytes < least:
            best, least = tensors, size_bytes
        progress.advance()
    if like is not None:
        tensors = to_tensors(like, grids=grids)
        size_bytes = len(container.encode(tensors, coder=coder))
        if size_bytes <= min(int(HARDLY_MORE * least), limit_bytes or sys.maxsize):
            return tensors
    return best


def _tied(weights: StateDict) -> set[str]:
    """Names of tensors that have several."""
    alias = alias_of(weights, weights)
    counts = Counter(alias.values())
    return {name for name, first in alias.items() if counts[first] > 1}
