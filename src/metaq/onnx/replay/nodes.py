"""A node of an ONNX graph, and what its inputs and attributes say alike."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import GraphProto, NodeProto, helper
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """A node of a graph; an input that is left out has an empty name.

    What graphs among its attributes take from outside is `captured`.
    """

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    captured: frozenset[str] = frozenset()

    @classmethod
    def of(cls, node: NodeProto) -> "Node":
        """Strings among the attributes become text."""
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        return cls(
            name=node.name,
            operator=node.op_type,
            domain="" if node.domain == "ai.onnx" else node.domain,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={
                name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                for name, value in attributes.items()
            },
            captured=frozenset(name for graph in graphs_of(node) for name in _taken(graph)),
        )

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def number(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return float(self.get(name, default))


def graphs_of(node: NodeProto) -> list[GraphProto]:
    """Graphs among the attributes."""
    return [graph for each in node.attribute for graph in ([each.g] if each.HasField("g") else each.graphs)]


def _taken(graph: GraphProto) -> Iterator[str]:
    """Names of what the nodes of a graph take, or it gives, wherever that comes from."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in graphs_of(node):
            yield from _taken(inner)


def ints(given: Tensor | None, otherwise: Any = None) -> Any:
    """Numbers of an input, which in older models are those of an attribute."""
    return otherwise if given is None else given.reshape(-1).tolist()


def axes_of(given: Tensor | None, node: Node) -> Any:
    return ints(given, node.get("axes"))
