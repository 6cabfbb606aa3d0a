"""What lies beside ``docs`` in the repository, on the site: MODELS.md as a page, sections of README.md, links.

Pages link to files of the repository so that they can be read there too; a link that leads out of ``docs`` goes to the
page named here. One that is not named stays as it is, and the strict build refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

PAGES = {
    "README.md": "index.md",
    "MODELS.md": "models.md",
    "src/metaq/entropy/knapsack/problem.py": "reference/solvers.md",
    "src/metaq/entropy/dual/result.py": "reference/solvers.md",
}
"""Page of the site by path in the repository."""

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
SECTION = re.compile(r"<!-- README( tables)?: (.+?) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source lies outside ``docs``."""
    text = (ROOT / "MODELS.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "models.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put sections of README.md in their places and lead links out of ``docs`` to pages."""
    del config, files
    folder = posixpath.dirname(page.file.src_uri)
    led = LINK.sub(lambda link: link[1] + _led(link[2], "docs", folder), markdown)
    return SECTION.sub(lambda found: _section(found[2], folder, tables_only=found[1] is not None), led)


def _led(target: str, root: str, folder: str) -> str:
    """A link of a page in `folder` to `target`, which counts from there within `root`, or from the repository."""
    file, mark, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(root, folder if root else "", file))
    inside = path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path)
    if inside is None:
        return target
    page = inside.removesuffix(".ipynb") + ".md" if inside.endswith(".ipynb") else inside
    return posixpath.relpath(page, folder or ".") + mark + anchor


def _section(heading: str, folder: str, *, tables_only: bool) -> str:
    """Text, or tables, of README.md under `heading` and up to the next one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise PluginError(f"README.md has no section {heading!r}; name one that is there.")
    lines = [line for line in found[1].strip().splitlines() if line.startswith("|") or not tables_only]
    return LINK.sub(lambda link: link[1] + _led(link[2], "", folder), "\n".join(lines))
