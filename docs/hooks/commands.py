"""The reference of the command line, from the commands themselves, so that it cannot go stale."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from typer.models import ArgumentInfo, OptionInfo

from metaq.cli.app import EXAMPLES

PLACE = "<!-- commands -->"
KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
"""What an option takes, by the type of its value."""


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write out all commands where a page asks for them."""
    del page, config, files
    return markdown.replace(PLACE, reference()) if PLACE in markdown else markdown


def reference() -> str:
    """Markdown with a section for every command."""
    return "\n\n".join(_command(name, example) for name, example in EXAMPLES.items())


def _command(name: str, example: str) -> str:
    function = getattr(import_module(f"metaq.cli.{name}"), name)
    taken = _taken(function)
    arguments = [option.upper() for option, (_, info, _) in taken.items() if isinstance(info, ArgumentInfo)]
    usage = " ".join([f"metaq {name}", *arguments, "[OPTIONS]"])
    rows = [_row(option, kind, info, default) for option, (kind, info, default) in taken.items()]
    table = "\n".join(["| option | does |", "|---|---|", *rows])
    parts = [f"## metaq {name}", inspect.getdoc(function) or "", f"```\n{usage}\n```", table]
    return "\n\n".join([*parts, "Example:", f"```\nmetaq {example}\n```"])


def _taken(function: Callable[..., Any]) -> dict[str, tuple[Any, OptionInfo | ArgumentInfo, Any]]:
    """Type, description and default of every parameter of a command."""
    hints = get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])
        found[name] = (kind, info, parameter.default)
    return found


def _row(name: str, kind: Any, info: OptionInfo | ArgumentInfo, default: Any) -> str:
    spelled = f"`{name.upper()}`" if isinstance(info, ArgumentInfo) else _spelled(kind, info)
    if default is inspect.Parameter.empty:
        note = " Needed."
    else:
        note = "" if default in (None, False) else f" Default: {'yes' if default is True else default}."
    return f"| {spelled} | {_escaped((info.help or '') + note)} |"


def _spelled(kind: Any, info: OptionInfo) -> str:
    """All spellings of an option, and what it takes."""
    # The first one stands where a default would stand if it were not given by the signature.
    texts = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]
    names = ", ".join(f"`{spelling}`" for text in texts for spelling in text.split("/"))
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is list:
        return f"{names} {KINDS[get_args(kind)[0]]}, as often as needed"
    return names if kind is bool else f"{names} {KINDS[kind]}"


def _escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("$", "&#36;")
