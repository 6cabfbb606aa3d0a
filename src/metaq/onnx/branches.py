"""Graphs without ``If``, where it is known which way they go."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from onnx import GraphProto, NodeProto, helper

from metaq.onnx.replay.nodes import graphs_of

MOST_NESTED = 32
"""Branches in branches that are followed."""

Conditions = Callable[[list[str]], Mapping[str, bool]]
"""From names of values of a graph to what they are."""


def follow(graph: GraphProto, conditions: Conditions) -> dict[str, bool]:
    """Put the branches that are taken in the place of every ``If`` that is in no other graph; the conditions met.

    What is in a branch keeps its names where nothing around it is called so.
    """
    met: dict[str, bool] = {}
    for _ in range(MOST_NESTED):
        forks = [node.input[0] for node in graph.node if _is_fork(node)]
        if not forks:
            break
        met |= conditions(sorted(set(forks)))
        taken = set(names_in(graph))
        nodes: list[NodeProto] = []
        for node in graph.node:
            if _is_fork(node):
                nodes += _branch(graph, node, is_true=met[node.input[0]], taken=taken)
            else:
                nodes.append(node)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
    return met


def repeated_names(graph: GraphProto) -> set[str]:
    """Names that values of several graphs have, of those in each other."""
    return {name for name, count in Counter(_all_names(graph)).items() if count > 1}


def names_in(graph: GraphProto) -> Iterator[str]:
    """What a graph calls its inputs, initialisers and values."""
    yield from {value.name for value in [*graph.input, *graph.initializer]}
    for node in graph.node:
        yield from filter(None, node.output)


def _all_names(graph: GraphProto) -> Iterator[str]:
    yield from names_in(graph)
    for node in graph.node:
        for inner in graphs_of(node):
            yield from _all_names(inner)


def _is_fork(node: NodeProto) -> bool:
    return node.op_type == "If" and node.domain in ("", "ai.onnx")


def _branch(graph: GraphProto, fork: NodeProto, *, is_true: bool, taken: set[str]) -> list[NodeProto]:
    """The nodes of the branch; its initialisers go into `graph`, and its names to those that are `taken`."""
    wanted = "then_branch" if is_true else "else_branch"
    branch = next(each.g for each in fork.attribute if each.name == wanted)
    names = {}
    for name in names_in(branch):
        names[name] = name
        while names[name] in taken:
            names[name] += "_"
        taken.add(names[name])
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
        graph.initializer.append(tensor)
    for node in branch.node:
        _rename(node, names)
    given = (names.get(value.name, value.name) for value in branch.output)
    ends = [helper.make_node("Identity", [name], [output]) for name, output in zip(given, fork.output, strict=True)]
    return [*branch.node, *ends]


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and what is within it, take and give values by their new names."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in graphs_of(node):
        own = set(names_in(graph))
        outer = {old: new for old, new in names.items() if old not in own}
        for each in graph.node:
            _rename(each, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
