"""From a module and its quantised tensors to an ONNX file that was compared with the module."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
from metaq.onnx.comparison import difference, largest_difference, outputs, reason
from metaq.onnx.dimensions import Free, Place, batches_of, changed_by, examples_of
from metaq.onnx.integers import EXACT_WIDTHS, IntegerWeight, integer_weight, rounded_weight
from metaq.quantize.curvature import Batch
from metaq.tensors.integers import WIDTHS
from metaq.tensors.quantized import QuantizedTensor, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-5
"""Difference of outputs over the largest of them that is let pass in float32."""

ROUNDING_UNITS = 4
"""Units in the last place of the largest output that are let pass where outputs have fewer digits than float32."""

HALF_DIGITS = 0.01
"""Relative error that rounding to bfloat16 stays below."""

ROUNDABLE = (torch.float32, torch.float16, torch.bfloat16)

MAX_FILE_BYTES = (1 << 31) - 1

OFF_GRID = "no integers give its values"
TOO_FINE = "a vector of more levels than eight bits hold"
NO_SMALLER = "no smaller as integers"
NOT_READ = "not needed by the graph"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export` wrote.

    Attributes
    ----------
    file_bytes, float_bytes
        Size of the file, and what it would be with all weights as floats.
    integers
        Type of the integers by the name of the tensor, such as ``"int4"``.
    floats
        Why a quantised tensor is floats in the file, or absent, by its name.
    rounded
        Names of tensors that were rounded to integers of eight bits, since their grids are finer.
    weight_difference
        Largest absolute difference between a weight of the model and what the file computes from integers.
    output_difference
        Largest difference between outputs of onnxruntime and of PyTorch with the weights of the file, over the largest
        output; None if nothing was compared, because onnxruntime is not installed.
    rounding_difference
        Largest difference that rounding makes to PyTorch's outputs, over the largest output; 0 if nothing was rounded.
    inputs
        Shapes of the inputs by their names in the file; a size that may be any is a word.
    fixed
        Dimensions, by the name of the input, of which the network takes other sizes but not the file.
    """

    file_bytes: int
    float_bytes: int
    integers: dict[str, str]
    floats: dict[str, str]
    rounded: tuple[str, ...]
    weight_difference: float
    output_difference: float | None
    rounding_difference: float
    inputs: dict[str, tuple[int | str, ...]]
    fixed: dict[str, tuple[int, ...]]

    @property
    def is_batch_free(self) -> bool:
        """Whether the first dimension of all inputs may have any size."""
        firsts = [shape[0] for shape in self.inputs.values() if shape]
        return bool(firsts) and all(isinstance(first, str) for first in firsts)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A finished file, bytes that each weight has saved in it, and what is told of it."""

    data: bytes
    saved: dict[str, int]
    inputs: dict[str, tuple[int | str, ...]]
    difference: float | None


def export(
    path: str | os.PathLike[str],
    model: nn.Module,
    inputs: Batch,
    *,
    tensors: Iterable[Tensor] = (),
    exact: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write `model` as an ONNX file in which quantised weights are integers with ``DequantizeLinear``.

    The integers have four bits, or eight; weights on finer grids are rounded to eight, with a scale a row or a column.
    The file is put in place only once ``onnx.checker`` accepts it and, if onnxruntime is installed, its outputs are
    those of the network with these weights for the example inputs and for random ones like them.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    model
        Holds the restored weights; not changed. It is exported in evaluation mode.
    inputs
        Example inputs: a tensor, a tuple of positional or a mapping of keyword arguments. Dimensions of which the
        network takes other sizes, such as the batch and the length of a sequence, are free in the file too, as far as
        PyTorch can trace that.
    tensors
        The weights on their grids, as :func:`metaq.container.read` gives them and
        :func:`metaq.compression.pipeline.to_tensors` makes them. A weight of `model` that is not on its grid is written
        as it is.
    exact
        Whether no weight is rounded: those that eight bits cannot hold become integers of 16 bits, products with a
        basis, or floats.
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
    network = copy.deepcopy(model).cpu().eval()
    examples, free = examples_of(network, _pytree.tree_map(lambda tensor: tensor.detach().cpu(), inputs))
    # Under all of their names; tied ones are the same object.
    state = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    weights, floats, rounded = _as_integers(state, list(tensors), exact=exact)
    rounding_difference = _round(network, state, {name: weights[name] for name in rounded}, batches_of(examples, free))
    file = _compared(path, network, examples, weights, free, tolerance)
    places = {place for place in free.places if not isinstance(list(file.inputs.values())[place[0]][place[1]], str)}
    read = {id(state[name]) for name in file.saved}
    return Exported(
        file_bytes=write_bytes(path, file.data),
        float_bytes=len(file.data) + sum(file.saved.values()),
        integers={name: f"int{weight.integers.width}" for name, weight in weights.items() if id(state[name]) in read},
        floats={**floats, **{name: NOT_READ for name in weights if id(state[name]) not in read}},
        rounded=tuple(name for name in rounded if id(state[name]) in read),
        weight_difference=max((weights[name].difference for name in file.saved), default=0.0),
        output_difference=file.difference,
        rounding_difference=rounding_difference,
        inputs=file.inputs,
        fixed={
            name: axes
            for number, name in enumerate(file.inputs)
            if (axes := tuple(sorted(axis for place, axis in places if place == number)))
        },
    )


def _round(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    rounded: Mapping[str, IntegerWeight],
    batches: Sequence[Batch],
) -> float:
    """Put rounded weights in place of those of `network`; how much that changes its outputs at most."""
    if not rounded:
        return 0.0
    before = list(outputs(network, batches))
    with torch.no_grad():
        for name, weight in rounded.items():
            state[name].copy_(weight.computed())
    return max(difference(*pair) for pair in zip(before, outputs(network, batches), strict=True))


def _compared(
    path: str | os.PathLike[str],
    network: nn.Module,
    examples: Batch,
    weights: Mapping[str, IntegerWeight],
    free: Free,
    tolerance: float,
) -> _File:
    """The file in which as many dimensions are free as work, or the error of one in which none is."""
    attempts = free.less()
    for attempt in attempts[:-1]:
        try:
            return _made(path, network, examples, weights, attempt, tolerance)
        except (ConfigError, OutputError):
            continue
    return _made(path, network, examples, weights, attempts[-1], tolerance)


def _made(
    path: str | os.PathLike[str],
    network: nn.Module,
    examples: Batch,
    weights: Mapping[str, IntegerWeight],
    free: Free,
    tolerance: float,
) -> _File:
    from metaq.onnx import graph
    from metaq.onnx.tracing import keep_tensors, trace

    # Those that are all the same, as biases of 0 are, may be optimised away, which open ones are not.
    opened = [name for name, weight in weights.items() if np.ptp(weight.integers.levels)]
    keep_tensors(network, examples)
    made = trace(network, examples, open_names=opened, free=free.places)
    graph.strip(made)
    saved = graph.replace_weights(made, weights)
    inputs = graph.name_dimensions(made)
    data, found = _checked(path, made, network, examples, free, tolerance)
    fixed = [group for group in free.groups if not group <= _symbolic(made)]
    if fixed and found is not None:
        # PyTorch fixes the length of what recurrent layers read, which their operators in ONNX do not.
        _loosen(made, network, examples, fixed)
        loosened = graph.name_dimensions(made)
        with suppress(OutputError):
            data, found = _checked(path, made, network, examples, free, tolerance)
            inputs = loosened
    return _File(data=data, saved=saved, inputs=inputs, difference=found)


def _checked(
    path: str | os.PathLike[str],
    made: ModelProto,
    network: nn.Module,
    examples: Batch,
    free: Free,
    tolerance: float,
) -> tuple[bytes, float | None]:
    """The bytes of a file, and the difference of its outputs; :class:`OutputError` if that is too large."""
    data = _serialized(path, made)
    if find_spec("onnxruntime") is None:
        return data, None
    found = largest_difference(data, network, batches_of(examples, free.narrowed(_symbolic(made))))
    digits = [torch.finfo(p.dtype).eps for p in network.parameters() if p.is_floating_point()]
    most = max([tolerance, *(ROUNDING_UNITS * digit for digit in digits)])
    if not found <= most:
        raise OutputError(
            f"{path}: outputs of onnxruntime differ from those of PyTorch by {found:.2g} of the largest one, "
            f"more than {most:.2g}; nothing was written. A larger tolerance would let them pass."
        )
    return data, found


def _symbolic(made: ModelProto) -> frozenset[Place]:
    """Dimensions of inputs that may have any size."""
    return frozenset(
        (number, axis)
        for number, value in enumerate(made.graph.input)
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim)
        if dimension.dim_param
    )


def _loosen(made: ModelProto, network: nn.Module, examples: Batch, groups: Sequence[frozenset[Place]]) -> None:
    from metaq.onnx import graph

    for number, group in enumerate(groups):
        name = f"free_{number}"
        changed = changed_by(network, examples, group)
        outputs = {place: name if is_same else "output_{}_{}".format(*place) for place, is_same in changed.items()}
        graph.loosen(made, dict.fromkeys(group, name), outputs)


def _as_integers(
    state: Mapping[str, torch.Tensor], tensors: Sequence[Tensor], *, exact: bool
) -> tuple[dict[str, IntegerWeight], dict[str, str], list[str]]:
    """Weights that are smaller as integers, by all of their names; why other quantised ones are not; and the tensors
    that were rounded.
    """
    from metaq.onnx.graph import saved_bytes

    names: dict[int, list[str]] = {}
    for name, weight in state.items():
        names.setdefault(id(weight), []).append(name)
    weights: dict[str, IntegerWeight] = {}
    floats: dict[str, str] = {}
    rounded: list[str] = []
    for tensor in tensors:
        if not isinstance(tensor, QuantizedTensor) or tensor.name in weights:
            continue
        require(tensor.name in state, f"{tensor.name}: is no tensor of the network; {near_match(tensor.name, state)}")
        weight = state[tensor.name]
        require(weight.is_floating_point(), f"{tensor.name}: is of type {weight.dtype} in the network, not floating.")
        found = integer_weight(weight, tensor, widths=EXACT_WIDTHS if exact else WIDTHS)
        is_rounded = found is None and not exact and _may_round(weight, tensor)
        found = rounded_weight(weight) if is_rounded else found
        if found is None:
            is_fine = not exact and weight.dtype in ROUNDABLE and _holds_tensor(weight, tensor)
            floats[tensor.name] = TOO_FINE if is_fine else OFF_GRID
        elif saved_bytes(tensor.name, found) <= 0:
            floats[tensor.name] = NO_SMALLER
        else:
            weights.update(dict.fromkeys(names[id(weight)], found))
            rounded += [tensor.name] if is_rounded else []
    loaded = not floats or bool(weights) or any(_holds(state, tensor) for tensor in tensors)
    require(loaded, "tensors: the network holds none of these weights; load the restored ones into it first.")
    return weights, floats, rounded


def _may_round(weight: torch.Tensor, tensor: QuantizedTensor) -> bool:
    """Whether a weight has a scale a row or a column to be rounded with, and is what `tensor` says or was made of it.

    Vectors, such as biases, are few and matter much.
    """
    is_plain = weight.dim() > 1 and weight.dtype in ROUNDABLE and weight.numel() > 0
    return is_plain and (weight.shape != tensor.shape or _holds_tensor(weight, tensor))


def _holds(state: Mapping[str, torch.Tensor], tensor: Tensor) -> bool:
    """Whether a quantised tensor is in the network, in whatever precision."""
    return isinstance(tensor, QuantizedTensor) and _holds_tensor(state[tensor.name], tensor)


def _holds_tensor(weight: torch.Tensor, tensor: QuantizedTensor) -> bool:
    if weight.shape != tensor.shape:
        return False
    values = torch.from_numpy(tensor.values())
    return torch.allclose(weight.detach().double().cpu(), values, rtol=HALF_DIGITS, atol=tensor.grid.step_size / 4)


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
