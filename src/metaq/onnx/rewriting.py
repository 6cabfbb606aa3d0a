"""A finished ONNX file with integers in place of weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import torch

from metaq.config import needs, require
from metaq.errors import ConfigError, FormatError
from metaq.onnx.comparison import reason
from metaq.onnx.integers import EXACT_WIDTHS, IntegerWeight, integer_weight, rounded_weight
from metaq.tensors.integers import WIDTHS
from metaq.tensors.quantized import QuantizedTensor, Tensor, TiedTensor, stored

if TYPE_CHECKING:
    from onnx import ModelProto

FIRST_OPSET, AXIS_OPSET, NARROW_OPSET = 10, 13, 21
"""The first with ``DequantizeLinear``, with a scale a row or column in it, and with integers of 4 and of 16 bits."""

FIRST_IR, NARROW_IR = 4, 10
"""Versions of the format itself: the first whose initialisers are no inputs, and the one that those integers need."""


def with_integers(data: bytes, tensors: Iterable[Tensor], *, exact: bool = False) -> bytes:
    """An ONNX file in which quantised initialisers are integers with ``DequantizeLinear``.

    What an initialiser becomes is computed from the tensor of its name alone, whatever its values are. It stays as it
    is if it is not of a floating type that has such integers, or no smaller so. So does what is in other files.

    Parameters
    ----------
    data
        Bytes of the file.
    tensors
        Weights by the names of the initialisers; others are passed over.
    exact
        Whether no weight is rounded, as for :func:`metaq.onnx.export`.

    Returns
    -------
    bytes
        The file; `data` itself if nothing changes.

    Raises
    ------
    ConfigError
        If a package is missing, a tensor has another shape than the initialiser of its name, or the operators of the
        file are of a version that has no ``DequantizeLinear``.
    FormatError
        If `data` are not an ONNX file.
    """
    needs("onnx")
    from metaq.onnx import graph

    model = _parsed(data)
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    found = {each.name: each for each in model.graph.initializer if each.data_type in graph.FLOAT_TYPES}
    weights: dict[str, IntegerWeight] = {}
    for tensor in tensors:
        held = tensor.first if isinstance(tensor, TiedTensor) else tensor
        initializer = found.get(tensor.name)
        if initializer is None or not isinstance(held, QuantizedTensor) or graph.is_elsewhere(initializer):
            continue
        shape = tuple(initializer.dims)
        require(shape == tensor.shape, f"{tensor.name}: has the shape {tensor.shape}, but {shape} in the ONNX file.")
        weight = _weight(held, graph.FLOAT_TYPES[initializer.data_type])
        made = _integers(weight, held, opset=opset, exact=exact)
        if made is not None and graph.saved_bytes(tensor.name, made) > 0:
            weights[tensor.name] = made
    if not weights:
        return data
    if opset < FIRST_OPSET:
        raise ConfigError(
            f"data: uses version {opset} of ONNX's operators, which has no integers for weights; convert it to version "
            f"{NARROW_OPSET} by onnx.version_converter first."
        )
    graph.replace_weights(model, weights)
    is_narrow = any(weight.integers.width not in graph.OLD_WIDTHS for weight in weights.values())
    model.ir_version = max(model.ir_version, NARROW_IR if is_narrow else FIRST_IR)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _parsed(data: bytes) -> ModelProto:
    from onnx import load_from_string

    decode_error = import_module("google.protobuf.message").DecodeError
    try:
        model = load_from_string(data)
    except decode_error as error:
        raise FormatError(f"data: is no ONNX file ({reason(error)}); give the bytes of one.") from error
    if not model.ir_version:
        raise FormatError("data: is no ONNX file, since it names no version; give the bytes of one.")
    return model


def _weight(tensor: QuantizedTensor, dtype: torch.dtype) -> torch.Tensor:
    """The values of a tensor as a model of this type holds them: rounded to the type of the file first."""
    restored = stored(tensor.values(), tensor.dtype)
    values = torch.from_numpy(np.ascontiguousarray(restored).reshape(-1).view(np.uint8).copy())
    return values.view(getattr(torch, tensor.dtype.name)).reshape(tensor.shape).to(dtype)


def _integers(weight: torch.Tensor, tensor: QuantizedTensor, *, opset: int, exact: bool) -> IntegerWeight | None:
    known: Sequence[int] = EXACT_WIDTHS if exact else WIDTHS
    # Before, there were integers of eight bits only.
    widths = known if opset >= NARROW_OPSET else (8,)
    found = integer_weight(weight, tensor, widths=widths)
    if found is None and not exact and weight.dim() > 1 and weight.numel() and weight.dtype is not torch.float64:
        found = rounded_weight(weight)
    if found is None or opset >= AXIS_OPSET:
        return found
    if torch.bfloat16 in found.casts:
        # Nothing could be converted to it yet.
        return None
    return found.with_scale_apart() if found.scale.ndim else found
