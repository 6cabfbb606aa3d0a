"""Gathers the package ``metaq_decode`` when it is built: those modules of ``metaq`` that restoring a file needs.

Which these are is found by following imports from ``entrance.py``, which becomes the package's ``__init__``. In each,
``metaq`` is renamed to ``metaq_decode``, so that both packages can be installed side by side. The ``__init__`` of a
folder keeps its docstring alone, because what it gathers from the folder includes much that restoring does not need.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ORIGINAL, PACKAGE = "metaq", "metaq_decode"
PACKAGES = {*sys.stdlib_module_names, "numpy", "numba", "zstandard"}
"""What modules may import beside each other; they do without the last two where these are missing."""

SENTENCES = {
    "metaq inspect lists them all.": "inspect() lists them all.",
    "metaq apply BASE UPDATE -o NEW, or metaq.load(update, base=base).": "load(update, base=base).",
    "is newer than this metaq reads; upgrade.": "is newer than this metaq-decode reads; upgrade.",
}
"""Advice of the whole package, and what stands there in one that only restores."""

NAME = re.compile(rf"(?<![\w.]){ORIGINAL}(?=\.[a-z_])|(?<=\bfrom ){ORIGINAL}(?= import )")
"""The package before the name of a module, in imports and docstrings; not the ending of a file's name."""


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the gathered package to a wheel or an sdist. A wheel that is built of an sdist finds it there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build; `version` is its kind."""
        if version == "editable":
            raise ValueError(f"{PACKAGE} is gathered when it is built and cannot be editable; install it without -e.")
        root = Path(self.root)
        if (root / PACKAGE).is_dir():
            return
        # Kept until the hook is gone, and then removed.
        self.kept = TemporaryDirectory(prefix=f"{PACKAGE}-")
        folder = Path(self.kept.name)
        for place, content in gathered(root, self.metadata.version).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
        build_data["force_include"][str(folder)] = PACKAGE


def gathered(root: Path, version: str) -> dict[str, bytes]:
    """Files of the package by place, from ``src`` beside the folder `root`."""
    source = root.parent / "src"
    if not (source / ORIGINAL).is_dir():
        raise ValueError(
            f"{source / ORIGINAL} is missing; build {PACKAGE} in a clone of the repository or of an sdist."
        )
    entrance = root / "entrance.py"
    texts = {f"{ORIGINAL}/__init__.py": f'{entrance.read_text("utf-8")}\n__version__ = "{version}"\n'}
    for path in modules(source, entrance):
        text = path.read_text("utf-8")
        is_folder = path.name == "__init__.py"
        texts[path.relative_to(source).as_posix()] = f'"""{_docstring(path)}"""\n' if is_folder else text
    for sentence in SENTENCES:
        if sum(text.count(sentence) for text in texts.values()) != 1:
            raise ValueError(f"{sentence!r} is not in one place of what is gathered; see SENTENCES.")
    files = {place: _renamed(text, place).encode() for place, text in texts.items()}
    folders = {(source / place).parent for place in texts}
    for data in (path for folder in folders for path in folder.glob("*.bin")):
        files[data.relative_to(source).as_posix()] = data.read_bytes()
    files[f"{ORIGINAL}/py.typed"] = b""
    files[f"{ORIGINAL}/LICENSE"] = (root.parent / "LICENSE").read_bytes()
    return {place.removeprefix(f"{ORIGINAL}/"): files[place] for place in sorted(files)}


def modules(source: Path, entrance: Path) -> list[Path]:
    """Files of all modules that `entrance` imports, those that they import, and the folders in which they lie."""
    found: set[Path] = set()
    waiting = [entrance]
    while waiting:
        for name in _imported(waiting.pop(), source):
            parts = name.split(".")
            places = [_place(source, ".".join(parts[:count])) for count in range(2, len(parts) + 1)]
            new = {place for place in places if place is not None} - found
            found |= new
            waiting += [place for place in new if place.name != "__init__.py"]
    return sorted(found)


def _imported(path: Path, source: Path) -> Iterator[str]:
    """Names of the modules of the original package that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [(each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", each.name) for each in node.names]
        else:
            continue
        for module, member in names:
            if module.split(".")[0] != ORIGINAL:
                if module.split(".")[0] not in PACKAGES:
                    raise ValueError(
                        f"{path.name} imports {module or 'a neighbour'}, which {PACKAGE} does not require."
                    )
                continue
            inner, outer = _place(source, f"{module}.{member}"), _place(source, module)
            if inner is None and (outer is None or outer.name == "__init__.py"):
                raise ValueError(f"{path.name} imports {member} of {module}; name the module that defines it.")
            yield module if inner is None else f"{module}.{member}"


def _place(source: Path, name: str) -> Path | None:
    """The file of a module."""
    folder = source.joinpath(*name.split("."))
    places = (folder / "__init__.py", folder.with_suffix(".py"))
    return next((place for place in places if place.is_file()), None)


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def _renamed(text: str, place: str) -> str:
    """`text` for the new package; raises where the original one would still be imported."""
    for sentence, other in SENTENCES.items():
        text = text.replace(sentence, other)
    text = NAME.sub(PACKAGE, text)
    for node in ast.walk(ast.parse(text)):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == ORIGINAL for name in names):
            raise ValueError(f"{place} still imports {ORIGINAL} in line {getattr(node, 'lineno', 0)}.")
    return text
