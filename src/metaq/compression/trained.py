"""A module trained towards few bits → the tensors of its file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from metaq import container
from metaq.compression.pipeline import quantized_state_dict, to_tensors
from metaq.model.checkpoint import StateDict
from metaq.model.norms import rounded_norms
from metaq.model.sharding import unwrapped
from metaq.model.structure import Chain, arrangements, find_chains
from metaq.model.weights import alias_of
from metaq.progress import NoProgress, Progress
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Tensor


def trained_tensors(
    model: nn.Module,
    grids: Mapping[str, BucketGrid],
    *,
    coder: str = container.DEFAULT_CODER,
    progress: Progress | None = None,
) -> list[Tensor]:
    """What the file of a trained module holds: fewer bytes than its tensors as they are, and the same outputs.

    The vectors of batch normalisation that have no grid are rounded (:func:`metaq.model.norms.rounded_norms`). Hidden
    units that only one other layer reads come in the order, and behind an odd function such as tanh with the signs,
    that need the fewest bytes (:func:`metaq.model.structure.arrangements`); where the way from layer to layer is not
    known, they stay as they are.

    The model is not changed. Where its parameters are sharded, every process has to call this, and all get the same
    tensors. Tensors without a grid, by name, are kept exactly. Raises :class:`ConfigError` if a tensor cannot be
    quantised, or a grid names none.
    """
    weights = quantized_state_dict(model, grids=grids)
    norms = rounded_norms(weights, taken=grids.keys() | _tied(weights))
    weights, grids = weights | norms.values, {**grids, **norms.grids}
    chains = movable_chains(model, weights, grids)
    if not chains:
        return to_tensors(weights, grids=grids)
    return _cheapest(arrangements(weights, chains), grids, coder, progress or NoProgress())


def _cheapest(
    tried: Sequence[StateDict], grids: Mapping[str, BucketGrid], coder: str, progress: Progress
) -> list[Tensor]:
    """The tensors of the smallest file."""
    progress.stage("arranging units", len(tried))
    best, least = list[Tensor](), math.inf
    for weights in tried:
        tensors = to_tensors(weights, grids=grids)
        size_bytes = len(container.encode(tensors, coder=coder))
        if size_bytes < least:
            best, least = tensors, size_bytes
        progress.advance()
    return best


def movable_chains(model: nn.Module, weights: StateDict, grids: Mapping[str, BucketGrid]) -> list[Chain]:
    """Chains of `model` whose units may be arranged anew in `weights`, its state dict, without leaving the grids.

    Tensors with several names stay as they are, and signs where the grid does not hold them both.
    """
    tied = _tied(weights)
    found = []
    for chain in find_chains(unwrapped(model)):
        names = {f"{chain.producer}.weight", f"{chain.consumer}.weight"}
        if names <= weights.keys() and not (names | {f"{chain.producer}.bias"}) & tied:
            own = [grids[name] for name in (*names, f"{chain.producer}.bias") if name in grids]
            found.append(replace(chain, is_odd=chain.is_odd and all(grid.center == 0 for grid in own)))
    return found


def _tied(weights: StateDict) -> set[str]:
    """Names of tensors that have several."""
    alias = alias_of(weights, weights)
    counts = Counter(alias.values())
    return {name for name, first in alias.items() if counts[first] > 1}
