"""Layers of ONNX in PyTorch: convolutions, products, normalisations and recurrent layers.

What a node asks for that PyTorch has no function for raises whatever PyTorch raises, or :class:`NotImplementedError`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metaq.onnx.replay.nodes import Node


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = a.mT if node.get("transA") else a, b.mT if node.get("transB") else b
    product = node.number("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.number("beta", 1.0) * c


def _einsum(node: Node, *operands: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *operands)


def convolution_padding(node: Node, inputs: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Zeros before and after inputs of these lengths, by spatial dimension."""
    count = len(kernel)
    kind = node.get("auto_pad", "NOTSET")
    if not kind.startswith("SAME"):
        pads = node.get("pads", [0] * 2 * count) if kind == "NOTSET" else [0] * 2 * count
        return list(pads[:count]), list(pads[count:])
    strides, dilations = node.get("strides", [1] * count), node.get("dilations", [1] * count)
    before, after = [], []
    for length, size, stride, dilation in zip(inputs, kernel, strides, dilations, strict=True):
        total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        less, more = total // 2, total - total // 2
        before.append(less if kind == "SAME_UPPER" else more)
        after.append(more if kind == "SAME_UPPER" else less)
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` with so many numbers before and after its last dimensions."""
    pairs = [number for pair in zip(reversed(before), reversed(after), strict=True) for number in pair]
    return functional.pad(x, pairs, value=value) if any(pairs) else x


def _spatial(name: str, x: Tensor) -> Any:
    """A function of PyTorch for the number of spatial dimensions of `x`."""
    return getattr(functional, name.format(x.dim() - 2))


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = padded(x, *convolution_padding(node, x.shape[2:], weight.shape[2:]))
    found: Tensor = _spatial("conv{}d", x)(
        x,
        weight,
        bias,
        stride=node.get("strides", 1),
        dilation=node.get("dilations", 1),
        groups=node.get("group", 1),
    )
    return found


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    before, after = convolution_padding(node, x.shape[2:], weight.shape[2:])
    found: Tensor = _spatial("conv_transpose{}d", x)(
        x,
        weight,
        bias,
        stride=node.get("strides", 1),
        output_padding=node.get("output_padding", 0),
        dilation=node.get("dilations", 1),
        groups=node.get("group", 1),
    )
    for dimension, (first, last) in enumerate(zip(before, after, strict=True), 2):
        found = found.narrow(dimension, first, found.shape[dimension] - first - last)
    return found


def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.get("kernel_shape")
    found: Tensor = _spatial("max_pool{}d", x)(
        padded(x, *convolution_padding(node, x.shape[2:], kernel), value=-math.inf),
        kernel,
        stride=node.get("strides", 1),
        dilation=node.get("dilations", 1),
        ceil_mode=bool(node.get("ceil_mode")),
    )
    return found


def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel, stride = node.get("kernel_shape"), node.get("strides", 1)
    pads = convolution_padding(node, x.shape[2:], kernel)
    options = {"stride": stride, "ceil_mode": bool(node.get("ceil_mode"))}
    pool = _spatial("avg_pool{}d", x)
    found: Tensor = pool(padded(x, *pads), kernel, **options)
    if any(map(any, pads)) and not node.get("count_include_pad"):
        found = found / pool(padded(torch.ones_like(x[:1, :1]), *pads), kernel, **options)
    return found


def _layer_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    shape = list(x.shape[node.get("axis", -1) :])
    normal = functional.layer_norm(x, shape, eps=node.number("epsilon", 1e-5)) * scale
    return normal if shift is None else normal + shift


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(node.get("axis", -1) % x.dim(), x.dim()))
    return x * (x.square().mean(axes, keepdim=True) + node.number("epsilon", 1e-5)).rsqrt() * scale


def _skip_layer_norm(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    return _layer_norm(node, x + skip if bias is None else x + skip + bias, scale, shift)


def _skip_rms_norm(node: Node, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return _rms_norm(node, x + skip if bias is None else x + skip + bias, scale)


def _batch_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, shift, eps=node.number("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=shift, eps=node.number("epsilon", 1e-5))


def _group_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    groups = node.get("num_groups")
    each = x.shape[1] // len(scale)
    scale, shift = scale.repeat_interleave(each), shift.repeat_interleave(each)
    return functional.group_norm(x, groups, scale, shift, eps=node.number("epsilon", 1e-5))


def _lp_norm(node: Node, x: Tensor) -> Tensor:
    return functional.normalize(x, p=node.get("p", 2), dim=node.get("axis", -1))


def _softmax(node: Node, x: Tensor) -> Tensor:
    return x.softmax(node.get("axis", -1))


def _log_softmax(node: Node, x: Tensor) -> Tensor:
    return x.log_softmax(node.get("axis", -1))


GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""The order in which PyTorch has the gates of ONNX."""


def _recurrent(
    node: Node,
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    *_: Tensor | None,
) -> Sequence[Tensor]:
    """A layer of `x`, shape (positions, samples, width), all samples of one length."""
    if (lengths is not None and bool((lengths != len(x)).any())) or node.get("layout"):
        raise NotImplementedError
    gates = GATES[node.operator]
    directions, size = len(weight), node.get("hidden_size")
    is_reversed = node.get("direction") == "reverse"
    parameters: list[Tensor] = []
    for number in range(directions):
        matrices = [_in_order(weight[number], gates, size), _in_order(recurrence[number], gates, size)]
        halves = [] if bias is None else [_in_order(half, gates, size) for half in bias[number].chunk(2)]
        parameters += [*matrices, *halves]
    state = x.new_zeros(directions, x.shape[1], size)
    states = [state if hidden is None else hidden]
    if node.operator == "LSTM":
        states.append(state if cell is None else cell)
    function: Any = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}[node.operator]
    given = x.flip(0) if is_reversed else x
    first = tuple(states) if len(states) > 1 else states[0]
    found, *last = function(given, first, parameters, bias is not None, 1, 0.0, False, directions > 1, False)
    found = found.flip(0) if is_reversed else found
    return [found.reshape(*x.shape[:2], directions, size).transpose(1, 2), *last]


def _in_order(rows: Tensor, gates: Sequence[int], size: int) -> Tensor:
    return torch.cat([rows[gate * size : (gate + 1) * size] for gate in gates])


LAYERS: Mapping[str, Callable[..., Tensor | Sequence[Tensor]]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "FusedMatMul": _gemm,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_norm,
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
    "RNN": _recurrent,
    "SimplifiedLayerNormalization": _rms_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "Softmax": _softmax,
}
"""Functions of a node and its inputs, of which the last ones may be missing or None."""
