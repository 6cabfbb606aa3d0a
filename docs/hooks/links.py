"""What lies beside ``docs`` in the repository, on the site: MODELS.md as a page, and links.

Pages link to files of the repository so that they can be read there too; a link that leads out of ``docs`` goes to the
page named here. One that is not named stays as it is, and the strict build refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source lies outside ``docs``."""
    text = (ROOT / "MODELS.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "models.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of ``docs`` to pages."""
    del config, files
    folder = posixpath.dirname(page.file.src_uri)
    return LINK.sub(lambda link: link[1] + _led(link[2], folder), markdown)


def _led(target: str, folder: str) -> str:
    """The address, for a page in `folder` of ``docs``, of what `target` leads to from there."""
    file, mark, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join("docs", folder, file))
    inside = path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path)
    if inside is None:
        return target
    page = inside.removesuffix(".ipynb") + ".md" if inside.endswith(".ipynb") else inside
    return posixpath.relpath(page, folder or ".") + mark + anchor
