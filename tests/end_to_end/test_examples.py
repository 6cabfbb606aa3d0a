from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMANDS = {
    "plain_loop.py": PYTHON,
    "with_lightning.py": PYTHON,
    "with_transformers.py": PYTHON,
    "with_ddp.py": TORCHRUN,
    "with_fsdp2.py": TORCHRUN,
}
"""What runs each example."""

OTHERS = {"task.py", "federated.py", "image_folder.py"}
"""What does not learn the task of the others."""

MOST_LINES = 3
"""Lines that metaq may add to a loop, beside its import."""


def run(name: str, path: Path) -> list[float]:
    """Bits per weight after every epoch; the model goes to `path`."""
    command = [*COMMANDS[name], str(EXAMPLES / name), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=path.parent, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *_, facts, end = done.stdout.splitlines()
    curve: list[float] = json.loads(facts)["bits_per_weight"]
    said = re.fullmatch(r"(\d+) bytes, (\d+\.\d) % of the examples held out are right", end)
    assert said, end
    assert int(said[1]) == path.stat().st_size
    assert float(said[2]) > 60
    return curve


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "model.metaq"
    return run("plain_loop.py", path), path.read_bytes()


def test_bits_fall_in_the_plain_loop(plain):
    curve, data = plain
    assert len(curve) == 6
    assert curve[-1] < 0.75 * curve[0]
    assert len(data) < 250


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "plain_loop.py"])
def test_every_loop_gives_the_curve_and_the_file_of_the_plain_one(name, plain, tmp_path):
    curve, data = plain
    assert run(name, tmp_path / "model.metaq") == pytest.approx(curve, rel=0, abs=1e-9)
    assert (tmp_path / "model.metaq").read_bytes() == data


def test_there_is_a_command_for_every_example():
    assert {path.name for path in EXAMPLES.glob("*.py")} - OTHERS == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_few_marked_lines_an_example_is_a_training_without_metaq(name):
    lines = (EXAMPLES / name).read_text().splitlines()
    kept = [line for line in lines if not line.endswith("# metaq")]
    marked = [line for line in lines if line.endswith("# metaq") and not line.startswith("from metaq")]
    assert 0 < len(marked) <= MOST_LINES
    nodes = list(ast.walk(ast.parse("\n".join(kept))))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in names if name and re.search("metaq|[Ee]ntropy|regularizer", name)]


@pytest.mark.parametrize(
    "way", ["metaq", pytest.param("int8", marks=pytest.mark.slow), pytest.param("float32", marks=pytest.mark.slow)]
)
def test_federated_averaging_counts_the_bytes_of_every_message(way, tmp_path):
    command = [*PYTHON, str(EXAMPLES / "federated.py"), "--rounds", "2", "--quick", "--way", way]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    sizes = [each[name] for each in figures["rounds"] for name in ("bytes_up", "bytes_down")]
    assert len(sizes) == 4
    assert figures["float32_bytes"] == 4 * 2 * 177_704
    least, most = {"metaq": (100, 200), "int8": (4, 6), "float32": (1, 1)}[way]
    assert least <= figures["float32_bytes"] / sum(sizes) <= most
    assert all(least <= 2 * 177_704 / size <= most for size in sizes)
    assert all(0 < each["accuracy"] < 100 for each in figures["rounds"])


def test_a_folder_of_pictures_becomes_a_small_classifier(tmp_path):
    image, random = pytest.importorskip("PIL.Image"), np.random.default_rng(0)
    for name, shade in (("dark", 40), ("bright", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(60):
            pixels = np.clip(random.normal(shade, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    command = [*PYTHON, str(EXAMPLES / "image_folder.py"), "pictures", "model.metaq", "--epochs", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    end = re.fullmatch(r".* became ([\d,]+) bytes, (\d+\.\d) % right\n", done.stdout)
    assert end, done.stdout
    assert int(end[1].replace(",", "")) == (tmp_path / "model.metaq").stat().st_size
    assert float(end[2]) > 80
