"""All operators of ONNX that gradients are computed through, by their names in whatever domain.

Old forms of operators are not told from new ones. Whoever runs these compares what they give with what onnxruntime
gives, and leaves out what differs.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metaq.onnx.replay.layers import LAYERS
from metaq.onnx.replay.nodes import Node
from metaq.onnx.replay.shapes import MOVES

FLOATS = frozenset((1, 10, 11, 16))
"""Numbers in TensorProto.DataType of the types that gradients pass through."""


def is_known(node: Node) -> bool:
    """Whether :func:`run` has a function for the operator."""
    if node.operator == "Cast":
        return node.get("to") in FLOATS
    return node.operator in PLAIN or node.operator in OTHERS


def run(node: Node, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """The outputs of a known node, or the first of them.

    What PyTorch cannot do with such inputs raises whatever PyTorch raises, or :class:`NotImplementedError`.
    """
    found = PLAIN[node.operator](*inputs) if node.operator in PLAIN else OTHERS[node.operator](node, *inputs)
    return [found] if isinstance(found, Tensor) else list(found)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    low = low if low is not None else torch.tensor(node.get("min", -math.inf))
    high = high if high is not None else torch.tensor(node.get("max", math.inf))
    return x.clamp(low, high)


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.number("alpha", 0.01))


def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.number("alpha", 1.0))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return (node.number("alpha", 0.2) * x + node.number("beta", 0.5)).clamp(0, 1)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _bias_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    kind = "none" if node.operator == "BiasGelu" else "tanh"
    return functional.gelu(x if bias is None else x + bias, approximate=kind)


def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * (node.number("alpha", 1.702) * x).sigmoid()


def _sum(*parts: Tensor) -> Tensor:
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found


def _largest(*parts: Tensor) -> Tensor:
    found = parts[0]
    for part in parts[1:]:
        found = torch.maximum(found, part)
    return found


def _least(*parts: Tensor) -> Tensor:
    return -_largest(*(-part for part in parts))


PLAIN: Mapping[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Cast": lambda x: x,
    "CastLike": lambda x, _: x,
    "Cos": torch.cos,
    "Div": torch.div,
    "Dropout": lambda x, *_: x,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True),
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Max": _largest,
    "Mean": lambda *parts: _sum(*parts) / len(parts),
    "Min": _least,
    "Mish": functional.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": _sum,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
"""Functions of the inputs alone."""

OTHERS: Mapping[str, Callable[..., Tensor | Sequence[Tensor]]] = {
    **LAYERS,
    **MOVES,
    "BiasGelu": _bias_gelu,
    "Clip": _clip,
    "Elu": _elu,
    "FastGelu": _bias_gelu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "QuickGelu": _quick_gelu,
}
"""Functions of a node and its inputs, of which the last ones may be missing or None."""
