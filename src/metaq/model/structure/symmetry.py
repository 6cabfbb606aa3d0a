"""Order and sign of hidden units: free to choose, and some choices need fewer bytes.

A coder that predicts a weight from those beside and above it gains where units that are alike lie side by side, all
that weigh nothing at the end.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from metaq.model.structure.chains import Chain

Weights = Mapping[str, torch.Tensor]

MOST_UNITS_MATCHED = 2048
"""In a larger layer, units are not matched with those of another model: there are too many pairs."""

MOST_UNITS_COMPARED = 8192
"""In a larger layer, units come by their numbers of weights alone: it would take too long to compare all pairs."""


def arrangement(weights: Weights, chains: Sequence[Chain]) -> dict[str, torch.Tensor]:
    """Weights that compute the same, the hidden units in an order that mostly costs less: no trials.

    Weights of units that nobody reads become zero. Each unit is followed by the one most like it that is left, which
    is the one whose weights agree in sign with most of its own; the first unit has the most weights. Behind an odd
    function, as tanh is, a unit is like another too if all signs are opposite; all of them change then, in what goes in
    and in what comes out. Every weight keeps its value or changes its sign.

    Parameters
    ----------
    weights
        State dict of a model; not changed.
    chains
        Of the model.
    """
    return _neighbouring(_by_number_of_weights(weights, chains), chains, _agreement)


def arrangements(weights: Weights, chains: Sequence[Chain]) -> list[dict[str, torch.Tensor]]:
    """Weights that compute the same, one of which costs least: `weights`, their :func:`arrangement`, and where most
    weights are zero, units side by side that the same ones read.

    Parameters
    ----------
    weights
        State dict of a model; not changed.
    chains
        Of the model.
    """
    by_number = _by_number_of_weights(weights, chains)
    found = [dict(weights), _neighbouring(by_number, chains, _agreement)]
    read = [_signs(by_number, chain)[1] for chain in chains]
    if 2 * sum(int(out.count_nonzero()) for out in read) < sum(out.numel() for out in read):
        found.append(_neighbouring(by_number, chains, _common_readers))
    return found


def arranged_like(weights: Weights, chains: Sequence[Chain], known: Weights) -> dict[str, torch.Tensor]:
    """Weights that compute the same, hidden units in the order, and with the signs, of those of `known` most like them.

    Layers of which `known` has no weight of the same shape, or with more than ``MOST_UNITS_MATCHED`` units, stay as
    they are.

    Parameters
    ----------
    weights
        State dict of a model; not changed.
    chains
        Of the model.
    known
        Weights as they were arranged before.
    """
    arranged = _without_unread(weights, chains)
    for chain in chains:
        name = f"{chain.producer}.weight"
        old = known.get(name)
        if old is None or old.shape != arranged[name].shape or chain.units > MOST_UNITS_MATCHED:
            continue
        rows, before = (each.reshape(chain.units, -1).double() for each in (arranged[name], old))
        products = before @ rows.T
        common = products.abs() if chain.is_odd else products
        distances = before.square().sum(dim=1)[:, None] + rows.square().sum(dim=1) - 2 * common
        order = _matched(distances)
        signs = torch.ones(chain.units, device=products.device)
        if chain.is_odd:
            signs[order] = torch.where(products[torch.arange(chain.units, device=order.device), order] < 0, -1.0, 1.0)
        arranged = _in_order(_with_signs(arranged, chain, signs), chain, order)
    return arranged


def _matched(distances: torch.Tensor) -> torch.Tensor:
    """For every row the column that it is given, each to one: the nearest pairs first."""
    count = len(distances)
    device = distances.device
    order, left = torch.full((count,), -1, device=device), torch.ones(count, dtype=torch.bool, device=device)
    for pair in distances.flatten().argsort(stable=True).tolist():
        row, column = divmod(pair, count)
        if order[row] < 0 and left[column]:
            order[row], left[column] = column, False
            if not bool(left.any()):
                break
    return order


def _agreement(into: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    signs = torch.cat([into, out], dim=1)
    return signs @ signs.T


def _common_readers(_: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    read = out.abs()
    return read @ read.T


def _neighbouring(
    weights: Weights, chains: Sequence[Chain], alike: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights with every unit followed by the one most like it, units without weights last.

    `alike` tells from the signs of what goes into every unit and of what comes out of it how alike any two are.
    """
    arranged = dict(weights)
    for chain in chains:
        if chain.units <= MOST_UNITS_COMPARED:
            order, signs = _chained(alike(*_signs(arranged, chain)), is_odd=chain.is_odd)
            arranged = _in_order(_with_signs(arranged, chain, signs), chain, order)
    return arranged


