"""What a command costs before it does anything, and what its output looks like on every terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metaq import container
from metaq.cli.app import COMMANDS, load
from metaq.cli.output import printable
from metaq.report.inspection import LAYERS
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor

from .conftest import refused, run_metaq

MODEL = Path(__file__).parents[2] / "models" / "lenet5-mnist.metaq"
HEAVY = ("torch", "matplotlib", "sklearn", "tensorboard", "constriction", "jinja2")
ODD_NAMES = ("\x1b[31mred", "x\ny", "[bold]w[/bold]", ":heart:", "größe.重み", "a" * 200, "")


def metaq(*arguments: object, blocked: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[str]:
    """A process of its own, which says on stderr what it imported; `blocked` modules are as if not installed."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from metaq.cli import main
try:
    main()
finally:
    print("imported", *(name for name in sys.modules if "." not in name), file=sys.__stderr__)
"""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True, **options)  # type: ignore[call-overload]


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_no_library_of_numbers() -> None:
    done = metaq("--help")
    assert done.returncode == 0
    assert not imported(done) & {*HEAVY, "numba", "scipy"}
    assert all(f"  {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_torch(command: str) -> None:
    done = metaq(command, "--help")
    assert done.returncode == 0
    assert not imported(done) & set(HEAVY)


def test_a_file_is_inspected_and_restored_without_torch(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    for arguments in (("inspect", MODEL), ("decompress", MODEL, "-o", out)):
        done = metaq(*arguments)
        assert done.returncode == 0, done.stderr
        assert not imported(done) & set(HEAVY)
        assert "54 of 120 left" in done.stdout or arguments[0] == "decompress"
    assert run_metaq("inspect", out, "--json").json["weights"] == 44_426


def test_lines_of_help_are_those_of_the_commands() -> None:
    for name, line in COMMANDS.items():
        assert " ".join(load(name).help.split("\n\n")[0].split()) == line


def test_a_misspelt_command_gets_the_near_match() -> None:
    told = run_metaq("inspct")
    assert told.status == 2
    assert "inspect" in told.err


@pytest.fixture
def odd_file(tmp_path: Path) -> Path:
    grid = BucketGrid(center=0, radius=1, count=5)
    indices = np.zeros((4, 3), np.int64)
    tensors = [QuantizedTensor(name=name, indices=indices, grid=grid, dtype=Dtype.float32) for name in ODD_NAMES]
    container.write(tmp_path / "odd.metaq", tensors)
    return tmp_path / "odd.metaq"


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252", "utf-8"])
def test_every_terminal_gets_a_table(odd_file: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "300"}
    done = metaq("inspect", odd_file, env=environment, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "x\\ny" in done.stdout
    assert "[bold]w[/bold]" in done.stdout
    assert ":heart:" in done.stdout
    assert printable("größe.重み", encoding) in done.stdout


def test_a_narrow_terminal_breaks_no_number(odd_file: Path) -> None:
    done = metaq("inspect", odd_file, env={**os.environ, "COLUMNS": "40"})
    assert done.returncode == 0, done.stderr
    assert "shape: 4×3" in done.stdout
    assert "dtype: float32" in done.stdout


def test_a_legend_stands_below_its_table() -> None:
    shown = run_metaq("inspect", MODEL).out
    assert shown.index("fc3.weight") < shown.index("used: buckets in use")


def test_names_that_safetensors_cannot_hold_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    tensor = ExactTensor(name="__metadata__", values=np.ones(2, np.float32), dtype=Dtype.float32)
    container.write(tmp_path / "x.metaq", [tensor])
    out = tmp_path / "x.safetensors"
    assert refused(run_metaq("decompress", tmp_path / "x.metaq", "-o", out), "__metadata__", ".pth")
    assert not out.exists()


def test_output_into_a_full_device_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "metaq", "inspect", str(MODEL)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "metaq: the output cannot be written (No space left on device).\n"


def test_a_file_for_standard_output_is_alone_there(tmp_path: Path) -> None:
    link = tmp_path / "out.safetensors"
    link.symlink_to("/dev/stdout")
    command = [sys.executable, "-m", "metaq", "decompress", str(MODEL), "-o", str(link)]
    piped = subprocess.run(command, capture_output=True, check=False)
    assert piped.returncode == 0
    assert run_metaq("decompress", MODEL, "-o", tmp_path / "x.safetensors").status == 0
    assert piped.stdout == (tmp_path / "x.safetensors").read_bytes()


def test_evaluating_takes_the_network_that_the_file_names() -> None:
    model = MODEL.with_name("lenet300-mnist.metaq")
    told = run_metaq("evaluate", model, "--data", "digits", "--json")
    assert told.status == 0, told.err
    assert told.json["net"] == "lenet300"
    assert refused(run_metaq("evaluate", model, "--net", "lenet5"), "--net package.module:factory")


def test_a_file_does_not_make_code_run(tmp_path: Path) -> None:
    tensor = ExactTensor(name="w", values=np.ones(2, np.float32), dtype=Dtype.float32)
    container.write(tmp_path / "own.metaq", [tensor], metadata={"net": "mine:make"})
    (tmp_path / "mine.py").write_text("raise SystemExit(7)\n")
    done = metaq("evaluate", "own.metaq", cwd=tmp_path)
    assert done.returncode == 2
    assert "--net package.module:factory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (("report", MODEL, "-o", "page.html"), "jinja2", "report"),
        (("inspect", MODEL, "--plot", "x.png"), "matplotlib", "report"),
        (("evaluate", MODEL, "--data", "digits"), "scikit-learn", "lab"),
        (("sweep", "--out", "s"), "optuna", "lab"),
        (("demo",), "scikit-learn", "lab"),
        (("train", "--out", "r"), "matplotlib", "report"),
        (("export", MODEL, "-o", "x.onnx"), "onnx", "onnx"),
    ],
)
def test_what_is_not_installed_is_said_before_any_work(
    tmp_path: Path, arguments: tuple[object, ...], module: str, extra: str
) -> None:
    done = metaq(*arguments, blocked=({"scikit-learn": "sklearn"}.get(module, module),), cwd=tmp_path)
    assert done.returncode == 2
    assert f"metaq: {module} is not installed; the extra {extra} of metaq brings it" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("seed", range(3))
def test_units_are_counted_as_folding_leaves_them(tmp_path: Path, name: str, seed: int) -> None:
    from metaq.lab import nets

    generator = torch.Generator().manual_seed(seed)
    state = nets.create(name).state_dict()
    for tensor in state.values():
        if tensor.ndim > 1:
            wide = tensor.flatten(1)
            wide[torch.rand(wide.shape, generator=generator) > 4 / max(wide.shape)] = 0
            wide[torch.rand(len(wide), generator=generator) < 0.3] = 0
    tensors = [ExactTensor(name=key, values=value.numpy(), dtype=Dtype.float32) for key, value in state.items()]
    container.write(tmp_path / "x.metaq", tensors, metadata={"net": name})
    counted = run_metaq("inspect", tmp_path / "x.metaq", "--json").json["folded"]
    assert counted == run_metaq("inspect", tmp_path / "x.metaq", "--net", name, "--json").json["folded"]


def test_an_interrupt_while_modules_are_imported_is_a_sentence() -> None:
    program = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "rich":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from metaq.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 130
    assert done.stderr == "metaq: interrupted; nothing half-written was left behind.\n"
