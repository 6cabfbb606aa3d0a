"""What the operators of a graph do with its weights, and so the form in which a module has them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from metaq.onnx.replay.nodes import Node


@dataclass(frozen=True, kw_only=True)
class Use:
    """The number of a node that takes a weight, and the position among its inputs.

    Inputs are multiplied by the transposed of some matrix, as in ``torch.nn.Linear``: this is the weight of the file
    `transposed` once more, or as it is; None if they are not multiplied so.
    """

    number: int
    position: int
    transposed: bool | None


@dataclass(frozen=True, kw_only=True)
class Role:
    """How a module has a weight: `is_transposed`, and as `part` of a layer that stands for the node of a number.

    With a bias that is added afterwards, the layer also stands for the node that adds it, the `last`.
    """

    is_transposed: bool = False
    layer: int | None = None
    part: str = "weight"
    last: int | None = None


def roles_of(nodes: Sequence[Node], shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[str]) -> dict[str, Role]:
    """The role of every weight of a graph with such shapes, by name."""
    uses = _uses(nodes, shapes, outputs)
    roles = {}
    for name, own in uses.items():
        kinds = {use.transposed for use in own}
        is_layer = len(own) == 1 and (kinds != {None} or _is_convolution(nodes[own[0].number], own[0], shapes[name]))
        roles[name] = Role(is_transposed=kinds == {True}, layer=own[0].number if is_layer else None)
    rows = {
        role.layer: shapes[name][1 if role.is_transposed else 0]
        for name, role in roles.items()
        if role.layer is not None
    }
    products = _products(nodes, rows, outputs)
    for name, own in uses.items():
        if len(own) == 1 and len(shapes[name]) == 1:
            adding = own[0].number
            layer = adding if own[0].position == 2 else products.get(adding)
            if layer in rows and rows[layer] == shapes[name][0]:
                roles[name] = Role(layer=layer, part="bias", last=adding)
    return roles


def _products(nodes: Sequence[Node], layers: Iterable[int | None], outputs: Iterable[str]) -> dict[int, int]:
    """For the number of a node that adds something to what a layer without a bias gives, and nobody else takes, that of
    the layer.
    """
    takers: dict[str, list[int]] = {name: [-1] for name in outputs}
    for number, node in enumerate(nodes):
        for name in {*node.inputs, *node.captured}:
            takers.setdefault(name, []).append(number)
    found = {}
    for layer in layers:
        if layer is not None and len(nodes[layer].inputs) == 2:
            number, *others = takers.get(nodes[layer].outputs[0], [-1])
            if not others and number >= 0 and nodes[number].operator == "Add" and nodes[layer].operator == "MatMul":
                found[number] = layer
    return found


def _uses(nodes: Sequence[Node], shapes: Mapping[str, tuple[int, ...]], outputs: Iterable[str]) -> dict[str, list[Use]]:
    """Who takes every weight, also where it is given on as it is or transposed."""
    known = {name: (name, False) for name in shapes}
    uses: dict[str, list[Use]] = {name: [] for name in shapes}
    for number, node in enumerate(nodes):
        for position, name in enumerate(node.inputs):
            if name not in known:
                continue
            weight, is_turned = known[name]
            turns = node.operator == "Transpose" and len(shapes[weight]) == 2 and node.get("perm", [1, 0]) == [1, 0]
            if turns or node.operator == "Identity":
                known[node.outputs[0]] = weight, is_turned != turns
            else:
                uses[weight].append(
                    Use(
                        number=number,
                        position=position,
                        transposed=_transposed(node, position, shapes[weight], is_turned),
                    )
                )
        for name in node.captured:
            if name in known:
                uses[known[name][0]].append(Use(number=number, position=-1, transposed=None))
    for name in outputs:
        if name in known:
            uses[known[name][0]].append(Use(number=-1, position=-1, transposed=None))
    return uses


def _transposed(node: Node, position: int, shape: tuple[int, ...], is_turned: bool) -> bool | None:
    """See :attr:`Use.transposed`; the weight is given to the node transposed if it `is_turned`."""
    if position != 1 or len(shape) != 2:
        return None
    if node.operator == "MatMul":
        return not is_turned
    is_plain = not node.get("transA") and node.get("alpha", 1.0) == node.get("beta", 1.0) == 1.0
    return is_turned == bool(node.get("transB")) if node.operator == "Gemm" and is_plain else None


def _is_convolution(node: Node, use: Use, shape: tuple[int, ...]) -> bool:
    return node.operator == "Conv" and use.position == 1 and len(shape) == 4 and node.get("group", 1) == 1
