"""Order and sign of hidden units: free to choose, and some choices need fewer bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from metaq.model.structure.chains import Chain

Weights = Mapping[str, torch.Tensor]
Cost = Callable[[Weights], int]
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From what goes into every unit and what comes out of it, (units, …) each, to a number for every unit."""


def _into(into: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return into.sum(dim=1)


def _out(_: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return out.sum(dim=1)


def _both(into: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return into.sum(dim=1) + out.sum(dim=1)


MEASURES = (_both, _into, _out)


def arrangement(weights: Weights, chains: Sequence[Chain]) -> dict[str, torch.Tensor]:
    """Weights that compute the same, the hidden units in one order that mostly costs least: no trials.

    Weights of units that nobody reads become zero. Units come by falling numbers of weights that go in and out, and
    behind an odd function, as tanh is, with the signs that make the sum of what goes in positive.

    Parameters
    ----------
    weights
        State dict of a model; not changed.
    chains
        Of the model.
    """
    return _arranged(_silenced(weights, chains), chains, _both, _into, descending=True)


def cheapest_arrangement(weights: Weights, chains: Sequence[Chain], cost: Cost) -> dict[str, torch.Tensor]:
    """Weights that compute the same and cost less.

    Weights of units that nobody reads become zero. Hidden units are sorted by several keys, whichever costs least, at
    first all layers by the same; where the way to the next layer is odd, as through tanh, units are mirrored: the signs
    of what goes in and of what comes out change together. Every weight keeps its value or changes its sign.

    Parameters
    ----------
    weights
        State dict of a model; not changed.
    chains
        Of the model.
    cost
        Bytes of a file of weights.

    Returns
    -------
    dict
        Costs at most what `weights` and :func:`arrangement` of them do.
    """
    silent = _silenced(weights, chains)
    best, least = _cheaper(dict(weights), cost(weights), [silent], cost)
    best, least = _cheaper(best, least, _arranged_alike(silent, chains), cost)
    for chain in chains:
        best, least = _cheaper(best, least, _sorted(best, chain), cost)
    for chain in (chain for chain in chains if chain.is_odd):
        best, least = _cheaper(best, least, _mirrored(best, chain), cost)
    return best


def _cheaper(
    best: dict[str, torch.Tensor], least: int, others: Iterable[dict[str, torch.Tensor]], cost: Cost
) -> tuple[dict[str, torch.Tensor], int]:
    for other in others:
        found = cost(other)
        if found < least:
            best, least = other, found
    return best, least


def _silenced(weights: Weights, chains: Sequence[Chain]) -> dict[str, torch.Tensor]:
    """The weights, with zeros for those of units that nobody reads."""
    silent = dict(weights)
    for chain in reversed(chains):
        _, out = _signs(silent, chain)
        unread = (out == 0).all(dim=1)
        for name in (f"{chain.producer}.weight", f"{chain.producer}.bias"):
            if name in silent:
                silent[name] = torch.where(_along(unread, silent[name], 0), 0.0, silent[name]).to(silent[name])
    return silent


def _arranged_alike(weights: Weights, chains: Sequence[Chain]) -> Iterator[dict[str, torch.Tensor]]:
    """All layers by the same key, in every way."""
    balances = MEASURES if any(chain.is_odd for chain in chains) else MEASURES[:1]
    for key, balance, descending in itertools.product(MEASURES, balances, (True, False)):
        yield _arranged(weights, chains, key, balance, descending=descending)


def _arranged(
    weights: Weights, chains: Sequence[Chain], key: Measure, balance: Measure, *, descending: bool
) -> dict[str, torch.Tensor]:
    arranged = dict(weights)
    for chain in chains:
        arranged = _in_order(arranged, chain, _order(arranged, chain, key, descending=descending))
        if chain.is_odd:
            arranged = _with_signs(arranged, chain, _towards_positive(arranged, chain, balance))
    return arranged


def _sorted(weights: Weights, chain: Chain) -> Iterator[dict[str, torch.Tensor]]:
    for key, descending in itertools.product(MEASURES, (True, False)):
        yield _in_order(weights, chain, _order(weights, chain, key, descending=descending))


def _mirrored(weights: Weights, chain: Chain) -> Iterator[dict[str, torch.Tensor]]:
    for balance in MEASURES:
        yield _with_signs(weights, chain, _towards_positive(weights, chain, balance))


def _order(weights: Weights, chain: Chain, key: Measure, *, descending: bool) -> torch.Tensor:
    into, out = _signs(weights, chain)
    return torch.argsort(key(into.abs(), out.abs()), descending=descending, stable=True)


def _towards_positive(weights: Weights, chain: Chain, balance: Measure) -> torch.Tensor:
    return torch.where(balance(*_signs(weights, chain)) < 0, -1.0, 1.0)


def _signs(weights: Weights, chain: Chain) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs of the weights that go into every unit and come out of it, (units, …) each."""
    into = weights[f"{chain.producer}.weight"].sign().reshape(chain.units, -1)
    out = weights[f"{chain.consumer}.weight"].sign().transpose(0, 1).reshape(chain.units, -1)
    return into, out


def _in_order(weights: Weights, chain: Chain, order: torch.Tensor) -> dict[str, torch.Tensor]:
    changed = dict(weights)
    for name in (f"{chain.producer}.weight", f"{chain.producer}.bias"):
        if name in changed:
            changed[name] = changed[name][order]
    columns = torch.arange(chain.units * chain.columns_per_unit).reshape(chain.units, -1)[order].reshape(-1)
    consumer = f"{chain.consumer}.weight"
    changed[consumer] = changed[consumer][:, columns]
    return changed


def _with_signs(weights: Weights, chain: Chain, signs: torch.Tensor) -> dict[str, torch.Tensor]:
    changed = dict(weights)
    by_column = signs.repeat_interleave(chain.columns_per_unit)
    parts = (f"{chain.producer}.weight", signs, 0), (f"{chain.producer}.bias", signs, 0)
    for name, along, dimension in (*parts, (f"{chain.consumer}.weight", by_column, 1)):
        if name in changed:
            # Adding zero turns -0 into 0.
            changed[name] = changed[name] * _along(along.to(changed[name]), changed[name], dimension) + 0.0
    return changed


def _along(values: torch.Tensor, weight: torch.Tensor, dimension: int) -> torch.Tensor:
    """`values` so that they stand along one dimension of `weight`."""
    return values.reshape([-1 if d == dimension else 1 for d in range(weight.dim())])