def _chained(likeness: torch.Tensor, *, is_odd: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Order of units from each to the one most like it, and their signs; the first comes first."""
    count = len(likeness)
    left = likeness.diagonal() > 0
    order, signs = torch.arange(count, device=left.device), torch.ones(count, device=left.device)
    left[0] = False
    last, place = 0, 1
    while bool(left.any()):
        to_last = likeness[last]
        following = int(torch.where(left, to_last.abs() if is_odd else to_last, -torch.inf).argmax())
        signs[following] = -signs[last] if is_odd and to_last[following] < 0 else signs[last]
        left[following] = False
        order[place] = last = following
        place += 1
    rest = torch.ones(count, dtype=torch.bool, device=left.device)
    rest[order[:place]] = False
    order[place:] = rest.nonzero().flatten()
    return order, signs


def _by_number_of_weights(weights: Weights, chains: Sequence[Chain]) -> dict[str, torch.Tensor]:
    """The weights with units by falling numbers of weights, zeros for those of units that nobody reads, and with the
    signs that make the sum of what goes in positive.
    """
    arranged = _without_unread(weights, chains)
    for chain in chains:
        into, out = _signs(arranged, chain)
        number = into.abs().sum(dim=1) + out.abs().sum(dim=1)
        arranged = _in_order(arranged, chain, torch.argsort(number, descending=True, stable=True))
        if chain.is_odd:
            into, _ = _signs(arranged, chain)
            arranged = _with_signs(arranged, chain, torch.where(into.sum(dim=1) < 0, -1.0, 1.0))
    return arranged


def _without_unread(weights: Weights, chains: Sequence[Chain]) -> dict[str, torch.Tensor]:
    """The weights with zeros for those of units that nobody reads."""
    changed = dict(weights)
    for chain in reversed(chains):
        _, out = _signs(changed, chain)
        unread = (out == 0).all(dim=1)
        for name in _of_producer(changed, chain):
            zero = torch.zeros_like(changed[name])
            changed[name] = torch.where(_along(unread, zero, 0), zero, changed[name])
    return changed


def _signs(weights: Weights, chain: Chain) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs of the weights that go into every unit and come out of it, float32 of shape (units, …) each."""
    into = weights[f"{chain.producer}.weight"].sign().reshape(chain.units, -1)
    out = weights[f"{chain.consumer}.weight"].sign().transpose(0, 1).reshape(chain.units, -1)
    return into.float(), out.float()


def _in_order(weights: Weights, chain: Chain, order: torch.Tensor) -> dict[str, torch.Tensor]:
    changed = dict(weights)
    for name in _of_producer(weights, chain):
        changed[name] = changed[name][order]
    columns = torch.arange(chain.units * chain.columns_per_unit, device=order.device)
    columns = columns.reshape(chain.units, -1)[order].reshape(-1)
    consumer = f"{chain.consumer}.weight"
    changed[consumer] = changed[consumer][:, columns]
    return changed


def _with_signs(weights: Weights, chain: Chain, signs: torch.Tensor) -> dict[str, torch.Tensor]:
    changed = dict(weights)
    by_column = signs.repeat_interleave(chain.columns_per_unit)
    parts = [(name, signs, 0) for name in _of_producer(weights, chain)]
    for name, along, dimension in (*parts, (f"{chain.consumer}.weight", by_column, 1)):
        # Adding zero turns -0 into 0.
        changed[name] = changed[name] * _along(along.to(changed[name]), changed[name], dimension) + 0.0
    return changed


def _of_producer(weights: Weights, chain: Chain) -> list[str]:
    """Names of its weight and, where it has one, its bias."""
    return [name for name in (f"{chain.producer}.weight", f"{chain.producer}.bias") if name in weights]


def _along(values: torch.Tensor, weight: torch.Tensor, dimension: int) -> torch.Tensor:
    """`values` so that they stand along one dimension of `weight`."""
    return values.reshape([-1 if d == dimension else 1 for d in range(weight.dim())])
