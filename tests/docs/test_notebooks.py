from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipykernel")
pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = (
    "complexity",
    "dual-solvers",
    "frontier",
    "hugging-face",
    "knapsack-solvers",
    "load-and-compress",
    "training",
    "what-phi-minimises",
    "your-model",
)

EXACT = "exact"
"""Tag of cells whose text is the same on every machine."""

MOST_BYTES = 600_000

Notebook = dict[str, Any]


def stored(name: str) -> Notebook:
    notebook: Notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def printed(cell: dict[str, Any]) -> str:
    """What a cell wrote to its standard output."""
    streams = [output for output in cell["outputs"] if output["output_type"] == "stream"]
    return "".join(joined(output["text"]) for output in streams if output["name"] == "stdout")


def kinds(cell: dict[str, Any]) -> list[str]:
    """What a cell gave: names of streams, or types of pictures and values. A stream may come in several pieces."""
    found = [
        output["name"] if output["output_type"] == "stream" else "/".join(sorted(output.get("data", {"error": ""})))
        for output in cell["outputs"]
    ]
    return [kind for number, kind in enumerate(found) if number == 0 or kind != found[number - 1]]


def execute(name: str, tmp_path: Path) -> Notebook:
    """The notebook after a run in a copy of the folders that it sees, beside nothing else."""
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "models", tmp_path / "models")
    path = folder / f"{name}.ipynb"
    shutil.copy(FOLDER / path.name, path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("METAQ_", "PYTEST_", "MPL"))}
    done = subprocess.run(
        [sys.executable, str(FOLDER / "run.py"), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert [file.name for file in folder.iterdir()] == [path.name]
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def test_every_notebook_is_tested_and_in_the_index():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    assert set(re.findall(r"\]\((\S+)\.ipynb\)", (FOLDER / "README.md").read_text(encoding="utf-8"))) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_a_whole_run_without_complaints(name):
    cells = code_cells(stored(name))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        source = joined(cell["source"])
        shown = kinds(cell)
        assert not {"stderr", "error"} & set(shown), source
        assert ("print(" in source) <= ("stdout" in shown or "def " in source), f"printed nothing:\n{source}"
        assert ("plt.show()" in source) == any("image/png" in kind for kind in shown), source
    assert any("image/png" in kind for cell in cells for kind in kinds(cell))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_tells_nothing_of_the_machine_that_ran_it(name):
    notebook = stored(name)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(set(cell["metadata"]) <= {"tags", "jupyter"} for cell in notebook["cells"])
    texts = [joined(cell["source"]) for cell in notebook["cells"]] + [printed(cell) for cell in code_cells(notebook)]
    assert not [text for text in texts if re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)/|[A-Z]:\\\\", text)]
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_gives_what_is_stored(name, tmp_path):
    before, after = code_cells(stored(name)), code_cells(execute(name, tmp_path))
    assert [cell["execution_count"] for cell in after] == list(range(1, len(after) + 1))
    for old, new in zip(before, after, strict=True):
        assert kinds(new) == kinds(old), joined(old["source"]) + "\n" + json.dumps(new["outputs"])[:2000]
        if EXACT in old["metadata"].get("tags", []):
            assert printed(new) == printed(old)


def test_the_picture_of_the_readme_is_that_of_the_notebook() -> None:
    tagged = [cell for cell in code_cells(stored("frontier")) if "readme" in cell["metadata"].get("tags", [])]
    (picture,) = [output["data"]["image/png"] for cell in tagged for output in cell["outputs"]]
    assert base64.b64decode(joined(picture)) == (ROOT / "docs" / "pictures" / "frontier.png").read_bytes()
