"""Notebooks as pages of the site, with the outputs that they have in the repository; nothing is run."""

from __future__ import annotations

import base64
import json
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook, and its pictures."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        parts: list[str] = []
        for number, cell in enumerate(notebook["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(source)
                continue
            fenced = _fenced("python", source)
            is_folded = "hide-input" in cell["metadata"].get("tags", [])
            parts.append(_folded(fenced) if is_folded else fenced)
            for place, output in enumerate(cell["outputs"]):
                picture = f"{path.stem}-{number}-{place}.png"
                data = output.get("data", {})
                if "image/png" in data:
                    content = base64.b64decode("".join(data["image/png"]))
                    files.append(File.generated(config, f"notebooks/{picture}", content=content))
                    parts.append(f"![Output of the cell above]({picture})")
                else:
                    parts.append(_fenced("text", _text(output)))
        page = File.generated(config, f"notebooks/{path.stem}.md", content="\n\n".join(parts))
        files.append(page)
    return files


def _text(output: dict[str, Any]) -> str:
    """What an output says, wherever it keeps it."""
    return "".join(output.get("text") or output["data"]["text/plain"])


def _folded(text: str) -> str:
    """Behind a line that opens when it is clicked on."""
    return f'??? note "Code of the picture"\n\n{textwrap.indent(text, " " * 4)}'


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
