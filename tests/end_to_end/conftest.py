from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from metaq import nets


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_metaq(*arguments: object, cwd: Path | None = None, **environment: str) -> Result:
    """The command line as a user meets it: a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "metaq", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", **environment},
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def refused(result: Result, *named: str) -> bool:
    """One sentence on stderr that names what was wrong, exit status 2, no traceback, nothing on stdout."""
    return (
        result.status == 2
        and "Traceback" not in result.err
        and result.out == ""
        and all(word in result.err for word in named)
        and len(result.err.strip().splitlines()) == 1
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A LeNet-5 with fresh weights."""
    torch.manual_seed(0)
    path = tmp_path / "lenet5.pth"
    torch.save(nets.create("lenet5").state_dict(), path)
    return path
