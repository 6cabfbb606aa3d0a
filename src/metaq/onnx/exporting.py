"""From a module and its quantised tensors to an ONNX file that was compared with the module."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree

from metaq.config import near_match, needs, require
from metaq.errors import ConfigError, OutputError
from metaq.files import write_bytes
from metaq.onnx.comparison import BATCH_SIZES, inputs_like, largest_difference, reason
from metaq.onnx.integers import IntegerWeight, integer_weight
from metaq.quantize.curvature import Batch, call
from metaq.tensors.quantized import QuantizedTensor, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-5
"""Difference of outputs over the largest of them that is let pass in float32."""

ROUNDING_UNITS = 4
"""Units in the last place of the largest output that are let pass where outputs have fewer digits than float32."""

HALF_DIGITS = 0.01
"""Relative error that rounding to bfloat16 stays below."""

SEED = 0
"""Of the random inputs."""

MAX_FILE_BYTES = (1 << 31) - 1

OFF_GRID = "no integers give its values"
NO_SMALLER = "no smaller as integers"
NOT_READ = "not needed by the graph"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export` wrote.

    `file_bytes` is the size of the file, `float_bytes` what it would be with all weights as floats. `integers` has the
    type of the integers by the name of the tensor, such as ``"int4"``; `floats`, by name, why a quantised tensor is
    floats in the file, or absent. `weight_difference` is the largest absolute one between a weight of the model and
    what the file computes from integers, `output_difference` the largest one between outputs of onnxruntime and of
    PyTorch over the largest output; None if nothing was compared, because onnxruntime is not installed. If
    `is_batch_free`, the first dimension of the inputs may have any length.
    """

    file_bytes: int
    float_bytes: int
    integers: dict[str, str]
    floats: dict[str, str]
    weight_difference: float
    output_difference: float | None
    is_batch_free: bool


