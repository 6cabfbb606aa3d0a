from __future__ import annotations

import re
import runpy
from pathlib import Path

import torch
from torch import nn

README = Path(__file__).parents[2] / "README.md"


def block_with(text: str) -> str:
    """The only program that contains `text`."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if text in block)
    return block


def test_the_loop_of_the_readme_runs_and_restores_what_it_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = block_with("import EntropyRegularizer")
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    loader = [(torch.randn(16, 6), torch.randint(0, 3, (16,))) for _ in range(5)]
    (tmp_path / "loop.py").write_text(block)
    names = runpy.run_path("loop.py", init_globals={"model": model, "loader": loader, "epochs": 4})
    assert (tmp_path / "model.metaq").stat().st_size > 0
    assert names["regularizer"].steps == 20
    assert names["regularizer"].report().distance < 1e-6


def test_the_budget_of_the_readme_is_met(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = block_with("import Budget")
    model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 3))
    (tmp_path / "budget.py").write_text(block)
    runpy.run_path("budget.py", init_globals={"model": model, "calibration_inputs": torch.randn(300, 64).split(50)})
    assert (tmp_path / "model.metaq").stat().st_size <= 4 * (64 * 100 + 100 + 300 + 3) / 20


def test_every_command_of_the_readme_exists():
    from metaq.cli.app import app

    known = {command.name for command in app.registered_commands}
    assert set(re.findall(r"`metaq (\w+)", README.read_text())) == known
