"""A smaller dense network that computes the same: units that are constant or that nobody reads are taken out."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from metaq.config import require
from metaq.model.structure.chains import LAYERS, Chain, Layer, find_chains, outputs_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Folded:
    """What is left of a network.

    Attributes
    ----------
    model
        A copy with smaller layers; its outputs are those of the original up to rounding.
    units
        Units of every layer that others of its kind read, by name: before, and after.
    """

    model: nn.Module
    units: dict[str, tuple[int, int]]


@torch.no_grad()
def fold(model: nn.Module) -> Folded:
    """Take out units whose output nobody reads, and those that are constant: their share moves into the next bias.

    A unit is constant if its weights are all zero. One unit of every layer stays, so that no layer is empty.

    Parameters
    ----------
    model
        Not changed. Only layers that :func:`find_chains` finds are made smaller.
    """
    folded = copy.deepcopy(model)
    chains = find_chains(folded)
    before = {chain.producer: chain.units for chain in chains}
    while sum(_shrink(folded, chain) for chain in chains):
        pass
    after = {name: outputs_of(_layer_of(folded, name)) for name in before}
    return Folded(model=folded, units={name: (before[name], after[name]) for name in before})


def is_folded(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Whether `state_dict` is what :func:`fold` may leave of `model`: its names, and fewer units along its chains."""
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: list(tensor.shape) for name, tensor in state_dict.items()}
    if own.keys() != given.keys():
        return False
    expected = {name: list(shape) for name, shape in own.items()}
    for chain in find_chains(model):
        rows = given[f"{chain.producer}.weight"]
        if not rows or not 1 <= rows[0] <= chain.units:
            return False
        for name in (f"{chain.producer}.weight", f"{chain.producer}.bias"):
            if name in expected:
                expected[name][0] = rows[0]
        expected[f"{chain.consumer}.weight"][1] = rows[0] * chain.columns_per_unit
    return given == expected != own


def fit_layers(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of `model` whose linear and convolutional layers have the shapes, and the weights, of `state_dict`.

    This loads what :func:`fold` made smaller.

    Raises
    ------
    ConfigError
        If `state_dict` does not hold the parameters of `model`, or their shapes do not fit each other.
    """
    fitted = copy.deepcopy(model)
    for name, module in list(fitted.named_modules()):
        weight = state_dict.get(f"{name}.weight")
        if isinstance(module, LAYERS) and weight is not None and weight.dim() == module.weight.dim():
            bias = state_dict.get(f"{name}.bias")
            require((bias is None) == (module.bias is None), f"{name}: its bias is missing, or was not expected.")
            _resize(module, weight, bias)
    expected, given = fitted.state_dict(), dict(state_dict)
    same = expected.keys() == given.keys() and all(expected[key].shape == given[key].shape for key in expected)
    require(same, "these are not the weights of this network, nor of one made smaller by folding.")
    fitted.load_state_dict(given)
    return fitted


def _shrink(model: nn.Module, chain: Chain) -> bool:
    """Take units out of one layer; whether there were any."""
    producer, consumer = _layer_of(model, chain.producer), _layer_of(model, chain.consumer)
    units = outputs_of(producer)
    chain = replace(chain, units=units)
    is_read = (consumer.weight.detach().transpose(0, 1).reshape(units, -1) != 0).any(dim=1)
    is_constant = (producer.weight.reshape(units, -1) == 0).all(dim=1)
    can_move = chain.keeps_constants and consumer.bias is not None
    stays = is_read & ~(is_constant & can_move)
    if not stays.any():
        stays[int(is_read.int().argmax())] = True
    if stays.all():
        return False
    if can_move:
        _move_into_bias(producer, consumer, chain, is_read & ~stays)
    columns = stays.repeat_interleave(chain.columns_per_unit)
    _resize(producer, producer.weight[stays], None if producer.bias is None else producer.bias[stays])
    _resize(consumer, consumer.weight[:, columns], consumer.bias)
    return True


def _move_into_bias(producer: Layer, consumer: Layer, chain: Chain, moved: torch.Tensor) -> None:
    bias = torch.zeros(chain.units, device=producer.weight.device) if producer.bias is None else producer.bias
    constants = chain.constant(bias.detach().double()) * moved
    weight = consumer.weight.detach().double()
    rows, columns = weight.shape[:2]
    summed = weight.reshape(rows, columns, -1).sum(dim=2).reshape(rows, chain.units, -1).sum(dim=2)
    assert consumer.bias is not None
    consumer.bias.copy_(consumer.bias.double() + summed @ constants)


def _layer_of(model: nn.Module, name: str) -> Layer:
    """The linear or convolutional layer called `name`."""
    layer = model.get_submodule(name)
    assert isinstance(layer, LAYERS)
    return layer


def _resize(layer: Layer, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    outputs, inputs = weight.shape[:2]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = outputs, inputs
    else:
        layer.out_channels, layer.in_channels = outputs, inputs
