from __future__ import annotations

import re
import runpy
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MOST_WORDS = 700
FIRST_LINES = 60


def block_with(text: str) -> str:
    """The only program that contains `text`."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if text in block)
    return block


def test_the_readme_is_a_door():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= MOST_WORDS
    first_program = text[: text.index("```python")].count("\n") + block_with("EntropyRegularizer").count("\n")
    assert first_program <= FIRST_LINES


def test_the_loop_of_the_readme_runs_and_restores_what_it_saved(tmp_path, monkeypatch):
    from metaq import load

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = block_with("import EntropyRegularizer")
    model = nn.Sequential(nn.Linear(6, 256), nn.Tanh(), nn.Linear(256, 3))
    loader = [(torch.randn(16, 6), torch.randint(0, 3, (16,))) for _ in range(5)]
    (tmp_path / "loop.py").write_text(block)
    names = runpy.run_path("loop.py", init_globals={"model": model, "loader": loader, "epochs": 4})
    assert names["regularizer"].steps == 20
    restored, inputs = nn.Sequential(nn.Linear(6, 256), nn.Tanh(), nn.Linear(256, 3)), torch.randn(50, 6)
    restored.load_state_dict(load("model.metaq"))
    torch.testing.assert_close(restored(inputs), model(inputs))


def test_the_goal_of_the_readme_is_met(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = block_with("metaq.compress(model, target_ratio=20")
    model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 3))
    (tmp_path / "goal.py").write_text(block)
    runpy.run_path("goal.py", init_globals={"model": model, "calibration_inputs": torch.randn(300, 64).split(50)})
    assert (tmp_path / "model.metaq").stat().st_size <= 4 * (64 * 100 + 100 + 300 + 3) / 20


def test_the_page_of_commands_lists_every_command():
    from metaq.cli.app import COMMANDS

    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `metaq (\w+)` \|", page, re.MULTILINE)) == set(COMMANDS)
