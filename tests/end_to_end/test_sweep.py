from __future__ import annotations

import json
import signal
import sys
import time

import pytest
import torch

from metaq.lab import data, nets
from metaq.lab.train import accuracy

from .conftest import refused, run_metaq, start_metaq

optuna = pytest.importorskip("optuna")

NET = """
from torch import nn


def make():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10))
"""
FLOAT_BYTES = 2000


@pytest.fixture(autouse=True)
def tiny_net(tmp_path, monkeypatch):
    """A network that is trained in a moment, named like one of a user's own."""
    (tmp_path / "tiny_sweep_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("tiny_sweep_net", None)


def settings(out, *, epochs=20):
    sizes = ("--smallest", 150, "--largest", 400)
    return ("sweep", "--net", "tiny_sweep_net:make", "--data", "digits", "--epochs", epochs, *sizes, "--out", out)


def test_a_sweep_draws_the_frontier_and_goes_on(tmp_path):
    out = tmp_path / "out"
    told = run_metaq(*settings(out), "--trials", 1, "--json")
    assert told.status == 0, told.err
    assert [trial["number"] for trial in told.json["trials"]] == [0]
    more = run_metaq(*settings(out), "--trials", 3, "--json")
    assert more.status == 0, more.err
    assert more.json == json.loads((out / "frontier.json").read_text())
    assert more.json["trials"][:1] == told.json["trials"]
    assert [trial["number"] for trial in more.json["trials"]] == [0, 1, 2]
    splits = data.load("digits")
    for member in more.json["frontier"]:
        file = out / "trials" / f"{member['number']:04d}" / "model.metaq"
        assert member["file"] == str(file)
        assert member["bytes"] == file.stat().st_size
        assert member["ratio"] == FLOAT_BYTES / member["bytes"]
        model = nets.create("tiny_sweep_net:make")
        told = run_metaq("evaluate", file, "--net", "tiny_sweep_net:make", "--data", "digits", "--json")
        assert member["test_accuracy"] == told.json["accuracy"]
        assert run_metaq("decompress", file, "-o", tmp_path / "m.pt", "--force").status == 0
        model.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
        assert member["validation_accuracy"] == accuracy(model, splits.validation)
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    shown = run_metaq(*settings(out), "--trials", 3)
    assert shown.status == 0, shown.err
    assert "3 completed trials" in shown.out
    assert "trial 0" not in shown.err


def test_sizes_that_no_training_reaches_are_given_up_or_refused(tmp_path):
    out = tmp_path / "out"
    given = ("sweep", "--net", "tiny_sweep_net:make", "--data", "digits", "--epochs", 3, "--out", out)
    assert refused(run_metaq(*given, "--smallest", 1, "--largest", 20, "--trials", 2), "20 bytes cannot be reached")
    assert not out.exists()
    told = run_metaq(*given, "--smallest", 1, "--largest", 350, "--trials", 6, "--json")
    assert told.status == 0, told.err
    assert 0 < len(told.json["trials"]) < 6
    assert told.json["given_up"] + len(told.json["trials"]) == 6


@pytest.mark.slow
def test_several_processes_share_one_study(tmp_path):
    out = tmp_path / "out"
    told = run_metaq(*settings(out, epochs=2), "--trials", 4, "--workers", 2, "--json")
    assert told.status == 0, told.err
    finished = told.json["trials"]
    assert 4 <= len(finished) <= 5
    assert len({trial["parameters"]["optimizer.learning_rate"] for trial in finished}) == len(finished)
    assert all(f"trial {trial['number']}:" in told.err for trial in finished)


def test_a_worker_that_fails_ends_the_sweep_with_its_sentence(tmp_path):
    teacher = tmp_path / "teacher.metaq"
    told = run_metaq(*settings(tmp_path / "out"), "--teacher", teacher, "--workers", 2)
    assert refused(told, "teacher.metaq")


@pytest.mark.slow
def test_an_interrupted_sweep_stops_its_processes_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    process = start_metaq(*settings(out, epochs=100_000), "--trials", 2, "--workers", 2)
    while not list((out / "trials").glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "The same command goes on" in error
    assert "Traceback" not in error
    study = optuna.load_study(study_name="tiny_sweep_net:make on digits", storage=f"sqlite:///{out / 'study.db'}")
    states = {trial.state for trial in study.trials}
    study._storage._backend.engine.dispose()
    assert states == {optuna.trial.TrialState.FAIL}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--trials", 0), ("--trials 0",)),
        (("--workers", 0), ("--workers 0",)),
        (("--smallest", 500), ("--smallest 500", "--largest")),
        (("--smallest", 0), ("--smallest 0",)),
        (("--time-budget", "5m"), ("--time-budget", "--epochs")),
        (("--storage", "nonsense"), ("--storage",)),
        (("--teacher-net", "lenet5"), ("--teacher-net", "--teacher")),
        (("--net", "lenet6"), ("lenet6",)),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, options, named):
    assert refused(run_metaq(*settings(tmp_path / "out"), *options), *named)
    assert not (tmp_path / "out" / "trials").exists()


def test_a_study_of_other_settings_is_refused(tmp_path):
    assert run_metaq(*settings(tmp_path / "out", epochs=1), "--trials", 1).status == 0
    again = run_metaq(*settings(tmp_path / "out", epochs=2), "--trials", 1)
    assert refused(again, "epochs: 1, now 2", "--out")


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert refused(run_metaq(*settings(tmp_path / "out")), "optuna", "extra lab")
