"""The same inputs through two networks: an ONNX file beside PyTorch, or weights beside rounded ones."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils import _pytree

from metaq.errors import OutputError
from metaq.quantize.curvature import Batch, call

Sizes = Mapping[tuple[int, int], int]
"""Sizes of dimensions, by the number of the input among all tensors of the inputs, and that of the dimension."""

LOGS_ONLY_FATAL = 4

LONGEST_REASON = 300


def reason(error: BaseException) -> str:
    """What went wrong in another package: kind and first line of the error at the bottom of `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:LONGEST_REASON] if lines else type(error).__name__


def largest_difference(file: bytes, model: nn.Module, batches: Sequence[Batch]) -> float:
    """Largest difference between the outputs of onnxruntime for an ONNX `file` and of `model`, over the largest output.

    `model` is in evaluation mode, on the CPU. The difference is infinite where integers or the shape differ or
    something is not a number; outputs that are all 0 count absolutely. An OutputError says that onnxruntime cannot run
    the file.
    """
    # Imported late: a file can be made without it.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOGS_ONLY_FATAL
    options.intra_op_num_threads = torch.get_num_threads()
    with _refusal_explained():
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found = 0.0
    for batch, expected in zip(batches, outputs(model, batches), strict=True):
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors_in(batch), strict=True)}
        with _refusal_explained():
            given = [torch.from_numpy(output) for output in session.run(None, feed)]
        found = max(found, difference(expected, given))
    return found


def outputs(model: nn.Module, batches: Sequence[Batch]) -> Iterator[list[torch.Tensor]]:
    """All tensors that a model gives for each batch."""
    for batch in batches:
        with torch.no_grad():
            yield tensors_in(call(model, batch))


def difference(expected: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> float:
    """Largest difference of outputs over the largest of each; infinite if there are more of one than of the other."""
    if len(expected) != len(given):
        return math.inf
    return max([0.0, *map(_difference, expected, given)])


@contextmanager
def _refusal_explained() -> Iterator[None]:
    # What it raises has no common base.
    try:
        yield
    except Exception as error:
        raise OutputError(
            f"onnxruntime cannot run the network ({reason(error)}); if it lacks an element type on a CPU, export "
            "model.float(), which keeps the values of half-precision weights."
        ) from error


def inputs_like(inputs: Batch, sizes: Sizes, generator: torch.Generator) -> Batch:
    """Random inputs of the same kind, with other `sizes` where they are given.

    Floating ones are drawn uniformly from the range of the examples, others from their elements.
    """

    def drawn(number: int, example: torch.Tensor) -> torch.Tensor:
        shape = [sizes.get((number, axis), size) for axis, size in enumerate(example.shape)]
        count = math.prod(shape)
        if not example.is_floating_point():
            places = torch.randint(max(example.numel(), 1), (count,), generator=generator)
            return example.reshape(-1)[places].reshape(shape)
        low, high = (float(example.min()), float(example.max())) if example.numel() else (0.0, 0.0)
        low, high = (low, high) if low < high else (low - 1, low + 1)
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(example.dtype)

    leaves, structure = _pytree.tree_flatten(inputs)
    batch: Batch = _pytree.tree_unflatten([drawn(*each) for each in enumerate(leaves)], structure)
    return batch


def tensors_in(values: object) -> list[torch.Tensor]:
    """All tensors in nested outputs or inputs, in order."""
    return [value for value in _pytree.tree_leaves(values) if isinstance(value, torch.Tensor)]


def _difference(wanted: torch.Tensor, found: torch.Tensor) -> float:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return math.inf
    if not wanted.numel():
        return 0.0
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(wanted, found) else math.inf
    scale = float(wanted.double().abs().max()) or 1.0
    difference = float((wanted.double() - found.double()).abs().max())
    return difference / scale if math.isfinite(difference) else math.inf
