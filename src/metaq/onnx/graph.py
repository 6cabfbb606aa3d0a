"""Changes to a finished ONNX graph: integers for weights, names for dimensions, and nothing that it can do without."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from metaq.onnx.dimensions import Place
from metaq.onnx.integers import ONE, Factor, IntegerWeight
from metaq.tensors.integers import Integers

TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}
FLOATS = {
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
}
FLOAT_TYPES = {number: dtype for dtype, number in FLOATS.items()}

OLD_WIDTHS = (8,)
"""Bits of the integers that every version with ``DequantizeLinear`` has."""

Part = NodeProto | TensorProto | ValueInfoProto
PartT = TypeVar("PartT", bound=Part)

MOST_OF_A_SEQUENCE = 3
"""Dimensions of an input that is a sequence: the batch, its length, and what there is at each place."""

CONVOLUTIONS = ("Conv", "ConvTranspose")

GATHERED_WIDTHS = (8, 16)
"""Bits of the types that ``Gather`` takes."""


class Names(set[str]):
    """Names of values and nodes that a graph uses already, and those within its nodes."""

    def new(self, wanted: str) -> str:
        """`wanted`, with underscores after it if it is taken."""
        while wanted in self:
            wanted += "_"
        self.add(wanted)
        return wanted


@dataclass(frozen=True, kw_only=True)
class Step:
    """An operator, its inputs after the first, and its attributes; of inputs `by_row`, rows are those of the weight."""

    operator: str
    inputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    by_row: bool = False


@dataclass(kw_only=True)
class Parts:
    """What computes a weight from the integers called `stored`, out of which rows can be picked if `is_gatherable`.

    `initializers` are integers, scales and other constants, and nodes `before` do not depend on the integers of the
    weight. `steps` are done to these one after the other.
    """

    stored: str
    is_gatherable: bool
    initializers: list[TensorProto] = field(default_factory=list)
    before: list[NodeProto] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def nodes(
        self,
        start: str,
        end: str,
        names: Names,
        *,
        first: int = 0,
        last: int | None = None,
        lookup: NodeProto | None = None,
    ) -> list[NodeProto]:
        """Nodes for some of the steps, from the value called `start` to the one called `end`; for the rows that
        `lookup` picks if it is given.
        """
        made = []
        steps = self.steps[first:last]
        for number, step in enumerate(steps, 1):
            following = end if number == len(steps) else names.new(f"{end}_{step.operator}")
            inputs = list(step.inputs)
            if lookup is not None and step.by_row:
                picked = _copy(lookup)
                picked.input[0], picked.output[0] = inputs[0], names.new(f"{end}_{step.inputs[0]}")
                picked.name, inputs = names.new(f"node_{picked.output[0]}"), [picked.output[0]]
                made.append(picked)
            node_name = names.new(f"node_{following}")
            made.append(
                helper.make_node(step.operator, [start, *inputs], [following], name=node_name, **step.attributes)
            )
            start = following
        return made


def strip(model: ModelProto) -> None:
    """Take out what no runtime needs: where in whose source code a node came from, and shapes that can be inferred."""
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    graph.doc_string = ""
    for part in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        del part.metadata_props[:]
        part.doc_string = ""


def name_dimensions(model: ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Call free first dimensions of inputs ``batch`` and others ``length``, or ``size`` in inputs of more than three.

    They are called so in outputs too. Returns the shapes of all inputs by their names.
    """
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            # A size that tracing found to be fixed after all.
            if dimension.dim_param.isdecimal():
                dimension.dim_value = int(dimension.dim_param)
    shapes = {value.name: list(value.type.tensor_type.shape.dim) for value in graph.input}
    firsts = dict.fromkeys(dims[0].dim_param for dims in shapes.values() if dims and dims[0].dim_param)
    lengths, sizes = (
        dict.fromkeys(dim.dim_param for dims in some for dim in dims[1:] if dim.dim_param)
        for some in (
            [dims for dims in shapes.values() if len(dims) <= MOST_OF_A_SEQUENCE],
            [dims for dims in shapes.values() if len(dims) > MOST_OF_A_SEQUENCE],
        )
    )
    renamed: dict[str, str] = {}
    for wanted, found in (("batch", firsts), ("length", lengths), ("size", sizes)):
        new = [name for name in found if name.isidentifier() and name not in renamed]
        renamed |= {old: f"{wanted}_{number}" if number else wanted for number, old in enumerate(new)}
    for value in [*graph.input, *graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                # Others may be multiples of it.
                dimension.dim_param = re.sub(r"\w+", lambda found: renamed.get(found[0], found[0]), dimension.dim_param)
    return {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in graph.input
    }


def loosen(model: ModelProto, inputs: Mapping[Place, str], outputs: Mapping[Place, str]) -> None:
    """Name dimensions whose size is fixed, by the number of the input or output and that of the dimension."""
    for values, names in ((model.graph.input, inputs), (model.graph.output, outputs)):
        for (number, axis), name in names.items():
            dimension = values[number].type.tensor_type.shape.dim[axis]
            if not dimension.dim_param:
                dimension.dim_param = name


def weight_parts(name: str, weight: IntegerWeight, names: Names) -> Parts:
    """What computes the weight called `name`."""
    gatherable = weight.integers.width in GATHERED_WIDTHS
    parts = Parts(stored=names.new(f"{name}_quantized"), is_gatherable=gatherable)
    parts.steps.append(_dequantizing(parts, name, parts.stored, weight.integers, weight.scale, names))
    if weight.basis is not None:
        basis = names.new(f"{name}_basis")
        stored = names.new(f"{basis}_quantized")
        step = _dequantizing(parts, basis, stored, weight.basis, ONE, names)
        node = helper.make_node("DequantizeLinear", [stored, *step.inputs], [basis], name=names.new(f"node_{basis}"))
        parts.before.append(node)
        parts.steps.append(Step(operator="MatMul", inputs=(basis,)))
    for factor in weight.factors:
        constant = _constant(parts, names.new(f"{name}_factor"), factor)
        by_row = factor.ndim > 0 and factor.shape[0] > 1
        parts.steps.append(Step(operator="Mul", inputs=(constant,), by_row=by_row))
    if weight.offset is not None:
        parts.steps.append(Step(operator="Add", inputs=(_constant(parts, names.new(f"{name}_offset"), weight.offset),)))
    parts.steps.extend(Step(operator="Cast", attributes={"to": FLOATS[dtype]}) for dtype in weight.casts)
    return parts


def saved_bytes(name: str, weight: IntegerWeight, parts: Parts | None = None) -> int:
    """Bytes by which a weight in integers makes a file smaller; by default with the `parts` that it takes by itself."""
    parts = parts or weight_parts(name, weight, Names())
    levels = weight.integers.levels
    dtype = weight.casts[-1] if weight.casts else torch.float32
    header = TensorProto(name=name, dims=levels.shape, data_type=FLOATS[dtype])
    nodes = [*parts.before, *parts.nodes(parts.stored, name, Names())]
    return levels.size * dtype.itemsize + _size_bytes([header]) - _size_bytes([*parts.initializers, *nodes])


def is_elsewhere(initializer: TensorProto) -> bool:
    """Whether the elements of an initialiser are in another file."""
    return bool(initializer.data_location == TensorProto.EXTERNAL)


def replace_weights(model: ModelProto, weights: Mapping[str, IntegerWeight]) -> dict[str, int]:
    """Compute initialisers and inputs from integers; the bytes that each name that was found has saved."""
    graph, names = model.graph, Names()
    for each in _graphs(graph):
        names.update(part.name for part in [*each.input, *each.initializer, *each.output, *each.node])
        names.update(name for node in each.node for name in node.output)
    there = {value.name for value in [*graph.input, *graph.initializer]}
    found = {name: weight for name, weight in weights.items() if name in there}
    for values in (graph.input, graph.initializer):
        _refill(values, [value for value in values if value.name not in found])
    saved: dict[str, int] = {}
    begin: list[NodeProto] = []
    instead: dict[str, list[NodeProto]] = {}
    for name, weight in found.items():
        parts = weight_parts(name, weight if _is_computed_as_written(graph, name) else weight.with_scale_apart(), names)
        graph.initializer.extend(parts.initializers)
        first, lookups = _computing(graph, name, parts, names)
        begin += first
        instead |= lookups
        saved[name] = saved_bytes(name, weight, parts)
    nodes = [made for node in graph.node for made in instead.get(node.output[0], [node])]
    _refill(graph.node, [*begin, *nodes])
    return saved


def _size_bytes(parts: Iterable[Part]) -> int:
    """What parts of a graph take in a file, with the tag and the length in front of each."""
    return sum(size + 1 + (size.bit_length() + 6) // 7 for size in (part.ByteSize() for part in parts))


def _computing(
    graph: GraphProto, name: str, parts: Parts, names: Names
) -> tuple[list[NodeProto], dict[str, list[NodeProto]]]:
    """What to compute at the beginning for a weight, and instead of nodes that look up its rows, by their output.

    Rows are looked up among integers where that is possible, so that only they are computed.
    """
    may_look_up = parts.is_gatherable or len(parts.steps) > 1
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] == name]
    lookups = [node for node in gathers if may_look_up and _number(node, "axis") == 0]
    uses = sum(list(node.input).count(name) for inner in _graphs(graph) for node in inner.node)
    uses += sum(output.name == name for output in graph.output)
    start, done = parts.stored, 0
    begin = list(parts.before)
    if lookups and not parts.is_gatherable:
        start, done = names.new(f"{name}_dequantized"), 1
        begin += parts.nodes(parts.stored, start, names, last=1)
    if uses > len(lookups):
        begin += parts.nodes(start, name, names, first=done)
    instead = {}
    for node in lookups:
        gather, output = _copy(node), node.output[0]
        rows = names.new(f"{output}_rows")
        gather.input[0], gather.output[0] = start, rows
        instead[output] = [gather, *parts.nodes(rows, output, names, first=done, lookup=node)]
    return begin, instead


