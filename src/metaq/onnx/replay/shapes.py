"""Operators of ONNX in PyTorch that move numbers, and sums over axes; errors as in :mod:`metaq.onnx.replay.layers`."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metaq.onnx.replay.nodes import Node, axes_of, ints


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not node.get("allowzero"):
        sizes = [size or x.shape[dimension] for dimension, size in enumerate(sizes)]
    return x.reshape(sizes)


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(*node.get("perm", range(x.dim())[::-1]))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = axes_of(axes, node)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = axes_of(axes, node)
    for axis in sorted(axis % (x.dim() + len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _flatten(node: Node, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: node.get("axis", 1)]), -1)


def _expand(_: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x * x.new_ones(()).expand(shape.tolist())


def _concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.get("axis"))


def _slice(node: Node, x: Tensor, *given: Tensor | None) -> Tensor:
    starts, ends, axes, steps = (ints(each) for each in (*given, *(None,) * (4 - len(given))))
    starts, ends = starts or node.get("starts"), ends or node.get("ends")
    axes = axes or node.get("axes") or range(len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        numbers = range(x.shape[axis])[start:end:step]
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(numbers.start, numbers.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(numbers), dtype=torch.int64, device=x.device))
    return x


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = node.get("axis", 0)
    given = ints(sizes, node.get("split"))
    return torch.split(x, given or -(-x.shape[axis] // len(node.outputs)), axis)


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if axis == 0 and x.dim() == 2:
        return functional.embedding(indices, x)
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    if node.get("batch_dims"):
        raise NotImplementedError
    return x[tuple(indices.unbind(-1))]


def _scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if node.get("reduction", "none") != "none":
        raise NotImplementedError
    return x.index_put(tuple(indices.unbind(-1)), updates)


def _tile(_: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    given = ints(pads, node.get("pads"))
    count = len(given) // 2
    chosen = [axis % x.dim() for axis in ints(axes, range(count))]
    places = dict(zip(chosen, zip(given[:count], given[count:], strict=True), strict=True))
    pairs = [places.get(dimension, (0, 0)) for dimension in range(x.dim())]
    while pairs and pairs[0] == (0, 0):
        pairs = pairs[1:]
    flat = [number for pair in reversed(pairs) for number in pair]
    kind = {"reflect": "reflect", "edge": "replicate"}.get(node.get("mode", "constant"), "constant")
    constant = node.get("value", 0.0) if value is None else float(value)
    return functional.pad(x, flat, mode=kind, value=constant if kind == "constant" else None)


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, node.get("blocksize"))
    size = node.get("blocksize")
    samples, channels, height, width = x.shape
    blocks = x.reshape(samples, size, size, channels // size**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(samples, -1, height * size, width * size)


def _resize(node: Node, x: Tensor, *given: Tensor | None) -> Tensor:
    """Of `given`, the last one that is there says how large or how many times as large it becomes."""
    last = next(each for each in reversed(given) if each is not None and each.numel())
    sizes = last.tolist()
    if last.is_floating_point():
        sizes = [int(scale * size) for scale, size in zip(sizes, x.shape, strict=True)]
    kind = {"nearest": "nearest", "cubic": "bicubic"}.get(
        node.get("mode", "nearest"), ("linear", "bilinear", "trilinear")[x.dim() - 3]
    )
    if kind == "nearest" and node.get("nearest_mode", "round_prefer_floor") != "floor" and node.operator == "Resize":
        kind = "nearest-exact"
    is_aligned = node.get("coordinate_transformation_mode") == "align_corners" if "linear" in kind else None
    return functional.interpolate(x, size=sizes[2:], mode=kind, align_corners=is_aligned)


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = axes_of(axes, node)
        if not chosen and node.get("noop_with_empty_axes"):
            return x
        return function(x, tuple(chosen or range(x.dim())), keepdim=bool(node.get("keepdims", 1)))

    return reduce


def _cumulated(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    if node.get("exclusive") or node.get("reverse"):
        raise NotImplementedError
    return x.cumsum(int(axis))


MOVES: Mapping[str, Callable[..., Tensor | Sequence[Tensor]]] = {
    "Concat": _concat,
    "CumSum": _cumulated,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "ReduceL2": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim).sqrt()),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim)),
    "Reshape": _reshape,
    "Resize": _resize,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
"""Functions of a node and its inputs, of which the last ones may be missing or None."""
