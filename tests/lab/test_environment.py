from __future__ import annotations

import getpass
import platform
import sys

import torch

from metaq.lab import environment


def test_the_environment_tells_versions_and_command_but_neither_user_nor_host(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/metaq", "train", "--out", "a run"])
    found = environment.describe(device=torch.device("cpu"))
    assert found["command"] == "metaq train --out 'a run'"
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["device"] == "cpu"
    assert found["cores"] >= 1
    assert platform.node() not in [str(value) for value in found.values()]
    assert getpass.getuser() not in [str(value) for value in found.values()]


def test_a_module_run_by_python_is_the_command():
    assert environment.command(["/lib/metaq/__main__.py", "demo"]) == "metaq demo"
    assert environment.command(["loop.py", "1"]) == "python loop.py 1"
    assert environment.command([]) == "python"


def test_credentials_of_urls_are_left_out():
    line = environment.command(["metaq", "sweep", "--storage", "postgresql://me:secret@host/db"])
    assert "secret" not in line
    assert "host/db" in line
