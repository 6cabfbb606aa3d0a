"""The distribution ``metaq-decode``: built, installed where there is numpy and nothing else, and used there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import metaq
from metaq import decode

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "decode"
PACKAGE = "metaq_decode"
MODELS = sorted((ROOT / "models").glob("*.metaq"))
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.metaq"))

pytest.importorskip("hatchling")

HASHES = """
import hashlib, json, sys
from metaq_decode import load

def known(values):
    return hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()

json.dump([{name: known(values) for name, values in load(path).items()} for path in sys.argv[1:]], sys.stdout)
"""


def run(*command: object, folder: Path | None = None) -> str:
    """What a command prints; it must succeed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """The build hook as a module."""
    spec = importlib.util.spec_from_file_location("hatch_build", PROJECT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=PROJECT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with numpy, the wheel, and nothing else; what it needs is that of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    found = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    numpy = distribution("numpy")
    assert numpy.files is not None
    for name in {path.parts[0] for path in numpy.files} - {".."}:
        (packages / name).symlink_to(numpy.locate_file(name), target_is_directory=True)
    # Without an index, this fails if anything but numpy is required.
    run(sys.executable, "-m", "pip", "--python", found, "install", "-q", "--no-index", wheel)
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_only_what_restoring_needs_is_gathered(hook: ModuleType) -> None:
    found = hook.gathered(PROJECT, "1.2")
    assert {"__init__.py", "decode.py", "container/reader.py", "coding/header_dictionary.bin", "LICENSE"} <= set(found)
    assert not {"container/writer.py", "files.py", "progress.py"} & set(found)
    rooms = {place.split("/")[0].removesuffix(".py") for place in found} - {"__init__", "py.typed", "LICENSE"}
    assert rooms == {"coding", "compiled", "config", "container", "decode", "errors", "tensors"}
    assert sum(len(content) for content in found.values()) < 400_000
    assert b'__version__ = "1.2"' in found["__init__.py"]
    for place, content in found.items():
        if place.endswith(".py"):
            compile(content, place, "exec")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import torch", "top.py imports torch, which metaq_decode does not require"),
        ("from . import other", "imports a neighbour"),
        ("from metaq.folder import name", "imports name of metaq.folder; name the module that defines it"),
        ("from metaq import nothing", "imports nothing of metaq; name the module"),
    ],
)
def test_an_import_that_would_fail_there_ends_the_build(
    hook: ModuleType, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "metaq" / "folder").mkdir(parents=True)
    (tmp_path / "metaq" / "__init__.py").touch()
    (tmp_path / "metaq" / "folder" / "__init__.py").write_text("name = 1\n")
    (tmp_path / "metaq" / "top.py").write_text(f"import json\n\ndef late():\n    {line}\n")
    (tmp_path / "entrance.py").write_text("from metaq.top import late\n")
    with pytest.raises(ValueError, match=message):
        hook.modules(tmp_path, tmp_path / "entrance.py")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from metaq.a.b import c", "from metaq_decode.a.b import c"),
        ("    from metaq import a", "    from metaq_decode import a"),
        ("import metaq.a as b", "import metaq_decode.a as b"),
        (":func:`metaq.a.b` of a ``.metaq`` file", ":func:`metaq_decode.a.b` of a ``.metaq`` file"),
        ("not made by metaq. Get it again: model.metaq.part", "not made by metaq. Get it again: model.metaq.part"),
    ],
)
def test_names_of_modules_are_changed_and_no_others(hook: ModuleType, before: str, after: str) -> None:
    assert hook.NAME.sub(hook.PACKAGE, before) == after


def test_an_import_that_is_left_ends_the_build(hook: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"a\.py still imports metaq in line 2"):
        hook._renamed("x = 1\nimport metaq\n", "a.py")


@pytest.mark.slow
def test_no_file_is_one_of_metaq_itself(wheel: Path) -> None:
    """So both can be installed in one environment."""
    information = f"{PACKAGE}-{metaq.__version__}.dist-info"
    names = names_in(wheel)
    assert {name.split("/")[0] for name in names} == {PACKAGE, information}
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(f"{information}/METADATA").decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist")]
    assert [line for line in required if "extra ==" not in line] == ["Requires-Dist: numpy>=1.26"]
    assert len(required) == 3


@pytest.mark.slow
def test_a_wheel_made_of_the_sdist_is_the_same(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        sdist,
    )
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_an_editable_installation_is_refused(tmp_path: Path) -> None:
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--target", str(tmp_path))
    command = [sys.executable, "-m", "pip", "install", *options, "-e", str(PROJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "cannot be editable; install it without -e" in done.stdout + done.stderr


@pytest.mark.slow
def test_nothing_else_can_be_imported_there(python: Path) -> None:
    program = f"""
import importlib.util
import {PACKAGE}
from {PACKAGE} import inspect, load, stream
missing = ["torch", "numba", "metaq", "zstandard", "safetensors"]
assert not any(importlib.util.find_spec(name) for name in missing)
print({PACKAGE}.__version__, {PACKAGE}.__file__)
"""
    version, place = run(python, "-c", program, folder=python.parent).split()
    assert version == metaq.__version__
    assert place.startswith(str(python.parents[1]))


@pytest.mark.slow
def test_shipped_models_come_to_the_same_bits(python: Path) -> None:
    known = json.loads((ROOT / "tests" / "golden" / "shipped.json").read_text())
    assert {path.stem for path in MODELS} == set(known)
    found = json.loads(run(python, "-c", HASHES, *MODELS, folder=python.parent))
    assert dict(zip((path.stem for path in MODELS), found, strict=True)) == known


@pytest.mark.slow
def test_files_of_every_coder_come_to_the_same_bits(python: Path) -> None:
    coders = {entry.coder for path in GOLDEN for entry in decode.inspect(path).entries}
    assert {"fast", "small", "constant", "zstd", "planes"} <= coders
    found = json.loads(run(python, "-c", HASHES, *GOLDEN, folder=python.parent))
    for path, hashes in zip(GOLDEN, found, strict=True):
        assert hashes == {name: known(values) for name, values in decode.load(path).items()}, path.name


@pytest.mark.slow
def test_updates_come_to_the_same_bits(python: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    states = [{"w": 0.1 * torch.randn(40, 30), "b": torch.randn(40)}]
    paths = [tmp_path / f"{number}.metaq" for number in range(3)]
    metaq.compress(states[0]).save(paths[0])
    for number in (1, 2):
        before = metaq.load(paths[0]) if number == 1 else states[-1]
        changed = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in before.items()}
        update = metaq.diff(before, changed)
        update.save(paths[number])
        states.append(update.state_dict())
    script = HASHES.replace("load(path)", "load(path, base=[sys.argv[1], *sys.argv[3:]])").replace(
        "argv[1:]", "argv[2:3]"
    )
    found = json.loads(run(python, "-c", script, paths[0], paths[2], paths[1], folder=python.parent))
    assert found == [{name: known(tensor.numpy()) for name, tensor in states[-1].items()}]


def known(values: np.ndarray) -> str:
    """As in ``HASHES``."""
    return hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()
