from __future__ import annotations

import json
import signal
import sys

import pytest
import torch

from metaq import BucketGrid, compress, load
from metaq.cli import output
from metaq.cli.train import seconds_of
from metaq.errors import ConfigError
from metaq.lab import data, nets, runs
from metaq.lab.data import to_float
from metaq.lab.train import TrainConfig, preset
from metaq.regularizer.schedule import phase_at

from .conftest import refused, run_metaq, start_metaq
from .test_resuming import same_run, wait_for_epochs

NETS = """
from torch import nn


def make():
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 10))


def make_teacher():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 12), nn.Tanh(), nn.Linear(12, 10))


def make_other():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10))


def make_with_hidden_units():
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 60), nn.Tanh(), nn.Linear(60, 10))


def make_of_more_classes():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 11))


def make_of_other_images():
    return nn.Sequential(nn.Conv2d(3, 1, 28), nn.Flatten(), nn.Linear(1, 10))
"""
NET, TEACHER_NET, OTHER_NET = "tiny_goal_nets:make", "tiny_goal_nets:make_teacher", "tiny_goal_nets:make_other"
FLOAT_BYTES = 7880


@pytest.fixture(autouse=True)
def tiny_nets(tmp_path, monkeypatch):
    """Networks that are trained in a moment, named like a user's own."""
    (tmp_path / "tiny_goal_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("tiny_goal_nets", None)


def training(out, *, epochs=None):
    """A command line; so few steps need refreshes that are nearer to each other."""
    length = () if epochs is None else ("--epochs", epochs)
    settings = ("--set", "regularizer.refresh_every=5", "--set", "augmentation=none")
    return ("train", "--net", NET, *length, *settings, "--out", out)


def slowly(goal):
    """Options of a goal, and of a plan that leaves a small network the steps to follow."""
    plan = {"press": 0.4, "settle": 0.1, "deepest": 10}
    values = {"optimizer.relative_learning_rate": 0.008, **{f"regularizer.plan.{name}": plan[name] for name in plan}}
    return (*goal, *(word for name, value in values.items() for word in ("--set", f"{name}={value}")))


def epochs_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def config_of(run):
    return TrainConfig.from_json((run / "config.json").read_text())


def settled_epochs(run):
    """Those that end while weights are frozen."""
    config = config_of(run)
    assert config.regularizer.plan is not None
    ends = [epoch["epoch"] / config.epochs - 1e-9 for epoch in epochs_of(run)]
    kinds = [phase_at(config.regularizer.plan, config.regularizer.warmup, end).kind for end in ends]
    return [epoch for epoch, kind in zip(epochs_of(run), kinds, strict=True) if kind == "settle"]


def held_accuracies(run):
    """By epoch, the lower of its accuracy and the running mean since the warm-up."""
    config, held, mean = config_of(run), {}, None
    for epoch in epochs_of(run):
        accuracy = epoch["quantized_accuracy"]
        if epoch["epoch"] / config.epochs >= config.regularizer.warmup:
            mean = accuracy if mean is None else (mean + accuracy) / 2
        held[epoch["epoch"]] = accuracy if mean is None else min(mean, accuracy)
    return held


def test_files_of_at_most_so_many_bytes(tmp_path):
    told = {}
    for most in (300, 600):
        run = tmp_path / str(most)
        result = run_metaq(*training(run, epochs=20), *slowly(("--target-bytes", most)), "--json")
        assert result.status == 0, result.err
        told[most] = result.json
        assert told[most]["bytes"] == (run / "model.metaq").stat().st_size <= most
        assert config_of(run).goal.to_dict() == {"accuracy": None, "bytes": most}
        settled = settled_epochs(run)
        kept = next(epoch for epoch in epochs_of(run) if epoch["epoch"] == told[most]["kept_epoch"])
        assert kept in settled
        assert kept["quantized_accuracy"] == told[most]["validation_accuracy"]
        assert told[most]["bytes"] <= kept["file_bytes"] <= most
        held = held_accuracies(run)
        fitting = [epoch["epoch"] for epoch in settled if epoch["file_bytes"] <= most]
        assert held[kept["epoch"]] == pytest.approx(max(held[epoch] for epoch in fitting))
    assert told[300]["bytes"] < told[600]["bytes"]
    assert told[300]["validation_accuracy"] < told[600]["validation_accuracy"]


def test_the_smallest_file_of_at_least_an_accuracy(tmp_path):
    run = tmp_path / "run"
    result = run_metaq(*training(run, epochs=20), *slowly(("--target-accuracy", 65)), "--json")
    assert result.status == 0, result.err
    assert config_of(run).goal.to_dict() == {"accuracy": 65.0, "bytes": None}
    assert result.json["validation_accuracy"] >= 65
    meeting = [epoch for epoch in settled_epochs(run) if epoch["quantized_accuracy"] >= 65]
    kept = next(epoch for epoch in meeting if epoch["epoch"] == result.json["kept_epoch"])
    assert kept["file_bytes"] == min(epoch["file_bytes"] for epoch in meeting)
    assert result.json["bytes"] <= kept["file_bytes"] < max(epoch["file_bytes"] for epoch in epochs_of(run)) * 0.75
    evaluated = run_metaq("evaluate", run / "model.metaq", "--net", NET, "--split", "validation", "--json")
    assert evaluated.json["accuracy"] == result.json["validation_accuracy"]


def test_a_size_is_that_after_hidden_units_are_arranged(tmp_path):
    run, net = tmp_path / "run", "tiny_goal_nets:make_with_hidden_units"
    told = run_metaq("train", "--net", net, "--epochs", 3, "--target-bytes", 5000, "--out", run, "--json")
    assert told.status == 0, told.err
    best = torch.load(run / "checkpoint.pt", weights_only=True)["state"]["best"]
    grids = {name: BucketGrid(**grid) for name, grid in best["grids"].items()}
    as_trained = tmp_path / "as_trained.metaq"
    compress(best["state_dict"], grids=grids, metadata={"net": net, "data": "digits"}).save(as_trained)
    kept = epochs_of(run)[told.json["kept_epoch"] - 1]
    assert told.json["bytes"] <= kept["file_bytes"] < as_trained.stat().st_size


def test_progress_tells_the_size_of_every_file_exactly(tmp_path):
    shown = run_metaq(*training(tmp_path / "run", epochs=2), "--target-bytes", 500)
    assert shown.status == 0, shown.err
    for epoch in epochs_of(tmp_path / "run"):
        assert f"  {epoch['file_bytes']:,} bytes" in shown.err
    assert "about" not in shown.err


def test_other_settings_come_after_those_of_a_goal(tmp_path):
    run = tmp_path / "run"
    given = ("--set", "epochs=1", "--set", "regularizer.plan.press=0.3", "--set", "optimizer.learning_rate=0.001")
    result = run_metaq(*training(run), "--target-bytes", 500, *given)
    assert result.status == 0, result.err
    config = config_of(run)
    assert config.regularizer.plan is not None
    assert (config.epochs, config.regularizer.plan.press, config.optimizer.learning_rate) == (1, 0.3, 0.001)
    assert config.goal.bytes == 500


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--target-accuracy", 0), ("goal.accuracy", "0.0")),
        (("--target-accuracy", 101), ("goal.accuracy", "101.0")),
        (("--target-accuracy", "nan"), ("goal.accuracy", "nan")),
        (("--target-bytes", 0), ("goal.bytes", "0")),
        (("--target-bytes", -300), ("goal.bytes", "-300")),
        (("--target-accuracy", 90, "--target-bytes", 300), ("goal", "not both")),
        (("--target-accuracy", 90, "--set", "goal.bytes=300"), ("goal", "not both")),
        (("--target-bytes", 300, "--epochs", 0), ("epochs: 0",)),
        (("--target-bytes", 300, "--preset", "thesis-digits"), ("plan", "code_length")),
        (("--set", "goal.accuracy=90"), ("goal", "plan")),
        (("--time-budget", "15"), ("--time-budget 15", "15m")),
        (("--time-budget", "m"), ("--time-budget m", "15m")),
        (("--time-budget", "-3m"), ("--time-budget -3m", "15m")),
        (("--time-budget", "0s"), ("--time-budget 0s", "15m")),
        (("--time-budget", "15 m"), ("--time-budget 15 m", "15m")),
        (("--time-budget", "2d"), ("--time-budget 2d", "15m")),
        (("--time-budget", ""), ("--time-budget", "15m")),
        (("--time-budget", "9s", "--epochs", 3), ("--time-budget", "--epochs")),
        (("--time-budget", "9s", "--target-bytes", 300, "--epochs", 3), ("--time-budget", "--epochs")),
        (("--time-budget", "9s", "--set", "epochs=3"), ("--time-budget", "--epochs")),
        (("--teacher-net", "lenet5"), ("--teacher-net", "--teacher FILE")),
        (("--set", "teacher.share=0.3"), ("teacher.file", "must be given")),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_folder(tmp_path, options, named):
    assert refused(run_metaq(*training(tmp_path / "run"), *options), *named)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options", [("--target-accuracy", "high"), ("--target-bytes", "1.5"), ("--target-bytes", "2k")]
)
def test_targets_that_are_no_numbers_are_refused_by_name(tmp_path, options):
    result = run_metaq(*training(tmp_path / "run"), *options)
    assert result.status == 2
    assert result.out == ""
    assert options[0] in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_a_goal_leaves_the_run_that_is_there_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.metaq").write_bytes(b"precious")
    assert refused(run_metaq(*training(run, epochs=1), "--target-bytes", 300), "--force")
    assert [(path.name, path.read_bytes()) for path in run.iterdir()] == [("model.metaq", b"precious")]


