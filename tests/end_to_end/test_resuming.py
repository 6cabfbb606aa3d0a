from __future__ import annotations

import signal
import time

import pytest
import torch

from .conftest import refused, run_metaq, start_metaq

SETTINGS = ("--preset", "lenet5-digits", "--epochs", "12", "--seed", "3")


def wait_for_epochs(run, count):
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= count):
        time.sleep(0.02)


def same_run(one, two):
    first, second = (torch.load(run / "checkpoint.pt", weights_only=True)["state"] for run in (one, two))
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    timeless = [[{**r, "seconds": 0} for r in state["records"]] for state in (first, second)]
    assert timeless[0] == timeless[1]
    assert (one / "model.metaq").read_bytes() == (two / "model.metaq").read_bytes()


@pytest.mark.slow
def test_a_killed_and_an_interrupted_run_resume_to_the_identical_result(tmp_path):
    whole = tmp_path / "whole"
    assert run_metaq("train", *SETTINGS, "--out", whole).status == 0
    for number, name in ((signal.SIGKILL, "killed"), (signal.SIGINT, "interrupted")):
        run = tmp_path / name
        process = start_metaq("train", *SETTINGS, "--out", run)
        wait_for_epochs(run, 4)
        process.send_signal(number)
        _, error = process.communicate()
        assert process.returncode != 0
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert f"metaq train --resume {run}" in error
            assert "Traceback" not in error
        assert not (run / "model.metaq").exists()
        resumed = run_metaq("train", "--resume", run)
        assert resumed.status == 0, resumed.err
        same_run(whole, run)


def test_resuming_a_finished_run_gives_its_result_again(tmp_path):
    run = tmp_path / "run"
    told = run_metaq("train", *SETTINGS, "--epochs", "2", "--out", run, "--json")
    again = run_metaq("train", "--resume", run, "--json")
    # Each command takes its own time.
    assert {**again.json, "seconds": told.json["seconds"]} == told.json


@pytest.mark.parametrize(
    "options",
    [
        ("--epochs", "3"),
        ("--seed", "0"),
        ("--preset", "lenet5-digits"),
        ("--target-bytes", "900"),
        ("--target-ratio", "20"),
        ("--target-bits-per-weight", "0.5"),
        ("--target-accuracy", "90"),
        ("--max-drop", "0"),
        ("--time-budget", "1m"),
        ("--set", "epochs=3"),
        ("--force",),
    ],
)
def test_resuming_takes_no_other_settings(tmp_path, options):
    result = run_metaq("train", "--resume", tmp_path / "run", *options)
    assert refused(result, "--resume", "settings of that run")


def test_an_unknown_device_is_refused_before_anything_is_made(tmp_path):
    assert refused(run_metaq("train", *SETTINGS, "--device", "gpu", "--out", tmp_path / "run"), "'gpu'", "cpu")
    assert not (tmp_path / "run").exists()


def test_an_interrupt_before_an_epoch_is_finished_sends_nobody_to_an_older_run(tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert run_metaq("train", *SETTINGS, "--epochs", "2", "--out", run).status == 0

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("metaq.lab.runs.train_to_folder", interrupted)
    for folder, options in ((run, ["--force"]), (tmp_path / "new", [])):
        told = run_metaq("train", *SETTINGS, "--out", folder, *options)
        assert told.status == 130
        assert "no epoch was finished, so nothing was saved" in told.err
        assert "--resume" not in told.err
