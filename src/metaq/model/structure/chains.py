"""Finding layers whose units only one other layer reads."""

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Function = Callable[[torch.Tensor], torch.Tensor]

ELEMENTWISE: dict[Any, Function] = {
    nn.Tanh: torch.tanh,
    torch.tanh: torch.tanh,
    functional.tanh: torch.tanh,
    "tanh": torch.tanh,
    nn.ReLU: torch.relu,
    torch.relu: torch.relu,
    functional.relu: torch.relu,
    "relu": torch.relu,
    nn.Sigmoid: torch.sigmoid,
    torch.sigmoid: torch.sigmoid,
    functional.sigmoid: torch.sigmoid,
    "sigmoid": torch.sigmoid,
}
"""What acts on every element alike, by module class, function or name of a tensor's method."""

ODD = (torch.tanh,)

KEEPING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, functional.dropout)
"""Does nothing in evaluation."""

MEAN_POOLS = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
)
MAXIMUM_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MAXIMUM_POOL_FUNCTIONS = ("max_pool1d", "max_pool2d", "max_pool3d", "boolean_dispatch")
PLACE_OF_PADDING = 3
"""Among the positional arguments of pooling functions."""

FLATTENINGS = (nn.Flatten, torch.flatten, "flatten")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A layer whose outputs reach one other layer only, channel by channel.

    Attributes
    ----------
    producer, consumer
        Names of the two layers.
    units
        Outputs of the producer.
    columns_per_unit
        Inputs of the consumer that belong to one unit, side by side: more than one after flattening an image.
    functions
        What acts on every element on the way, in order.
    is_odd
        Whether the way changes the sign of its output with that of its input.
    keeps_constants
        Whether an output that is the same for all samples and positions reaches the consumer as a constant for all its
        positions.
    """

    producer: str
    consumer: str
    units: int
    columns_per_unit: int
    functions: tuple[Function, ...]
    is_odd: bool
    keeps_constants: bool

    def constant(self, value: torch.Tensor) -> torch.Tensor:
        """What the consumer reads where the producer's output is `value`."""
        for function in self.functions:
            value = function(value)
        return value


def find_chains(model: nn.Module) -> list[Chain]:
    """Pairs of linear or convolutional layers of `model` joined by nothing but elementwise functions and pooling.

    A copy of the model, in evaluation, is traced with :mod:`torch.fx`. Where that fails, what the model does depends on
    optional arguments, or the way between two layers holds anything unknown, there is no chain: a unit that is not
    listed may be read by others. Layers that are used twice, that share their parameters, are grouped, or do more than
    their class says are left out.

    Returns
    -------
    list of Chain
        In the order of the forward pass.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    try:
        # Tracing runs the code of the model, which may change it; the copy shares its tensors alone.
        traced = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()
        graph = fx.Tracer().trace(traced)
    except Exception:  # noqa: BLE001 - whatever a user's forward raises under tracing, there is no graph
        return []
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    # With and without an argument that may be left out, another way may be taken.
    if any(node.args or str(node.target).startswith("*") for node in arguments):
        return []
    modules = dict(traced.named_modules())
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    owners = Counter(id(parameter) for module in modules.values() for parameter in module.parameters(recurse=False))
    read_directly = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def layer_at(node: fx.Node) -> Layer | None:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(module) not in LAYERS or uses[node.target] > 1 or node.target in read_directly:
            return None
        assert isinstance(module, LAYERS)
        shared = any(owners[id(parameter)] > 1 for parameter in module.parameters(recurse=False))
        return None if shared or _does_more(module) or getattr(module, "groups", 1) != 1 else module

    found = (_follow(node, layer_at, modules) for node in graph.nodes if layer_at(node) is not None)
    return [chain for chain in found if chain is not None]


def outputs_of(layer: Layer) -> int:
    """Rows of the weight."""
    return int(layer.weight.shape[0])


def _follow(node: fx.Node, layer_at: Callable[[fx.Node], Layer | None], modules: dict[str, nn.Module]) -> Chain | None:
    """The chain that begins at the layer of `node`, if its way is known up to another layer."""
    producer = layer_at(node)
    assert producer is not None
    functions: list[Function] = []
    is_odd = keeps_constants = True
    is_flat = isinstance(producer, nn.Linear)
    at = node
    while True:
        if len(at.users) != 1:
            return None
        following = next(iter(at.users))
        if following.all_input_nodes != [at]:
            return None
        consumer = layer_at(following)
        if consumer is not None:
            break
        step = _what(following, modules)
        if step in ELEMENTWISE:
            functions.append(ELEMENTWISE[step])
            is_odd = is_odd and ELEMENTWISE[step] in ODD
        elif _is_maximum_pool(step) and not is_flat:
            is_odd = False
        elif step in MEAN_POOLS and not is_flat:
            keeps_constants = keeps_constants and _has_no_padding(following, modules)
        elif step in FLATTENINGS and _flattens_all_but_samples(following, modules):
            is_flat = True
        elif step not in KEEPING:
            return None
        at = following
    units, columns = outputs_of(producer), int(consumer.weight.shape[1])
    if isinstance(consumer, nn.Linear) != is_flat or columns % units:
        return None
    if isinstance(producer, nn.Linear) and columns != units:
        return None
    padded = not isinstance(consumer, nn.Linear) and any(p != 0 for p in _as_tuple(consumer.padding))
    return Chain(
        producer=str(node.target),
        consumer=str(following.target),
        units=units,
        columns_per_unit=columns // units,
        functions=tuple(functions),
        is_odd=is_odd,
        keeps_constants=keeps_constants and not padded,
    )


def _does_more(module: nn.Module) -> bool:
    """Whether a module does not only what its class says."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or "forward" in vars(module) or nn.utils.parametrize.is_parametrized(module)


def _what(node: fx.Node, modules: dict[str, nn.Module]) -> Any:
    """Class of a module, a function, or the name of a method; None for a module that does more than its class says."""
    if node.op != "call_module":
        return node.target
    module = modules[str(node.target)]
    return None if _does_more(module) else type(module)


def _is_maximum_pool(step: Any) -> bool:
    return step in MAXIMUM_POOLS or (
        callable(step) and not isinstance(step, type) and step.__name__ in MAXIMUM_POOL_FUNCTIONS
    )


def _has_no_padding(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return all(p == 0 for p in _as_tuple(getattr(modules[str(node.target)], "padding", 0)))
    return len(node.args) <= PLACE_OF_PADDING and all(p == 0 for p in _as_tuple(node.kwargs.get("padding", 0)))


def _flattens_all_but_samples(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        assert isinstance(module, nn.Flatten)
        return bool(module.start_dim == 1 and module.end_dim == -1)
    start, end = [*node.args[1:], None, None][:2]
    first, last = node.kwargs.get("start_dim", start), node.kwargs.get("end_dim", end)
    return bool(first == 1 and last in (None, -1))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
