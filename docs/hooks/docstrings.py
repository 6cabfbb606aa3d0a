"""Docstrings for the site: roles such as ``:func:`metaq.save``` become links, joint parameters come apart."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`~?([\w.]+)`")
PARAMETERS = re.compile(r"(?<=^Parameters\n----------\n).*?(?=^\w+\n---|\Z)", re.MULTILINE | re.DOTALL)
TOGETHER = re.compile(r"^(\w+(?:, \w+)+)\n((?:(?: .*)?\n|(?: .*)\Z)+)", re.MULTILINE)


class Readable(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of `obj`."""
        if obj.docstring is None:
            return
        text = ROLE.sub(lambda found: _link(obj, found[1]), obj.docstring.value)
        obj.docstring.value = PARAMETERS.sub(lambda found: TOGETHER.sub(_apart, found[0]), text)


def _link(obj: griffe.Object, name: str) -> str:
    """A link to what `name` is, where the site describes it; else code."""
    try:
        full_name = obj.resolve(name)
    except griffe.NameResolutionError:
        full_name = name
    return f'<autoref optional identifier="{full_name}"><code>{name}</code></autoref>'


def _apart(found: re.Match[str]) -> str:
    """An entry for every name, or each would get the type and the default of the first."""
    description = found[2].rstrip()
    return "".join(f"{name}\n{description}\n" for name in found[1].split(", "))
