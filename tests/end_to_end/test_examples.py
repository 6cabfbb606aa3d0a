from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

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
    curve: list[float] = json.loads(done.stdout.splitlines()[-1])["bits_per_weight"]
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
    assert {path.name for path in EXAMPLES.glob("*.py")} - {"task.py"} == set(COMMANDS)


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
