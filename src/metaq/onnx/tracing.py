"""From a PyTorch module to an ONNX graph that leaves some weights open."""

import functools
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any, cast

import torch
from onnx import ModelProto
from torch import nn
from torch.utils import _pytree

from metaq.errors import ConfigError
from metaq.onnx.comparison import reason, tensors_in
from metaq.onnx.dimensions import Place
from metaq.quantize.curvature import Batch, call

OPSET = 21
"""The first with integers of 4 and of 16 bits."""


def trace(model: nn.Module, inputs: Batch, *, open_names: Collection[str], free: Collection[Place]) -> ModelProto:
    """The graph of `model`, with the weights of `open_names` as inputs after its own.

    As inputs, they come through the optimisation of the graph as they are: neither transposed, nor fused, nor renamed.
    The dimensions `free` of the inputs are left open as far as the network allows it. A ConfigError says that the
    network cannot be traced, or uses an operator that ONNX lacks.
    """
    arguments, keywords = _arguments(inputs)
    # PyTorch finds out where in the arguments the shapes belong.
    shapes: Any = cast(Any, torch.export.ShapesCollection)()
    for number, tensor in enumerate(tensors_in(inputs)):
        axes = [axis for place, axis in free if place == number]
        if axes:
            shapes[tensor] = dict.fromkeys(axes, torch.export.Dim.AUTO)
    with torch.no_grad(), _quiet():
        try:
            exported = torch.export.export(model, arguments, keywords, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise ConfigError(
                f"network {type(model).__name__}: cannot be traced ({reason(error)}); what forward does must not "
                "depend on the values of tensors."
            ) from error
        try:
            program = torch.onnx.export(exported, dynamo=True, optimize=False, opset_version=OPSET, verbose=False)
            assert program is not None
            made = program.model.graph
            for name in [name for name in made.initializers if name in open_names]:
                value = made.initializers.pop(name)
                value.const_value = None
                made.inputs.append(value)
            program.optimize()
            graph: ModelProto = program.model_proto
        except Exception as error:
            raise ConfigError(
                f"network {type(model).__name__}: cannot be written as ONNX ({reason(error)}); replace what ONNX has "
                "no operator for."
            ) from error
    return graph


def keep_tensors(model: nn.Module, inputs: Batch) -> None:
    """Make `model` give nothing but the tensors of its output, if there are other things in it, which ONNX lacks."""
    with torch.no_grad():
        leaves = _pytree.tree_leaves(call(model, inputs))
    if all(leaf is None or isinstance(leaf, torch.Tensor) for leaf in leaves):
        return
    original = model.forward

    @functools.wraps(original)
    def forward(*arguments: Any, **keywords: Any) -> list[torch.Tensor]:
        return tensors_in(original(*arguments, **keywords))

    model.forward = forward


def _arguments(inputs: Batch) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple):
        return inputs, {}
    return (), dict(inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own deprecations, its talk of packages that are not there, and graphs that it gave up."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
