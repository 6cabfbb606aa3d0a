from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from metaq import load
from metaq.errors import MetaqError, OutputError
from metaq.lab.train import ALONE, launched

SETTINGS = ["--net", "small:make", "--epochs", "2", "--set", "batch_size=201", "--json"]
NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 4, 7, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""


def run(folder, *program, processes):
    """Run a program of Python that may import modules of a folder."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, *program]
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)


def train(folder, *options, processes):
    return run(folder, "-m", "metaq", "train", *options, processes=processes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run by one process and of the same by two, and what they printed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.py").write_text(NETWORK)
    return {
        count: (folder / str(count), train(folder, "--out", str(folder / str(count)), *SETTINGS, processes=count))
        for count in (1, 2)
    }


def test_two_processes_train_as_one_does(runs):
    (alone, printed), (together, also_printed) = runs[1], runs[2]
    assert printed.returncode == 0, printed.stderr
    assert also_printed.returncode == 0, also_printed.stderr
    one, two = (json.loads(done.stdout) for done in (printed, also_printed))
    assert one["epochs"] == two["epochs"] == 2
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=5)
    assert two["bytes"] == pytest.approx(one["bytes"], rel=0.1)
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
    records = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (alone, together)]
    for mine, other in zip(*records, strict=True):
        assert other["loss"] == pytest.approx(mine["loss"], rel=0.05)
    assert load(together / "model.metaq").keys() == load(alone / "model.metaq").keys()


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_began(runs):
    folder, _ = runs[2]
    again = train(folder.parent, "--resume", str(folder), "--json", processes=2)
    assert again.returncode == 0, again.stderr
    alone = train(folder.parent, "--resume", str(folder), "--json", processes=1)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(again.stdout)["bytes"] == json.loads(alone.stdout)["bytes"]


def test_what_the_first_process_refuses_all_refuse(runs):
    folder, _ = runs[2]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = train(folder.parent, "--out", str(folder), *SETTINGS, processes=2)
    assert done.returncode == 1
    assert "holds a run already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


LEAVING = """
import weakref
import torch
import torch.distributed as dist
from metaq.lab.train import launched

with launched(torch.device("cpu")) as processes:
    group = weakref.ref(dist.group.WORLD)
    torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    processes.total(1.0)
assert group() is None
"""


@pytest.mark.slow
def test_nothing_keeps_the_group_after_its_end(tmp_path):
    """The threads of a group that is kept may abort the process when the interpreter ends."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    done = run(tmp_path, str(tmp_path / "leaving.py"), processes=2)
    assert done.returncode == 0, done.stderr


def test_a_process_alone_does_everything_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched(torch.device("cpu")) as processes:
        assert processes is ALONE
    batch = torch.arange(5)
    parameter = torch.nn.Parameter(torch.ones(2))
    ALONE.sum_gradients([parameter])
    assert parameter.grad is None
    assert torch.equal(ALONE.share(batch), batch)
    assert ALONE.total(2.5) == 2.5
    assert ALONE.by_first(lambda: 3) == 3

    def fail():
        raise OutputError("full.")

    with pytest.raises(MetaqError, match="full"):
        ALONE.by_first(fail)
