"""Layers of a network that is known: what they give for one input, and what that takes to compute."""

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import nn

from metaq.errors import MetaqError
from metaq.lab import nets, runs
from metaq.lab.registry import NETWORKS
from metaq.report.inspection import Inspection
from metaq.report.subject import Layer, Subject

SHAPES = {"digits": (1, 28, 28), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
"""Of one image, by the name of the data set: what a network of one's own reads."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def add_layers(subject: Subject, found: Inspection, net: str | None, data: object) -> None:
    """Layers in the order in which they compute; none where the network or the shape of its input is not known.

    What a file merely names must not make code run, so that only a reference network is taken for what it says.
    """
    named = net or found.metadata.get("net")
    shape = nets.input_shape(str(named)) or SHAPES.get(str(data))
    if named is None or shape is None or (net is None and named not in NETWORKS):
        return
    held: dict[str, int] = {}
    for tensor in subject.tensors:
        if tensor.bytes is not None:
            layer = tensor.name.rpartition(".")[0]
            held[layer] = held.get(layer, 0) + tensor.bytes
    try:
        model = runs.build(str(named), found.state_dict)
        subject.layers = layers_of(model, shape, held)
    except (MetaqError, RuntimeError, ValueError, TypeError, IndexError):
        # Weights of another network, or a network of one's own that reads something else.
        return


def layers_of(model: nn.Module, shape: tuple[int, ...], held: Mapping[str, int]) -> list[Layer]:
    """Layers of a model that reads inputs of that shape; `held` has the bytes of those in a file."""
    model.eval()
    found: list[Layer] = []
    hooks = []

    def seen(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                found.append(_layer(name, module, tuple(output.shape[1:]), held.get(name)))

        return hook

    for name, module in model.named_modules():
        if not list(module.children()) and list(module.parameters()):
            hooks.append(module.register_forward_hook(seen(name)))
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape))
    finally:
        for each in hooks:
            each.remove()
    return found


def _layer(name: str, module: nn.Module, output: tuple[int, ...], size: int | None) -> Layer:
    total, live = None, None
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        # Every weight is used once for every place of the output.
        places = prod(output[1:]) if isinstance(module, CONVOLUTIONS) else prod(output[:-1])
        total = places * module.weight.numel()
        live = places * int(torch.count_nonzero(module.weight))
    return Layer(
        name=name,
        kind=type(module).__name__,
        output=output,
        weights=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=total,
        live_multiply_adds=live,
        bytes=size,
    )