@pytest.mark.parametrize(
    ("duration", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1.5h", 5400), (".5s", 0.5), ("007m", 420)]
)
def test_durations(duration, seconds):
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize(
    "duration", ["", "s", ".s", "1", "1e3s", "1.2.3s", "1m30s", "m1", "0.0h", "+1s", "infs", "nanm"]
)
def test_what_is_no_number_and_unit_is_no_duration(duration):
    with pytest.raises(ConfigError, match="15m"):
        seconds_of(duration)


@pytest.mark.parametrize("goal", [(), ("--target-bytes", 500), ("--target-accuracy", 60)])
def test_a_time_budget_sets_the_number_of_epochs(tmp_path, monkeypatch, goal):
    asked = []

    def five_seconds_an_epoch(config, splits, seconds, **_where):
        asked.append((config.goal.is_given, len(splits.train), seconds))
        return int(seconds / 5)

    monkeypatch.setattr(runs, "epochs_within", five_seconds_an_epoch)
    result = run_metaq(*training(tmp_path / "run"), "--time-budget", "0.25m", *goal, "--json")
    assert result.status == 0, result.err
    assert asked == [(bool(goal), 1197, 15.0)]
    assert result.json["epochs"] == config_of(tmp_path / "run").epochs == len(epochs_of(tmp_path / "run")) == 3


def test_measuring_the_speed_changes_nothing_but_the_number_of_epochs(tmp_path):
    goal = ("--target-bytes", 500)
    measured = run_metaq(*training(tmp_path / "measured"), *goal, "--time-budget", "0.001s", "--json")
    assert measured.status == 0, measured.err
    assert measured.json["epochs"] == 1
    assert run_metaq(*training(tmp_path / "given", epochs=1), *goal).status == 0
    same_run(tmp_path / "measured", tmp_path / "given")
    assert (tmp_path / "measured" / "config.json").read_text() == (tmp_path / "given" / "config.json").read_text()


def test_the_more_time_the_more_epochs():
    config, splits = preset("lenet5-digits").override([f"net={NET}"]), data.load("digits")
    assert runs.epochs_within(config, splits, 1e-9) == 1
    assert runs.epochs_within(config, splits, 36_000.0) > 100


def stops_after(epoch):
    """Whoever follows a run presses Ctrl-C."""

    def on_epoch(_progress, record):
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.slow
@pytest.mark.parametrize("goal", [("--target-accuracy", 70), ("--target-bytes", 400)], ids=str)
def test_an_interrupted_run_to_a_goal_resumes_to_the_identical_file(tmp_path, monkeypatch, goal):
    goal = slowly(goal)
    assert run_metaq(*training(tmp_path / "whole", epochs=12), *goal).status == 0
    for epoch in (3, 8):
        run = tmp_path / f"stopped{epoch}"
        with monkeypatch.context() as patched:
            patched.setattr(output.TrainingProgress, "on_epoch", stops_after(epoch))
            stopped = run_metaq(*training(run, epochs=12), *goal)
        assert stopped.status == 130
        assert f"metaq train --resume {run}" in stopped.err
        assert len(epochs_of(run)) == epoch
        assert not (run / "model.metaq").exists()
        resumed = run_metaq("train", "--resume", run, "--json")
        assert resumed.status == 0, resumed.err
        assert resumed.json["epochs"] == 12
        same_run(tmp_path / "whole", run)


@pytest.mark.slow
def test_a_killed_run_to_a_goal_resumes_to_the_identical_file(tmp_path):
    goal = slowly(("--target-accuracy", 70))
    assert run_metaq(*training(tmp_path / "whole", epochs=12), *goal).status == 0
    run = tmp_path / "killed"
    process = start_metaq(*training(run, epochs=12), *goal)
    wait_for_epochs(run, 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "model.metaq").exists()
    assert run_metaq("train", "--resume", run).status == 0
    same_run(tmp_path / "whole", run)


def constant_teacher(path, label):
    """Weights of a network that sees the same digit in every image."""
    state_dict = nets.create(TEACHER_NET).state_dict()
    for tensor in state_dict.values():
        tensor.zero_()
    state_dict["4.bias"][label] = 20.0
    torch.save(state_dict, path)
    return path


def predictions(run):
    model = nets.create(NET)
    nets.load_weights(model, load(run / "model.metaq"))
    return model(to_float(data.load("digits").test.images)).argmax(dim=1)


def test_the_probabilities_of_a_teacher_are_learned(tmp_path):
    teacher = ("--teacher", constant_teacher(tmp_path / "teacher.pth", 3), "--teacher-net", TEACHER_NET)
    for name, options in {
        "alone": (),
        "unheard": (*teacher, "--set", "teacher.share=0"),
        "half": teacher,
        "only": (*teacher, "--set", "teacher.share=1"),
    }.items():
        result = run_metaq(*training(tmp_path / name, epochs=6), *options)
        assert result.status == 0, result.err
    told_three = {
        name: float((predictions(tmp_path / name) == 3).double().mean()) for name in ("alone", "half", "only")
    }
    assert told_three["alone"] < 0.3 < told_three["only"] == 1.0
    assert told_three["half"] > told_three["alone"]
    same_run(tmp_path / "alone", tmp_path / "unheard")


@pytest.mark.parametrize("form", ["model.metaq", "teacher.safetensors", "teacher.pth"])
def test_a_teacher_is_a_file_of_any_kind_that_another_run_left(tmp_path, form):
    assert run_metaq(*training(tmp_path / "teacher", epochs=1)).status == 0
    file = tmp_path / "teacher" / form
    if form != "model.metaq":
        assert run_metaq("decompress", tmp_path / "teacher" / "model.metaq", "-o", file).status == 0
    run = tmp_path / "run"
    result = run_metaq(*training(run, epochs=2), "--teacher", file, "--target-bytes", 500)
    assert result.status == 0, result.err
    teacher = config_of(run).teacher
    assert teacher is not None
    assert (teacher.file, teacher.net) == (str(file), None)
    assert run_metaq(*training(tmp_path / "alone", epochs=2), "--target-bytes", 500).status == 0
    assert epochs_of(run)[0]["loss"] != epochs_of(tmp_path / "alone")[0]["loss"]


@pytest.mark.slow
def test_a_run_with_a_teacher_resumes_with_it(tmp_path, monkeypatch):
    file = constant_teacher(tmp_path / "teacher.pth", 7)
    teacher = ("--teacher", file, "--teacher-net", TEACHER_NET)
    assert run_metaq(*training(tmp_path / "whole", epochs=3), *teacher).status == 0
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(output.TrainingProgress, "on_epoch", stops_after(2))
        assert run_metaq(*training(run, epochs=3), *teacher).status == 130
    moved = file.rename(tmp_path / "elsewhere.pth")
    assert refused(run_metaq("train", "--resume", run), "teacher.pth")
    moved.rename(file)
    assert run_metaq("train", "--resume", run).status == 0
    same_run(tmp_path / "whole", run)


@pytest.mark.parametrize("goal", [(), ("--target-bytes", 500), ("--time-budget", "0.001s")])
def test_a_teacher_that_cannot_be_read_is_refused(tmp_path, goal):
    good = constant_teacher(tmp_path / "good.pth", 3).read_bytes()
    files = {"missing.pth": None, "empty.pth": b"", "cut.pth": good[: len(good) // 2], "text.metaq": b"no model\n"}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        run = tmp_path / f"run-{name}"
        result = run_metaq(*training(run), *goal, "--teacher", tmp_path / name, "--teacher-net", TEACHER_NET)
        assert refused(result, name)
        assert not run.exists()


@pytest.mark.parametrize(
    ("factory", "named"),
    [("make_of_more_classes", ("11", "10", "--teacher-net")), ("make_of_other_images", ("images", "--net"))],
)
def test_a_teacher_of_other_images_or_classes_is_refused_before_a_run_is_replaced(tmp_path, factory, named):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.metaq").write_bytes(b"precious")
    teacher_net = f"tiny_goal_nets:{factory}"
    torch.save(nets.create(teacher_net).state_dict(), tmp_path / "teacher.pth")
    options = ("--teacher", tmp_path / "teacher.pth", "--teacher-net", teacher_net, "--force")
    assert refused(run_metaq(*training(run), *options), *named)
    assert (run / "model.metaq").read_bytes() == b"precious"


def test_a_teacher_needs_its_own_network(tmp_path):
    file = constant_teacher(tmp_path / "teacher.pth", 3)
    for number, options in enumerate([(), ("--teacher-net", NET), ("--teacher-net", OTHER_NET)]):
        result = run_metaq(*training(tmp_path / f"run{number}"), "--teacher", file, *options)
        assert refused(result, "do not fit the network")
    result = run_metaq(*training(tmp_path / "run"), "--teacher", file, "--teacher-net", "lenet-5")
    assert refused(result, "lenet5")