def _is_computed_as_written(graph: GraphProto, name: str) -> bool:
    """Whether onnxruntime computes what reads the weight called `name` as the graph says, right after dequantising it.

    It turns the product of a matrix with what ``DequantizeLinear`` gives into one that rounds the other factor to eight
    bits; and up to 1.24 it moves ``DequantizeLinear`` behind operators like ``Slice``, wrongly for signed integers. It
    does neither where a multiplication stands in between.
    """
    readers = [node for inner in _graphs(graph) for node in inner.node if name in node.input]
    return all(
        node.op_type in CONVOLUTIONS or (node.op_type == "Gemm" and _number(node, "transB") and name != node.input[0])
        for node in readers
    )


def _number(node: NodeProto, attribute: str) -> int:
    """An attribute that is 0 if it is not given."""
    return next((int(each.i) for each in node.attribute if each.name == attribute), 0)


def _copy(part: PartT) -> PartT:
    copied = type(part)()
    copied.CopyFrom(part)
    return copied


def _refill(field: Any, parts: Iterable[PartT]) -> None:
    """Replace what a repeated field of a message holds; copies, since clearing it may free what it held."""
    copies = [_copy(part) for part in parts]
    del field[:]
    field.extend(copies)


def _graphs(graph: GraphProto) -> list[GraphProto]:
    """A graph and those within its nodes."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(found for each in inner for found in _graphs(each))]


def _dequantizing(parts: Parts, name: str, stored: str, integers: Integers, scale: Factor, names: Names) -> Step:
    """Add the integers, called `stored`; returns their ``DequantizeLinear``."""
    parts.initializers.append(_integers(stored, integers.stored, integers.width))
    inputs = [_constant(parts, names.new(f"{name}_scale"), scale.reshape(-1) if scale.ndim else scale)]
    if integers.zero_point:
        inputs.append(names.new(f"{name}_zero_point"))
        zero_points = np.full(scale.size if scale.ndim else (), integers.zero_point)
        parts.initializers.append(_integers(inputs[-1], zero_points, integers.width))
    attributes = {"axis": int(np.argmax(scale.shape))} if scale.ndim else {}
    return Step(operator="DequantizeLinear", inputs=tuple(inputs), attributes=attributes)


def _constant(parts: Parts, name: str, value: Factor | np.float32) -> str:
    parts.initializers.append(numpy_helper.from_array(np.array(value), name))
    return name


def _integers(name: str, stored: NDArray[np.int64], width: int) -> TensorProto:
    """An initialiser of a signed type of `width` bits; two of four bits share a byte, the first in its lower half."""
    if width == 4:
        halves = np.append(stored.reshape(-1), np.zeros(stored.size % 2, np.int64)) & 0xF
        raw = (halves[0::2] | halves[1::2] << 4).astype(np.uint8)
    else:
        raw = stored.astype(f"<i{width // 8}")
    return helper.make_tensor(name, TYPES[width], stored.shape, raw.tobytes(), raw=True)
