"""Order and sign of hidden units: free to choose, and some choices need fewer bytes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from metaq.model.structure.chains import Chain, find_chains
from metaq.model.structure.folding import layer_of, silence_unread

Cost = Callable[[nn.Module], int]
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From what goes into every unit and what comes out of it, (units, …) each, to a number for every unit."""


def _into(into: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return into.sum(dim=1)


def _out(_: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return out.sum(dim=1)


def _both(into: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return into.sum(dim=1) + out.sum(dim=1)


MEASURES = (_both, _into, _out)

MOST_UNITS_MIRRORED_ALONE, MOST_WEIGHTS_MIRRORED_ALONE = 64, 10_000
"""Units of a layer, and weights of the model other than zero, up to which units are mirrored one by one.

With more of them, there is little to gain from each, and every trial costs more.
"""


@torch.no_grad()
def arrangement(model: nn.Module) -> nn.Module:
    """A copy of `model` that computes the same, its hidden units in one order that mostly costs least: no trials.

    Weights of units that nobody reads become zero. Units come by falling numbers of weights that go in and out, and
    behind an odd function, as tanh is, with the signs that make the sum of what goes in positive.
    """
    changed = copy.deepcopy(model)
    silence_unread(changed)
    return _arranged(changed, find_chains(changed), _both, _into, descending=True)


@torch.no_grad()
def cheapest_arrangement(model: nn.Module, cost: Cost) -> nn.Module:
    """A copy of `model` that computes the same from weights that cost less.

    Weights of units that nobody reads become zero. Hidden units are sorted by several keys, whichever costs least, at
    first all layers by the same; where the way to the next layer is odd, as through tanh, units are mirrored: the signs
    of what goes in and of what comes out change together. Every weight keeps its value or changes its sign.

    Parameters
    ----------
    model
        Not changed.
    cost
        Bytes of a model's file.

    Returns
    -------
    nn.Module
        Costs at most what `model` and :func:`arrangement` of it do.
    """
    best = copy.deepcopy(model)
    silent = copy.deepcopy(best)
    silence_unread(silent)
    chains = find_chains(silent)
    best, least = _cheaper(best, cost(best), [silent], cost)
    best, least = _cheaper(best, least, _arranged_alike(silent, chains), cost)
    for chain in chains:
        best, least = _cheaper(best, least, _sorted(best, chain), cost)
    for chain in (chain for chain in chains if chain.is_odd):
        best, least = _cheaper(best, least, _mirrored(best, chain), cost)
    for chain in (chain for chain in chains if chain.is_odd):
        for unit in _worth_mirroring_alone(best, chain):
            best, least = _cheaper(best, least, [_with_signs(best, chain, _minus_one_at(unit, chain))], cost)
    return best


def _worth_mirroring_alone(model: nn.Module, chain: Chain) -> list[int]:
    """Units with weights on both sides, if there are few enough."""
    into, out = _signs(model, chain)
    live = ((into != 0).any(dim=1) & (out != 0).any(dim=1)).nonzero().flatten().tolist()
    weights = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    few = len(live) <= MOST_UNITS_MIRRORED_ALONE and weights <= MOST_WEIGHTS_MIRRORED_ALONE
    return live if few else []


def _cheaper(
    best: nn.Module, least: int, others: list[nn.Module] | Iterator[nn.Module], cost: Cost
) -> tuple[nn.Module, int]:
    for other in others:
        found = cost(other)
        if found < least:
            best, least = other, found
    return best, least


def _arranged_alike(model: nn.Module, chains: list[Chain]) -> Iterator[nn.Module]:
    """All layers by the same key, in every way."""
    balances = MEASURES if any(chain.is_odd for chain in chains) else MEASURES[:1]
    for key, balance, descending in itertools.product(MEASURES, balances, (True, False)):
        yield _arranged(model, chains, key, balance, descending=descending)


def _arranged(model: nn.Module, chains: list[Chain], key: Measure, balance: Measure, *, descending: bool) -> nn.Module:
    for chain in chains:
        model = _in_order(model, chain, _order(model, chain, key, descending=descending))
        if chain.is_odd:
            model = _with_signs(model, chain, _towards_positive(model, chain, balance))
    return model


def _sorted(model: nn.Module, chain: Chain) -> Iterator[nn.Module]:
    for key, descending in itertools.product(MEASURES, (True, False)):
        yield _in_order(model, chain, _order(model, chain, key, descending=descending))


def _mirrored(model: nn.Module, chain: Chain) -> Iterator[nn.Module]:
    for balance in MEASURES:
        yield _with_signs(model, chain, _towards_positive(model, chain, balance))


def _order(model: nn.Module, chain: Chain, key: Measure, *, descending: bool) -> torch.Tensor:
    into, out = _signs(model, chain)
    return torch.argsort(key(into.abs(), out.abs()), descending=descending, stable=True)


def _towards_positive(model: nn.Module, chain: Chain, balance: Measure) -> torch.Tensor:
    return torch.where(balance(*_signs(model, chain)) < 0, -1.0, 1.0)


def _signs(model: nn.Module, chain: Chain) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs of the weights that go into every unit and come out of it, (units, …) each."""
    into = layer_of(model, chain.producer).weight.sign().reshape(chain.units, -1)
    out = layer_of(model, chain.consumer).weight.sign().transpose(0, 1).reshape(chain.units, -1)
    return into, out


def _in_order(model: nn.Module, chain: Chain, order: torch.Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    producer, consumer = layer_of(changed, chain.producer), layer_of(changed, chain.consumer)
    producer.weight.copy_(producer.weight[order])
    if producer.bias is not None:
        producer.bias.copy_(producer.bias[order])
    columns = torch.arange(chain.units * chain.columns_per_unit).reshape(chain.units, -1)[order].reshape(-1)
    consumer.weight.copy_(consumer.weight[:, columns])
    return changed


def _with_signs(model: nn.Module, chain: Chain, signs: torch.Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    producer, consumer = layer_of(changed, chain.producer), layer_of(changed, chain.consumer)
    # Adding zero turns -0 into 0.
    producer.weight.copy_(producer.weight * _along(signs, producer.weight, 0) + 0.0)
    if producer.bias is not None:
        producer.bias.copy_(producer.bias * signs + 0.0)
    by_column = signs.repeat_interleave(chain.columns_per_unit)
    consumer.weight.copy_(consumer.weight * _along(by_column, consumer.weight, 1) + 0.0)
    return changed


def _along(values: torch.Tensor, weight: torch.Tensor, dimension: int) -> torch.Tensor:
    """`values` so that they multiply `weight` along one dimension."""
    return values.to(weight).reshape([-1 if d == dimension else 1 for d in range(weight.dim())])


def _minus_one_at(unit: int, chain: Chain) -> torch.Tensor:
    signs = torch.ones(chain.units)
    signs[unit] = -1
    return signs
