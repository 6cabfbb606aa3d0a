"""Run notebooks anew by this interpreter and store what they give, without a trace of the machine.

    python docs/notebooks/run.py [NOTEBOOK ...]

Without names all notebooks beside this script run, one after the other, on one thread. One that fails stays as it was.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

KERNEL = "this-interpreter"
MOST_SECONDS = 14_400
"""For the start and for a single cell: it stops a notebook that hangs, not one on a busy machine."""

README_TAG = "readme"
"""Of a cell whose picture README shows: it is kept under the notebook's name in ``docs/pictures``, if that is there."""

HIDDEN_TAG = "hide-input"
"""Of a cell whose code is folded away: it draws what others have computed."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def prepare(folder: Path) -> None:
    """Let Jupyter use `folder` alone, and know there a kernel that is this interpreter."""
    kernel = folder / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
    (kernel / "kernel.json").write_text(text, encoding="utf-8")
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        os.environ[name] = str(folder)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        os.environ[name] = str(folder / name.lower())
    os.environ["OMP_NUM_THREADS"] = "1"


def run(path: Path) -> None:
    """Run one notebook in its own folder and store it."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=MOST_SECONDS,
        startup_timeout=MOST_SECONDS,
        kernel_name=KERNEL,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    nbformat.write(normalised(notebook), path)
    picture = readme_picture(notebook)
    pictures = path.parents[1] / "pictures"
    if picture is not None and pictures.is_dir():
        pictures.joinpath(f"{path.stem}.png").write_bytes(picture)


def normalised(notebook: NotebookNode) -> NotebookNode:
    """`notebook` with the metadata that it is to have, and pictures without the text that stands for them."""
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if HIDDEN_TAG in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop("text/plain", None)
                output.metadata = {}
    return notebook


def readme_picture(notebook: NotebookNode) -> bytes | None:
    """The PNG that README shows of this notebook, if any."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if README_TAG in cell.metadata.get("tags", []) and "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


def main() -> None:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    paths = parser.parse_args().notebooks or sorted(Path(__file__).parent.glob("*.ipynb"))
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        for path in paths:
            run(path.resolve())


if __name__ == "__main__":
    main()
