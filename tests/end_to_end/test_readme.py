from __future__ import annotations

import re
import runpy
from pathlib import Path

import torch
from torch import nn

README = Path(__file__).parents[2] / "README.md"


def test_the_loop_of_the_readme_runs_and_restores_what_it_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    loader = [(torch.randn(16, 6), torch.randint(0, 3, (16,))) for _ in range(5)]
    (tmp_path / "loop.py").write_text(block)
    names = runpy.run_path("loop.py", init_globals={"model": model, "loader": loader, "epochs": 4})
    assert (tmp_path / "model.metaq").stat().st_size > 0
    assert names["regularizer"].steps == 20
    assert names["regularizer"].report().distance < 1e-6


def test_every_command_of_the_readme_exists():
    from metaq.cli.app import app

    known = {command.name for command in app.registered_commands}
    assert set(re.findall(r"`metaq (\w+)", README.read_text())) == known
