"""Tensors in an ONNX model, wherever in it, and what its operators make of them.

After onnx.proto of ONNX, whose numbers of fields these are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import NamedTuple

from metaq.container.layout import MAX_DIMENSIONS, MAX_TENSORS
from metaq.errors import FormatError
from metaq.model.formats.onnx_operators import OTHER_SCALE, UNUSED, Use, use_of
from metaq.model.formats.protobuf import LENGTH, Field, Wire

GRAPH, TRAINING, FUNCTION = 7, 20, 25
"""Fields of a model that have tensors in them."""

FLOATS, DOUBLES, RAW = 4, 10, 9
STORAGES = frozenset((FLOATS, 5, 6, 7, RAW, DOUBLES, 11))
"""Fields of a tensor that may hold its elements."""
EXTERNAL = 1
"""The location of data that are in another file."""

FLOAT = 1
"""The type of numbers that a constant has without a tensor."""

NUMBERS = "value_floats"
BYTES_PER_NUMBER = 5
"""Of such numbers, each of which is a field."""

OTHER_VALUES = frozenset((2, 3, 4, 7, 8, 9))
"""Fields of an attribute that is neither a tensor nor a graph: numbers and strings, of which there may be many."""

FEWEST_CONSTANTS = 64
"""A constant of a node with fewer elements stays in the rest of the file."""

MOST_NESTED = 32
"""Graphs in graphs; the libraries of protocol buffers refuse deeper ones."""

MOST_PATH_CHARACTERS = 256


class TensorFields(NamedTuple):
    """What a tensor's message says: `storage` is the one field that has its elements, None without or with several.

    `external` has the entries that say where in another file they are, None if they are in this one.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    storage: Field | None
    external: Mapping[str, str] | None


@dataclass(eq=False, slots=True)
class Value:
    """A value of a graph: what is made of it, and the values that it is made of without a change.

    One that `is_scale` has been computed with the integers of a layer's inputs.
    """

    use: Use = UNUSED
    sources: list["Value"] = field(default_factory=list)
    is_scale: bool = False


class Entry(NamedTuple):
    """A tensor of a graph: its name there, and the path of the graph, which ends in a dot unless it is empty.

    One without a name is an attribute that nothing is known of but that its elements are in another file.
    """

    name: str
    path: str
    tensor: TensorFields
    value: Value


@dataclass(eq=False)
class _Scope:
    """Names of a graph, or of a function, inside that of `parent`."""

    wire: Wire
    parent: "_Scope | None" = None
    path: str = ""
    names: dict[str, Value] = field(default_factory=dict)
    tensors: set[str] = field(default_factory=set)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def define(self, name: str) -> Value:
        return self.names.setdefault(name, Value()) if name else Value()

    def find(self, name: str) -> Value:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return self.define(name)

    def inner(self, name: str) -> "_Scope":
        return _Scope(self.wire, self, f"{self.path}{name}."[-MOST_PATH_CHARACTERS:])


@dataclass(eq=False)
class _Node:
    operator: str = ""
    domain: str = ""
    overload: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[Field] = field(default_factory=list)


def entries_of(wire: Wire) -> list[Entry]:
    """Initialisers and constants of a model in the order of the file, the main graph's before those of functions.

    Raises :class:`FormatError` if the file is damaged, has no graph, or a graph has two tensors of one name.
    """
    return _Walk(wire).model()


