"""Computing again by PyTorch what lies between the weights of a graph and its outputs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from metaq.onnx.replay.layers import convolution_padding, padded
from metaq.onnx.replay.nodes import Node
from metaq.onnx.replay.operators import is_known, run

TOLERANCE = 1e-2
"""Error of a value over the largest in its tensor that is let pass: half precision is computed in float32 here."""

LARGEST = 65504.0
"""Larger numbers are infinite in half precision, and taken for equal."""

NOT_DONE = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, StopIteration)
"""What PyTorch, or what calls it, raises for a node of another kind than expected."""

Values = Mapping[str, Tensor]
Fetch = Callable[[Sequence[str]], Values]
"""From names of values of the graph to what onnxruntime computes for them; what it cannot give is left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A module that stands for a product or convolution with a weight, and for what follows up to the `last` node."""

    module: nn.Module
    last: int


@dataclass(eq=False)
class Replay:
    """Nodes of a graph through which gradients come, from its `weights` on.

    Whatever else they need, onnxruntime gives. `layers` are by the number of the node.
    """

    nodes: Sequence[Node]
    weights: Collection[str]
    layers: Mapping[int, Layer]
    _outputs: dict[int, int] = field(default_factory=dict)
    _is_checked: bool = False

    def outputs(self, names: Sequence[str], values: Values, fetch: Fetch) -> dict[str, Tensor]:
        """Outputs with gradients, as far as they have any.

        `values` are those of inputs and weights; in `layers`, samples are along the first dimension, as in the first of
        `values`.
        """
        if not self._is_checked:
            self._check(values, fetch)
        steps = self._steps()
        made = {name for number, node in steps for name in self._made(number, node)}
        needed = {name for _, node in steps for name in node.inputs} | set(names)
        known = {**values, **fetch(sorted(needed - made - values.keys() - {""}))}
        samples = len(next(iter(values.values()))) if values else 1
        for number, node in steps:
            layer = self.layers.get(number)
            if layer is not None and self._outputs[layer.last]:
                name = self.nodes[layer.last].outputs[0]
                known[name] = _through(layer.module, node, [known.get(name) for name in node.inputs], samples)
            elif node.outputs[0] not in known:
                found = run(node, [known.get(name) for name in node.inputs])
                known |= zip(self._made(number, node), found, strict=False)
        return {name: known[name] for name in names if name in known}

    def _check(self, values: Values, fetch: Fetch) -> None:
        """Compare what every node gives with what onnxruntime does, and leave out those that differ."""
        steps = self._steps()
        names = {name for _, node in steps for name in (*node.inputs, *node.outputs)}
        known = {**values, **fetch(sorted(names - values.keys() - {""}))}
        with torch.no_grad():
            for number, node in steps:
                self._outputs[number] = _agreeing(node, known)
        self._is_checked = True

    def _steps(self) -> list[tuple[int, Node]]:
        reached = set(self.weights)
        steps = []
        for number, node in enumerate(self.nodes):
            if is_known(node) and self._outputs.get(number, 1) and not reached.isdisjoint(node.inputs):
                steps.append((number, node))
                reached.update(self._made(number, node))
        return steps

    def _made(self, number: int, node: Node) -> tuple[str, ...]:
        return node.outputs[: self._outputs.get(number, len(node.outputs))]


def _agreeing(node: Node, known: Values) -> int:
    """How many of the first outputs of a node are right."""
    try:
        found = run(node, [known.get(name) for name in node.inputs])
    except NOT_DONE:
        return 0
    agreeing = 0
    for name, tensor in zip(node.outputs, found, strict=False):
        if name in known and not _is_near(tensor, known[name]):
            return agreeing
        agreeing += 1
    return agreeing


def _is_near(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or not wanted.is_floating_point():
        return False
    found, wanted = (each.float().clamp(-LARGEST, LARGEST) for each in (found, wanted))
    usual = wanted.abs()[wanted.abs() < LARGEST]
    scale = float(usual.max()) if usual.numel() else 0.0
    return torch.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True)


def _through(layer: nn.Module, node: Node, inputs: Sequence[Tensor | None], samples: int) -> Tensor:
    """What a layer makes of its inputs, as the node does."""
    x, bias = inputs[0], inputs[2] if len(inputs) > 2 and layer.bias is None else None
    assert x is not None
    found: Tensor
    if isinstance(layer, nn.Conv2d):
        found = layer(padded(x, *convolution_padding(node, x.shape[2:], layer.weight.shape[2:])))
        return found if bias is None else found + bias[:, None, None]
    # In many graphs all positions of a sample are one after the other.
    is_flat = x.dim() == 2 and samples and len(x) % samples == 0
    found = layer(x.reshape(samples, -1, x.shape[-1]) if is_flat else x).reshape(*x.shape[:-1], -1)
    return found if bias is None else found + bias
