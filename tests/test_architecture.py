from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metaq
import structure

ROOT = Path(__file__).parents[1]
SOURCE = Path(metaq.__file__).parent
WITHOUT_TORCH = ("errors", "config", "files", "progress", "tensors", "coding", "container", "decode")
HEAVY = ("torch", "numba", "matplotlib", "sklearn", "scipy")


@pytest.fixture(scope="module")
def found():
    return structure.structure_of(ROOT)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_every_room_has_its_place_in_the_order(found):
    assert found.rooms == set(structure.ORDER)
    assert len(set(structure.ORDER)) == len(structure.ORDER)


def test_imports_follow_the_order(found):
    assert found.against(structure.ORDER) == []
    assert found.circles == ()


def test_rooms_and_floors_stay_few(found):
    assert len(found.rooms) <= structure.MOST_ROOMS
    assert found.floors <= structure.MOST_FLOORS, " → ".join(found.longest_chain)


def test_a_room_says_in_one_sentence_what_flows_in_and_out():
    for path in SOURCE.glob("*/__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert re.match(r"[A-Z][^\n]*\.(\n|\Z)", docstring), path.parent.name


def modules_of(room: str) -> list[str]:
    """Every module of a room, by its full name."""
    place = SOURCE / room
    paths = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    names = [".".join(("metaq", *path.relative_to(SOURCE).with_suffix("").parts)) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


def test_no_module_on_the_way_from_a_file_to_tensors_imports_torch():
    modules = [name for room in WITHOUT_TORCH for name in modules_of(room)]
    assert len(modules) > len(WITHOUT_TORCH)
    program = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, f"{{name}} imports torch"
"""
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_prints_nothing_and_loads_nothing_large():
    done = run_python(f"import sys, metaq; assert not set({HEAVY}) & set(sys.modules)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_public_names_exist():
    for name in metaq.__all__:
        assert getattr(metaq, name) is not None
    assert set(metaq.__all__) <= set(dir(metaq))


def package(root: Path, **files: str) -> structure.Structure:
    """The structure of a package that holds `files`, by room."""
    for folder in ("src/metaq", "web/metaq"):
        (root / folder).mkdir(parents=True)
    (root / "src/metaq/__init__.py").write_text("from metaq.top import f\n")
    for room, text in files.items():
        (root / f"src/metaq/{room}.py").write_text(text)
    return structure.structure_of(root)


def test_arrows_and_floors_are_counted_wherever_an_import_stands(tmp_path):
    counted = package(
        tmp_path,
        top="import metaq.middle\nfrom metaq import bottom\n",
        middle="def f():\n    from metaq.bottom import x\n",
        bottom="import os\nx = 1\n",
    )
    assert counted.rooms == {"top", "middle", "bottom"}
    assert counted.arrows == {("top", "middle"), ("top", "bottom"), ("middle", "bottom")}
    assert counted.longest_chain == ("top", "middle", "bottom")
    assert counted.source_lines == 7
    assert counted.against(("bottom", "middle", "top")) == []
    assert counted.against(("top", "middle", "bottom")) == sorted(counted.arrows)
    assert counted.against(("top", "bottom")) is None


def test_rooms_that_import_each_other_are_a_circle_on_one_floor(tmp_path):
    counted = package(
        tmp_path, top="import metaq.one", one="import metaq.other", other="import metaq.one, metaq.bottom", bottom=""
    )
    assert counted.circles == (("one", "other"),)
    assert counted.longest_chain == ("top", "one=other", "bottom")


def test_a_relative_import_is_refused_rather_than_missed(tmp_path):
    with pytest.raises(ValueError, match="relative import"):
        package(tmp_path, top="from . import bottom\n", bottom="")
