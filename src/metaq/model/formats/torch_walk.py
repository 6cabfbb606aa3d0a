"""Ways through what a pickle holds: all tensors by their paths, and those of a module as its state dict has them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pickle import UnpicklingError

from metaq.model.formats.torch_objects import AnyTensor, Array, OtherTensor, StridedTensor, tensor_of
from metaq.model.formats.unpickling import Global, Placeholder

MOST_DEPTH = 256
MOST_VISITED = 1 << 19
"""Values on ways that come to some of them more than once."""

MOST_CHARACTERS = 1 << 26
"""Of all paths of tensors, which can be far longer than the file if they share parts."""

PACKED = "__torch__.torch.classes."
"""Module of the classes of C++, in which quantised modules keep their weights."""

Children = Callable[[object], Iterable[tuple[str, object]]]


def is_packed(value: object) -> bool:
    """Whether a value is of a class of C++."""
    return (
        isinstance(value, Placeholder) and isinstance(value.function, Global) and str(value.function).startswith(PACKED)
    )


def is_module(value: object) -> bool:
    """Whether a value is a whole module."""
    return isinstance(value, Placeholder) and {"_parameters", "_modules"} <= value.attributes.keys()


def mapping_of(value: object) -> Mapping[str, object] | None:
    """What a dict, or an object that was not made, has under which keys or as which attributes."""
    if isinstance(value, Placeholder) and not isinstance(value, Array):
        value = value.entries or value.attributes
    return dict(children(value)) if isinstance(value, dict) else None


def children(value: object) -> Iterator[tuple[str, object]]:
    """Whatever a value consists of, by the last part of its path."""
    if isinstance(value, dict):
        for position, (key, child) in enumerate(value.items()):
            name = str(key) if isinstance(key, str | int | None) else f"#{position}"
            # A number and its digits are two keys.
            yield name if isinstance(key, str) or name not in value else f"{name}#{position}", child
    elif isinstance(value, list | tuple):
        yield from ((str(position), child) for position, child in enumerate(value))
    elif isinstance(value, Placeholder) and not isinstance(value, Array):
        if isinstance(value.state, list | tuple):
            yield "state", value.state
        for part in (value.attributes, value.entries, value.items, value.arguments):
            yield from children(part)


def module_children(value: object) -> Iterator[tuple[str, object]]:
    """Of a module, what its state dict is made of: parameters, buffers that are kept, and modules."""
    attributes = value.attributes if isinstance(value, Placeholder) else {}
    transient = attributes.get("_non_persistent_buffers_set")
    hidden = {name for name in transient if isinstance(name, str)} if isinstance(transient, list | tuple) else set()
    for group in ("_parameters", "_buffers", "_modules"):
        entries = mapping_of(attributes.get(group)) or {}
        yield from ((name, child) for name, child in entries.items() if group != "_buffers" or name not in hidden)


def walk(
    value: object,
    children_of: Children = children,
    *,
    seen: set[int] | None = None,
    budget: Iterator[object] | None = None,
) -> Iterator[tuple[str, AnyTensor | Placeholder]]:
    """All tensors, and objects of classes of C++, within a value, by their paths, in order.

    Values that are in `seen` are passed over, and added to it; without it, one may come by several paths, as long as
    the `budget` of values has more. Raises :class:`UnpicklingError` where it ends, or values nest too deeply.
    """
    left = iter(range(MOST_VISITED)) if budget is None else budget
    characters = 0
    if seen is not None:
        if id(value) in seen:
            return
        seen.add(id(value))
    ways = [("", iter(children_of(value)))]
    while ways:
        prefix, rest = ways[-1]
        for name, child in rest:
            path = prefix + name
            if len(path) > MOST_CHARACTERS or len(ways) > MOST_DEPTH or (seen is None and next(left, None) is None):
                raise UnpicklingError("its values nest too deeply")
            tensor = child if is_packed(child) else tensor_of(child)
            if isinstance(tensor, Placeholder | StridedTensor | OtherTensor):
                characters += len(path)
                if characters > MOST_CHARACTERS:
                    raise UnpicklingError("the names of its tensors are too long")
                yield path, tensor
            elif isinstance(child, dict | list | tuple | Placeholder) and (seen is None or id(child) not in seen):
                if seen is not None:
                    seen.add(id(child))
                ways.append((f"{path}.", iter(children_of(child))))
                break
        else:
            ways.pop()


def described(value: object, seen: set[int]) -> str:
    """What a value is, in a few words, such as ``"dict with 3 tensors, 1.2 MB"``."""
    if tensor_of(value) is not None:
        return "tensor"
    tensors = [tensor for _, tensor in walk(value, seen=seen) if not isinstance(tensor, Placeholder)]
    kind = type_name(value)
    if not tensors:
        return kind
    size_bytes = sum(tensor.size_bytes for tensor in tensors if isinstance(tensor, StridedTensor))
    if is_optimizer_state(value):
        return f"optimizer state, {size_text(size_bytes)}"
    return f"{kind} with {counted(len(tensors))}, {size_text(size_bytes)}"


def is_optimizer_state(value: object) -> bool:
    """Whether a value has the form of the state of an optimizer, or of several."""
    if isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def type_name(value: object) -> str:
    """Name of the type that a value has, or would have."""
    if isinstance(value, Placeholder):
        return value.class_name
    return str(value) if isinstance(value, Global) else "None" if value is None else type(value).__name__


def counted(number: int) -> str:
    """A number of tensors in words."""
    return "1 tensor" if number == 1 else f"{number} tensors"


def size_text(size_bytes: int) -> str:
    """A size in the unit that fits."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"
