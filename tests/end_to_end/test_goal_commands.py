from __future__ import annotations

import json
import signal
import sys

import pytest
import torch

from metaq import BucketGrid, compress, load
from metaq.cli import output
from metaq.cli.train import seconds_of
from metaq.compression.compressed import Goal
from metaq.errors import ConfigError
from metaq.lab import data, nets, runs
from metaq.lab.data import to_float
from metaq.lab.train import TrainConfig, aim, preset

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
FLOAT_BYTES, WEIGHTS = 7880, 1970


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


def epochs_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def config_of(run):
    return TrainConfig.from_json((run / "config.json").read_text())


def goal_of(run):
    return {name: value for name, value in config_of(run).goal.to_dict().items() if value is not None}


@pytest.mark.parametrize(
    ("goal", "limit"),
    [
        (("--target-bytes", 450), 450),
        (("--target-ratio", 20), FLOAT_BYTES // 20),
        (("--target-bits-per-weight", 1.5), int(1.5 * WEIGHTS) // 8),
    ],
    ids=str,
)
def test_files_of_at_most_so_many_bytes(tmp_path, goal, limit):
    run = tmp_path / "run"
    result = run_metaq(*training(run, epochs=20), *goal, "--json")
    assert result.status == 0, result.err
    assert 0.8 * limit < result.json["bytes"] == (run / "model.metaq").stat().st_size <= limit
    assert goal_of(run) == {goal[0][2:].replace("-", "_"): goal[1]}
    assert result.json["kept_epoch"] == 20
    evaluated = run_metaq("evaluate", run / "model.metaq", "--net", NET, "--split", "validation", "--json")
    assert evaluated.json["accuracy"] == result.json["validation_accuracy"] > 60


def test_the_smallest_file_of_at_least_an_accuracy(tmp_path):
    run = tmp_path / "run"
    result = run_metaq(*training(run, epochs=40), "--target-accuracy", 65, "--json")
    assert result.status == 0, result.err
    assert goal_of(run) == {"target_value": 65.0}
    assert result.json["validation_accuracy"] >= 65
    assert result.json["bytes"] < FLOAT_BYTES / 30
    assert "No figure" not in result.err
    evaluated = run_metaq("evaluate", run / "model.metaq", "--net", NET, "--split", "validation", "--json")
    assert evaluated.json["accuracy"] == result.json["validation_accuracy"]


def test_the_smallest_file_so_far_behind_the_best_accuracy(tmp_path):
    run = tmp_path / "run"
    result = run_metaq(*training(run, epochs=40), "--max-drop", 15, "--json")
    assert result.status == 0, result.err
    assert goal_of(run) == {"max_drop": 15.0}
    best = max(epoch["quantized_accuracy"] for epoch in epochs_of(run))
    # The best is taken of running means.
    assert best - 25 < result.json["validation_accuracy"] < best
    assert result.json["bytes"] < FLOAT_BYTES / 20


def test_an_accuracy_out_of_reach_is_told(tmp_path):
    process = start_metaq(*training(tmp_path / "run", epochs=3), "--target-accuracy", 100)
    _, told = process.communicate()
    assert process.returncode == 0
    assert "No figure kept to the goal (target_value=100.0" in told


def test_a_size_is_that_after_hidden_units_are_arranged(tmp_path):
    run, net = tmp_path / "run", "tiny_goal_nets:make_with_hidden_units"
    told = run_metaq("train", "--net", net, "--epochs", 3, "--target-bytes", 5000, "--out", run, "--json")
    assert told.status == 0, told.err
    best = torch.load(run / "checkpoint.pt", weights_only=True)["state"]["best"]
    grids = {name: BucketGrid(**grid) for name, grid in best["grids"].items()}
    as_trained = tmp_path / "as_trained.metaq"
    compress(best["state_dict"], grids=grids, metadata={"net": net, "data": "digits"}).save(as_trained)
    assert 4850 < told.json["bytes"] <= 5000
    assert told.json["bytes"] < as_trained.stat().st_size


def test_progress_tells_about_what_size_every_file_had(tmp_path):
    shown = run_metaq(*training(tmp_path / "run", epochs=2), "--target-bytes", 500)
    assert shown.status == 0, shown.err
    for epoch in epochs_of(tmp_path / "run"):
        assert f"  about {epoch['estimated_bytes']:,.0f} bytes" in shown.err


def test_other_settings_come_after_those_of_a_goal(tmp_path):
    run = tmp_path / "run"
    given = ("--set", "epochs=1", "--set", "regularizer.led_by=step", "--set", "optimizer.learning_rate=0.001")
    result = run_metaq(*training(run), "--target-bytes", 500, *given)
    assert result.status == 0, result.err
    config = config_of(run)
    assert (config.epochs, config.regularizer.led_by, config.optimizer.learning_rate) == (1, "step", 0.001)
    assert config.goal.target_bytes == 500


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--target-accuracy", 0), ("goal.target_value", "0.0")),
        (("--target-accuracy", 101), ("goal.target_value", "101.0")),
        (("--target-accuracy", "nan"), ("target_value", "nan")),
        (("--target-bytes", 0), ("target_bytes", "0")),
        (("--target-bytes", -300), ("target_bytes", "-300")),
        (("--target-bytes", 40), ("goal", "cannot be reached")),
        (("--target-ratio", 0), ("target_ratio", "0.0")),
        (("--target-ratio", 1.5), ("goal", "without training")),
        (("--target-bits-per-weight", "inf"), ("target_bits_per_weight", "inf")),
        (("--max-drop", -1), ("max_drop", "-1.0")),
        (("--target-accuracy", 90, "--target-bytes", 300), ("--target-accuracy", "no other")),
        (("--target-ratio", 20, "--max-drop", 1), ("target_ratio", "max_drop", "give one of them")),
        (("--target-accuracy", 90, "--set", "goal.target_bytes=300"), ("target_bytes", "give one of them")),
        (("--target-bytes", 300, "--epochs", 0), ("epochs: 0",)),
        (("--target-accuracy", 90, "--epochs", 2), ("epochs: 2", "give 3 or more")),
        (("--max-drop", 1, "--epochs", 2), ("epochs: 2", "give 3 or more")),
        (("--target-bytes", 300, "--preset", "thesis-digits"), ("goal", "code_length")),
        (("--target-bytes", 300, "--set", "regularizer.strength=1e-5"), ("goal", "regularizer.strength")),
        (("--target-bytes", 300, "--set", "regularizer.buckets.count=31"), ("buckets", "goal")),
        (("--set", "goal.target_value=90"), ("goal", "regularizer.strength")),
        (("--time-budget", "15"), ("--time-budget 15", "15m")),
        (("--time-budget", "m"), ("--time-budget m", "15m")),
        (("--time-budget", "-3m"), ("--time-budget -3m", "15m")),
        (("--time-budget", "0s"), ("--time-budget 0s", "15m")),
        (("--time-budget", "15 m"), ("--time-budget 15 m", "15m")),
        (("--time-budget", "2d"), ("--time-budget 2d", "15m")),
        (("--time-budget", ""), ("--time-budget", "empty")),
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
    "options",
    [("--target-accuracy", "high"), ("--target-bytes", "1.5"), ("--target-bytes", "2k"), ("--target-ratio", "20x")],
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
        asked.append((config.has_goal, len(splits.train), seconds))
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


@pytest.mark.parametrize("goal", [None, Goal(target_bytes=500), Goal(target_value=60.0), Goal(max_drop=1.0)])
def test_the_more_time_the_more_epochs(goal):
    """And never fewer than what a training to the goal needs."""
    config, splits = preset("lenet5-digits").override([f"net={NET}"]), data.load("digits")
    config = config if goal is None else aim(config, goal, images=len(splits.train))
    assert runs.epochs_within(config, splits, 1e-9) == (3 if config.goal.is_quality else 1)
    assert runs.epochs_within(config, splits, 36_000.0) > 100


def stops_after(epoch):
    """Whoever follows a run presses Ctrl-C."""

    def on_epoch(_progress, record):
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.slow
@pytest.mark.parametrize(
    "goal", [("--target-accuracy", 70), ("--max-drop", 5), ("--target-bytes", 350), ("--target-ratio", 12)], ids=str
)
def test_an_interrupted_run_to_a_goal_resumes_to_the_identical_file(tmp_path, monkeypatch, goal):
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
    goal = ("--target-accuracy", 70)
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


@pytest.mark.slow
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
