from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from metaq.cli import main, output
from metaq.lab import data, nets
from metaq.lab.data import to_float
from metaq.model.checkpoint import StateDict


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_metaq(*arguments: object) -> Result:
    """The command line inside this process, which spares a start of the interpreter for every call."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    arguments_before, sys.argv = sys.argv, ["metaq", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = arguments_before
    return Result(status, out.getvalue(), err.getvalue())


def start_metaq(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command line as a user meets it: a process of its own."""
    command = [sys.executable, "-m", "metaq", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are printed without folding."""
    monkeypatch.setenv("COLUMNS", "140")
    # A console that was made before has the width that there was then.
    monkeypatch.setattr(output.STDOUT, "width", 140)


def refused(result: Result, *named: str) -> bool:
    """One sentence on stderr that names what was wrong, exit status 2, no traceback, nothing on stdout.

    What took long before may have told its name, in a line that ends in three dots.
    """
    lines = [line for line in result.err.splitlines() if not line.endswith(" …")]
    return (
        result.status == 2
        and result.out == ""
        and len(lines) == 1
        and lines[0].startswith("metaq: ")
        and all(word in lines[0] for word in named)
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A LeNet-5 with fresh weights."""
    torch.manual_seed(0)
    path = tmp_path / "lenet5.pth"
    torch.save(nets.create("lenet5").state_dict(), path)
    return path


def trained(name: str) -> StateDict:
    """Weights after a few steps on digits."""
    torch.manual_seed(0)
    model, train = nets.create(name), data.load("digits").train
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = zip(train.images.split(64), train.labels.split(64), strict=True)
    for images, labels in [*batches] * 3:
        optimizer.zero_grad()
        functional.cross_entropy(model(to_float(images)), labels).backward()
        optimizer.step()
    return model.state_dict()
