"""What wrappers of modules do to the names of a state dict, undone."""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass

LEADING = ("module.", "_orig_mod.")
"""What ``DataParallel``, ``DistributedDataParallel``, ``AveragedModel`` and :func:`torch.compile` put before names."""

INNER = re.compile(r"(?:^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What wrappers of single layers put into names."""

COUNTER = "n_averaged"
"""The only name of ``AveragedModel`` that is its own."""


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """The names of a state dict as they were before wrapping, by those in the file; what all of the latter begin with;
    whether there is a counter of averages, which has no name; and sentences about it.
    """

    names: Mapping[str, str]
    prefix: str = ""
    has_counter: bool = False
    notes: tuple[str, ...] = ()


def unwrapped(tensors: Mapping[str, object]) -> Unwrapped:
    """The names that a state dict would have if no wrapper were around its module, or around parts of it."""
    counted = [name for name in tensors if name != COUNTER]
    prefix = _common_prefix(counted)
    has_counter = bool(prefix) and len(counted) < len(tensors)
    names = {name: name[len(prefix) :] for name in (counted if prefix else tensors)}
    notes = [f"names begin with '{prefix}' in the file; it is left out here"] if prefix else []
    inner = {name: INNER.sub("", short) for name, short in names.items()}
    if len(set(inner.values())) == len(inner) and all(inner.values()):
        for part in sorted({found for short in names.values() for found in INNER.findall(short)}):
            number = sum(part in INNER.findall(short) for short in names.values())
            notes.append(f"'{part}.' is left out of {number} {'name' if number == 1 else 'names'}")
        names = inner
    return Unwrapped(names=names, prefix=prefix, has_counter=has_counter, notes=tuple(notes))


def part_of(name: str, parts: Container[str]) -> str:
    """The longest of some beginnings that a name has with a dot behind it; nothing if it has none of them."""
    ends = [dot.start() for dot in re.finditer(r"\.", name)]
    return next((name[:end] for end in reversed(ends) if name[:end] in parts), "")


def _common_prefix(names: list[str]) -> str:
    prefix = ""
    while names:
        found = [part for part in LEADING if all(name.startswith(part, len(prefix)) for name in names)]
        if not found or any(len(name) == len(prefix + found[0]) for name in names):
            break
        prefix += found[0]
    return prefix