def export(
    path: str | os.PathLike[str],
    model: nn.Module,
    inputs: Batch,
    *,
    tensors: Iterable[Tensor] = (),
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write `model` as an ONNX file in which quantised weights are integers with ``DequantizeLinear``.

    The file is put in place only once ``onnx.checker`` accepts it and, if onnxruntime is installed, its outputs are
    those of `model` for the example inputs and for random ones like them.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    model
        Holds the restored weights; not changed. It is exported in evaluation mode.
    inputs
        Example inputs: a tensor, a tuple of positional or a mapping of keyword arguments. If the network takes them
        with other sizes of the first dimension, so does the file.
    tensors
        The weights on their grids, as :func:`metaq.container.read` gives them and
        :func:`metaq.compression.pipeline.to_tensors` makes them. A weight of `model` that is not on its grid is written
        as it is.
    tolerance
        Largest difference of outputs that is let pass, over the largest output. Where outputs have fewer digits than
        float32, four units in the last place pass too.

    Raises
    ------
    ConfigError
        If a package is missing, a tensor is not the model's, none of the weights is on its grid, the inputs do not fit
        the network, or it cannot be traced.
    OutputError
        If outputs differ, onnxruntime cannot run the network, or the file cannot be written. Nothing is written then.
    """
    needs("onnx", "onnxscript")
    from metaq.onnx import graph
    from metaq.onnx.tracing import trace

    network = copy.deepcopy(model).cpu().eval()
    examples, is_batch_free = _examples(network, inputs)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    # Under all of their names; tied ones are the same object.
    state = {**parameters, **dict(network.named_buffers(remove_duplicate=False))}
    weights, floats = _as_integers(state, list(tensors))
    # Those that are all the same, as biases of 0 are, may be optimised away, which open ones are not.
    opened = [name for name, weight in weights.items() if np.ptp(weight.integers.levels)]
    made = trace(network, examples, open_names=opened, is_batch_free=is_batch_free)
    graph.strip(made)
    saved = graph.replace_weights(made, weights)
    is_batch_free = graph.name_batch(made)
    file = _serialized(path, made)
    difference = None
    if find_spec("onnxruntime") is not None:
        generator = torch.Generator().manual_seed(SEED)
        difference = largest_difference(file, network, examples, is_batch_free=is_batch_free, generator=generator)
        digits = [torch.finfo(p.dtype).eps for p in parameters.values() if p.is_floating_point()]
        most = max([tolerance, *(ROUNDING_UNITS * digit for digit in digits)])
        if not difference <= most:
            raise OutputError(
                f"{path}: outputs of onnxruntime differ from those of PyTorch by {difference:.2g} of the largest one, "
                f"more than {most:.2g}; nothing was written. A larger tolerance would let them pass."
            )
    read = {id(state[name]) for name in saved}
    return Exported(
        file_bytes=write_bytes(path, file),
        float_bytes=len(file) + sum(saved.values()),
        integers={name: f"int{weight.integers.width}" for name, weight in weights.items() if id(state[name]) in read},
        floats={**floats, **{name: NOT_READ for name in weights if id(state[name]) not in read}},
        weight_difference=max((weights[name].difference for name in saved), default=0.0),
        output_difference=difference,
        is_batch_free=is_batch_free,
    )


def _examples(network: nn.Module, inputs: Batch) -> tuple[Batch, bool]:
    """The example inputs on the CPU, and whether the network takes other batch sizes.

    If it does, there are two of each where one was given: a size of 1 would be taken for fixed.
    """
    examples: Batch = _pytree.tree_map(lambda tensor: tensor.detach().cpu(), inputs)
    _require_runs(network, examples)
    generator = torch.Generator().manual_seed(SEED)
    try:
        for size in BATCH_SIZES:
            _require_runs(network, inputs_like(examples, size, generator))
    except ConfigError:
        return examples, False
    is_one = all(len(tensor) == 1 for tensor in _pytree.tree_leaves(examples) if tensor.dim())
    return inputs_like(examples, 2, generator) if is_one else examples, True


def _require_runs(network: nn.Module, inputs: Batch) -> None:
    try:
        with torch.no_grad():
            call(network, inputs)
    except Exception as error:
        shapes = ", ".join("×".join(map(str, tensor.shape)) for tensor in _pytree.tree_leaves(inputs))
        raise ConfigError(
            f"network {type(network).__name__}: does not take inputs of shape {shapes} ({reason(error)}); give the "
            "shape that it takes."
        ) from error


def _as_integers(
    state: Mapping[str, torch.Tensor], tensors: Sequence[Tensor]
) -> tuple[dict[str, IntegerWeight], dict[str, str]]:
    """Weights that are smaller as integers, by all of their names; and why other quantised ones are not."""
    from metaq.onnx.graph import saved_bytes

    names: dict[int, list[str]] = {}
    for name, weight in state.items():
        names.setdefault(id(weight), []).append(name)
    weights: dict[str, IntegerWeight] = {}
    floats: dict[str, str] = {}
    for tensor in tensors:
        if not isinstance(tensor, QuantizedTensor) or tensor.name in weights:
            continue
        require(tensor.name in state, f"{tensor.name}: is no tensor of the network; {near_match(tensor.name, state)}")
        weight = state[tensor.name]
        require(weight.is_floating_point(), f"{tensor.name}: is of type {weight.dtype} in the network, not floating.")
        found = integer_weight(weight, tensor)
        if found is None:
            floats[tensor.name] = OFF_GRID
        elif saved_bytes(tensor.name, found) <= 0:
            floats[tensor.name] = NO_SMALLER
        else:
            weights.update(dict.fromkeys(names[id(weight)], found))
    loaded = not floats or bool(weights) or any(_holds(state, tensor) for tensor in tensors)
    require(loaded, "tensors: the network holds none of these weights; load the restored ones into it first.")
    return weights, floats


def _holds(state: Mapping[str, torch.Tensor], tensor: Tensor) -> bool:
    """Whether a quantised tensor is in the network, in whatever precision."""
    if not isinstance(tensor, QuantizedTensor) or state[tensor.name].shape != tensor.shape:
        return False
    values = torch.from_numpy(tensor.values())
    return torch.allclose(state[tensor.name].double(), values, rtol=HALF_DIGITS, atol=tensor.grid.step_size / 4)


def _serialized(path: str | os.PathLike[str], made: ModelProto) -> bytes:
    import onnx

    if made.ByteSize() > MAX_FILE_BYTES:
        raise OutputError(f"{path}: would be larger than 2 GiB, which an ONNX file cannot be.")
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OutputError(f"{path}: the graph is not valid ONNX ({reason(error)}); nothing was written.") from error
    file: bytes = made.SerializeToString(deterministic=True)
    return file