class _Walk:
    """Walks a model once, and notes what is made of what."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._entries: list[Entry] = []
        self._used: list[Value] = []
        self._functions: dict[tuple[str, str, str], _Scope] = {}

    def model(self) -> list[Entry]:
        parts: dict[int, list[Field]] = {GRAPH: [], TRAINING: [], FUNCTION: []}
        for each in self._wire.fields(0, self._wire.size_bytes):
            if each.number in parts:
                parts[each.number].append(each)
        if len(parts[GRAPH]) != 1:
            raise self._wire.damaged(f"it has {len(parts[GRAPH]) or 'no'} graphs")
        bodies = [self._function(function) for function in parts[FUNCTION]]
        main = _Scope(self._wire)
        self._graph(parts[GRAPH][0], main, 0)
        for scope, nodes in bodies:
            self._nodes(nodes, scope, 0)
        for training in parts[TRAINING]:
            for each in self._wire.inside(training):
                if each.number in (1, 2):
                    self._graph(each, main.inner("initialization" if each.number == 1 else "algorithm"), 0)
        self._settle()
        return self._entries

    def _function(self, function: Field) -> tuple[_Scope, list[Field]]:
        """The names that callers need, and the nodes, in which other functions may be called."""
        scope, nodes, key = _Scope(self._wire), [], {1: "", 10: "", 13: ""}
        for each in self._wire.inside(function):
            if each.number in key:
                key[each.number] = self._wire.text(each)
            elif each.number == 4:
                scope.inputs.append(scope.define(self._wire.text(each)))
            elif each.number == 5:
                scope.outputs.append(self._wire.text(each))
            elif each.number == 7:
                nodes.append(each)
        scope.path = f"{key[1]}."[-MOST_PATH_CHARACTERS:]
        self._functions[key[10], key[1], key[13]] = scope
        return scope, nodes

    def _graph(self, graph: Field, scope: _Scope, depth: int) -> None:
        if depth > MOST_NESTED:
            raise FormatError(
                f"{self._wire.path}: has more than {MOST_NESTED} graphs in each other; simplify the model."
            )
        nodes = []
        for each in self._wire.inside(graph):
            if each.number == 1:
                nodes.append(each)
            elif each.number == 5:
                tensor = tensor_fields(self._wire, each)
                self._enter(tensor.name, tensor, scope)
            elif each.number == 15:
                self._sparse(each, scope)
            elif each.number == 11:
                scope.inputs.append(scope.define(self._name_of(each)))
            elif each.number == 12:
                scope.outputs.append(self._name_of(each))
        self._nodes(nodes, scope, depth)

    def _enter(self, name: str, tensor: TensorFields, scope: _Scope) -> None:
        if not name:
            raise self._wire.damaged("a tensor has no name")
        if name in scope.tensors:
            raise FormatError(f"{self._wire.path}: holds two tensors called {name!r} in one graph; export it again.")
        if len(self._entries) == MAX_TENSORS:
            raise FormatError(f"{self._wire.path}: has more than {MAX_TENSORS:,} tensors; simplify the model.")
        scope.tensors.add(name)
        self._entries.append(Entry(name, scope.path, tensor, scope.define(name)))

    def _sparse(self, message: Field, scope: _Scope) -> None:
        """A sparse tensor, whose elements are nowhere; what it is made of just where it is, if elsewhere."""
        dims: list[int] = []
        parts = []
        for each in self._wire.inside(message):
            if each.number in (1, 2):
                parts.append(tensor_fields(self._wire, each))
            elif each.number == 3:
                dims += islice(self._wire.integers(each), MAX_DIMENSIONS + 1)
        if len(dims) > MAX_DIMENSIONS:
            raise self._wire.damaged(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
        if parts and parts[0].name:
            self._enter(parts[0].name, TensorFields(parts[0].name, tuple(dims), parts[0].data_type, None, None), scope)
        self._entries += [Entry("", scope.path, part, Value()) for part in parts if part.external is not None]

    def _name_of(self, message: Field) -> str:
        """The first field of a message, which is its name."""
        return next((self._wire.text(each) for each in self._wire.inside(message) if each.number == 1), "")

    def _nodes(self, nodes: list[Field], scope: _Scope, depth: int) -> None:
        for each in nodes:
            self._node(self._read_node(each), scope, depth)

    def _read_node(self, message: Field) -> _Node:
        node, text = _Node(), self._wire.text
        for each in self._wire.inside(message):
            match each.number:
                case 1:
                    node.inputs.append(text(each))
                case 2:
                    node.outputs.append(text(each))
                case 3:
                    node.name = text(each)
                case 4:
                    node.operator = text(each)
                case 5:
                    node.attributes.append(each)
                case 7:
                    node.domain = text(each)
                case 8:
                    node.overload = text(each)
        return node

    def _node(self, node: _Node, scope: _Scope, depth: int) -> None:
        inputs = [scope.find(name) if name else None for name in node.inputs]
        outputs = [scope.define(name) for name in node.outputs]
        for attribute, name, is_graph in self._attributes(node):
            if is_graph:
                inner = scope.inner(f"{node.name or node.operator}.{name}")
                self._graph(attribute, inner, depth + 1)
                _join_inner(node.operator, inputs, outputs, inner)
            else:
                self._attribute(node, name, tensor_fields(self._wire, attribute), scope)
        if node.operator == "Constant" and any(node.outputs[:1]):
            self._numbers(node, scope)
        function = self._functions.get((node.domain, node.operator, node.overload))
        if function is not None:
            _join(inputs, function.inputs)
            _join([function.find(name) for name in function.outputs], outputs)
            return
        if node.operator == "DynamicQuantizeLinear" and len(outputs) > 1:
            outputs[1].is_scale = True
        is_scaled = node.operator == "Mul" and any(value is not None and value.is_scale for value in inputs)
        for position, value in enumerate(inputs):
            if value is None:
                continue
            use = OTHER_SCALE if is_scaled else use_of(node.operator, position)
            if use is None:
                for output in outputs if position == 0 else outputs[:1]:
                    output.sources.append(value)
            elif use.kind < value.use.kind:
                value.use = use
                self._used.append(value)

    def _attribute(self, node: _Node, name: str, tensor: TensorFields, scope: _Scope) -> None:
        """A constant under the name of its value, unless it is small; of others just where they are, if elsewhere."""
        is_constant = node.operator == "Constant" and name == "value" and any(node.outputs[:1])
        if is_constant and (tensor.external is not None or prod(tensor.dims) >= FEWEST_CONSTANTS):
            self._enter(node.outputs[0], tensor, scope)
        elif tensor.external is not None:
            self._entries.append(Entry("", scope.path, tensor, Value()))

    def _numbers(self, node: _Node, scope: _Scope) -> None:
        """A constant whose numbers are fields of their own, about as many as its bytes tell, unless it is small."""
        for each in node.attributes:
            count = (each.stop - each.start) // BYTES_PER_NUMBER
            if count >= FEWEST_CONSTANTS and self._name_of(each) == NUMBERS:
                self._enter(node.outputs[0], TensorFields(node.outputs[0], (count,), FLOAT, None, None), scope)

    def _attributes(self, node: _Node) -> Iterator[tuple[Field, str, bool]]:
        """Tensors and graphs that a node has for attributes, with the name of each and whether it is a graph."""
        for attribute in node.attributes:
            name, found = "", []
            for each in self._wire.inside(attribute):
                if each.number in OTHER_VALUES:
                    break
                if each.number == 1:
                    name = self._wire.text(each)
                elif each.number in (5, 6, 11):
                    found.append(each)
            for each in found:
                yield each, name, each.number != 5

    def _settle(self) -> None:
        """Let values know what is made of those that they are given on as."""
        while self._used:
            value = self._used.pop()
            for source in value.sources:
                if value.use.kind < source.use.kind:
                    source.use = value.use
                    self._used.append(source)


def _join(sources: Sequence[Value | None], targets: Sequence[Value]) -> None:
    """Let values be the same as others, one by one, as far as both go."""
    for source, target in zip(sources, targets, strict=False):
        if source is not None:
            target.sources.append(source)


def _join_inner(operator: str, inputs: Sequence[Value | None], outputs: Sequence[Value], inner: _Scope) -> None:
    """Join what a graph inside a node takes and gives with what the node does."""
    given = [inner.find(name) for name in inner.outputs]
    if operator == "If":
        _join(given, outputs)
    elif operator == "Loop":
        # The first one says whether to go on.
        _join(inputs, inner.inputs)
        _join(given[1:], outputs)
    elif operator == "Scan":
        _join(inputs, inner.inputs)
        _join(given, outputs)


def tensor_fields(wire: Wire, message: Field) -> TensorFields:
    """What a tensor's message says; raises :class:`FormatError` if it is damaged."""
    name, data_type, location = "", 0, 0
    dims: list[int] = []
    storages: list[Field] = []
    external: dict[str, str] = {}
    for each in wire.inside(message):
        if each.number == 1:
            dims += islice(wire.integers(each), MAX_DIMENSIONS + 1)
            if len(dims) > MAX_DIMENSIONS:
                raise wire.damaged(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
        elif each.number == 2:
            data_type = wire.integer(each)
        elif each.number == 8:
            name = wire.text(each)
        elif each.number in STORAGES:
            storages = [*storages[-1:], each]
        elif each.number == 13:
            said = {entry.number: wire.text(entry) for entry in wire.inside(each) if entry.number in (1, 2)}
            if said.get(1) in ("location", "offset", "length"):
                external[said[1]] = said.get(2, "")
        elif each.number == 14:
            location = wire.integer(each)
    storage = storages[0] if len(storages) == 1 and storages[0].wire == LENGTH else None
    return TensorFields(name, tuple(dims), data_type, storage, external if location == EXTERNAL else None)
