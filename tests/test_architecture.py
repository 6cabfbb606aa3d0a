from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import metaq

SOURCE = Path(metaq.__file__).parent

ORDER = (
    "errors",
    "config",
    "files",
    "compiled",
    "progress",
    "tensors",
    "entropy",
    "coding",
    "container",
    "decode",
    "model",
    "quantize",
    "compression",
    "regularizer",
    "hf",
    "lightning",
    "transformers",
    "onnx",
    "lab",
    "report",
    "cli",
    "__main__",
)
"""Rooms in the order in which data flows; a room imports only from rooms above it in this list."""

WITHOUT_TORCH = (
    "errors",
    "config",
    "files",
    "tensors",
    "quantize",
    "coding",
    "container",
    "decode",
)
PLACE = {room: number for number, room in enumerate(ORDER)}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "metaq" else [node.module]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("metaq.")}
    return rooms


def test_every_room_has_its_place_in_the_order():
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms == set(PLACE)


def test_imports_follow_the_order():
    against = [
        (str(path.relative_to(SOURCE)), room)
        for path in SOURCE.rglob("*.py")
        if room_of(path) != "__init__"
        for room in imported_rooms(path)
        if PLACE[room] > PLACE[room_of(path)]
    ]
    assert against == []


def test_the_decoder_needs_no_torch_and_the_package_does_nothing_at_import():
    program = "import sys; import metaq; {}; assert 'torch' not in sys.modules, 'torch was imported'"
    modules = "; ".join(f"import metaq.{room}" for room in WITHOUT_TORCH)
    done = subprocess.run([sys.executable, "-c", program.format(modules)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_public_names_exist():
    for name in metaq.__all__:
        assert getattr(metaq, name) is not None
    assert set(metaq.__all__) <= set(dir(metaq))
