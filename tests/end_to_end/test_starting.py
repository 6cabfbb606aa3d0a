"""Training without the entropy term, and training from weights that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metaq import load
from metaq.lab.train import TrainConfig

from .conftest import refused, run_metaq

MODULE = """\
import torch

def make():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AvgPool1d(28), torch.nn.Linear(28, 10))
"""
NET = "tiny_starting_net:make"


@pytest.fixture(autouse=True)
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_starting_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def training(out: str, *options: object) -> tuple[object, ...]:
    quick = ("--epochs", 4, "--set", "augmentation=none", "--set", "regularizer.refresh_every=5")
    return ("train", "--net", NET, *quick, *options, "--out", out)


def records(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def config_of(run: str) -> TrainConfig:
    return TrainConfig.from_json(Path(run, "config.json").read_text())


def test_floats_are_trained_and_kept_exactly() -> None:
    told = run_metaq(*training("plain", "--float"), "--json")
    assert told.status == 0, told.err
    best = torch.load("plain/checkpoint.pt", weights_only=True)["state"]["best"]
    weights = load("plain/model.metaq")
    assert all(torch.equal(weights[name], best["state_dict"][name]) for name in weights)
    assert best["grids"] == {}
    assert len({float(value) for value in weights["2.weight"].reshape(-1)}) == 280
    assert told.json["ratio"] < 1.2
    assert {(one["float_accuracy"], one["bits_per_weight"]) for one in records("plain")} == {
        (one["quantized_accuracy"], 32.0) for one in records("plain")
    }
    kept = max(records("plain")[3:], key=lambda one: one["quantized_accuracy"])
    assert told.json["validation_accuracy"] == kept["quantized_accuracy"]
    evaluated = run_metaq("evaluate", "plain/model.metaq", "--net", NET, "--split", "validation", "--json")
    assert evaluated.json["accuracy"] == told.json["validation_accuracy"]


def test_a_plain_run_resumes() -> None:
    run_metaq(*training("plain", "--float"))
    before = load("plain/model.metaq")
    assert run_metaq("train", "--resume", "plain").status == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in load("plain/model.metaq").items())


def test_a_run_starts_from_weights_and_goes_on_without_their_file() -> None:
    run_metaq(*training("plain", "--float"))
    started = run_metaq(*training("small", "--from", "plain/model.metaq", "--target-bytes", 250), "--json")
    assert started.status == 0, started.err
    config = config_of("small")
    assert config.start == "plain/model.metaq"
    assert config.regularizer.warmup == 0
    fresh = run_metaq(*training("fresh", "--target-bytes", 250), "--json")
    assert fresh.status == 0, fresh.err
    assert config_of("fresh").regularizer.warmup > 0
    assert records("small")[0]["loss"] < records("fresh")[0]["loss"]
    Path("plain/model.metaq").unlink()
    resumed = run_metaq("train", "--resume", "small", "--json").json
    assert {**resumed, "seconds": 0} == {**started.json, "seconds": 0}


def test_training_may_start_from_any_kind_of_file() -> None:
    weights = {"2.weight": torch.full((10, 28), 0.25), "2.bias": torch.arange(1.0, 11.0)}
    torch.save(weights, "start.pth")
    still = ("--set", "optimizer.learning_rate=1e-30", "--epochs", 1)
    assert run_metaq(*training("still", "--float", "--from", "start.pth", *still)).status == 0
    restored = load("still/model.metaq")
    assert all(torch.equal(restored[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--from", "missing.pth"), ("missing.pth", "no such file")),
        (("--from", "tiny_starting_net.py"), ("tiny_starting_net.py", "no model file")),
        (("--from", "other.pth"), ("--from other.pth", "missing: 2.weight", "unexpected: fc.weight")),
        (("--from", "bad.pth"), ("2.weight", "NaN")),
        (("--from", "other.pth", "--set", "init.radius=1"), ("start", "give one")),
        (("--float", "--target-bytes", 400), ("--float", "no target")),
        (("--float", "--target-ratio", 20), ("--float", "no target")),
        (("--float", "--max-drop", 1), ("--float", "no target")),
        (("--float", "--set", "goal.target_bytes=400"), ("goal", "regularizer.strength")),
    ],
)
def test_what_cannot_be_started_is_refused_before_there_is_a_folder(
    options: tuple[object, ...], named: tuple[str, ...]
) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, "other.pth")
    torch.save({"2.weight": torch.full((10, 28), float("nan")), "2.bias": torch.zeros(10)}, "bad.pth")
    assert refused(run_metaq(*training("run", *options)), *named)
    assert not Path("run").exists()


@pytest.mark.parametrize("options", [("--float",), ("--from", "start.pth")])
def test_resuming_takes_no_other_start(options: tuple[str, ...]) -> None:
    assert refused(run_metaq("train", "--resume", "run", *options), "--resume", "settings of that run")
