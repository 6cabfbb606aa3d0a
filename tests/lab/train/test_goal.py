"""Trainings to a goal: what they end in, and which goals there are."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metaq import load
from metaq.compression.compressed import Goal
from metaq.errors import ConfigError
from metaq.lab import data, nets, runs
from metaq.lab.data import DataSplits
from metaq.lab.train import EpochRecord, TrainConfig, Trainer, accuracy, aim, plain, preset
from metaq.lab.train.config import STEPS_TO_GOAL, InitConfig, TeacherConfig

NETS = """
from torch import nn


def make():
    return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 10))


def make_by_a_name_that_takes_a_good_part_of_a_file_of_a_few_hundred_bytes():
    return make()
"""
NET = "tiny_nets_to_goals:make"
LONG = "tiny_nets_to_goals:make_by_a_name_that_takes_a_good_part_of_a_file_of_a_few_hundred_bytes"
FLOAT_BYTES, WEIGHTS = 7880, 1970


class Silent:
    def on_step(self, step: int, total_steps: int) -> None:
        pass

    def on_epoch(self, record: EpochRecord) -> None:
        pass


class StopsAfter(Silent):
    """Somebody presses Ctrl-C."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self._epoch:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return data.load("digits")


@pytest.fixture
def tiny_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks that are trained in a moment, named like a user's own."""
    (tmp_path / "tiny_nets_to_goals.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("tiny_nets_to_goals", None)


def to_goal(*, net: str = "lenet300", epochs: int = 12, **goal: float) -> TrainConfig:
    config = replace(preset("lenet300-digits"), net=net, augmentation=None)
    return aim(config, Goal(**goal), images=1197, epochs=epochs)


@pytest.mark.parametrize(
    ("goal", "limit"),
    [
        ({"target_bytes": 350}, 350),
        ({"target_bytes": 900}, 900),
        ({"target_ratio": 12.0}, FLOAT_BYTES // 12),
        ({"target_bits_per_weight": 3.0}, 3 * WEIGHTS // 8),
    ],
    ids=str,
)
@pytest.mark.usefixtures("tiny_nets")
def test_a_size_is_that_of_the_whole_file(digits: DataSplits, goal: dict[str, float], limit: int) -> None:
    sizes = []
    for net in (NET, LONG):
        outcome = runs.train_to_folder(to_goal(net=net, **goal), digits, Path(net.partition(":")[2]), Silent())
        assert outcome.summary.bytes == (outcome.folder / runs.MODEL_FILE).stat().st_size
        sizes.append(outcome.summary.bytes)
    assert max(sizes) <= limit
    assert max(sizes) >= 0.9 * limit


def test_a_large_network_fits_into_few_bytes(tmp_path: Path, digits: DataSplits) -> None:
    outcome = runs.train_to_folder(to_goal(epochs=3, target_bytes=2000), digits, tmp_path / "run", Silent())
    assert outcome.summary.bytes <= 2000


@pytest.mark.parametrize("target", [60.0, 100.0])
def test_an_accuracy_is_kept_or_a_warning_says_that_it_is_not(
    tmp_path: Path, digits: DataSplits, caplog: pytest.LogCaptureFixture, target: float
) -> None:
    trainer = Trainer(to_goal(target_value=target), digits, tmp_path, Silent())
    kept = trainer.run()
    model = nets.create("lenet300")
    model.load_state_dict(kept.state_dict)
    assert accuracy(model, digits.validation) == kept.record.quantized_accuracy
    if target == 60.0:
        assert kept.record.quantized_accuracy >= target
        assert caplog.text == ""
    else:
        assert kept.record.quantized_accuracy < target
        assert f"No figure kept to the goal (target_value={target}" in caplog.text


@pytest.mark.usefixtures("tiny_nets")
def test_the_file_holds_what_has_kept_to_an_accuracy(digits: DataSplits) -> None:
    outcome = runs.train_to_folder(to_goal(net=NET, target_value=70.0), digits, Path("run"), Silent())
    model = nets.create(NET)
    nets.load_weights(model, load(outcome.folder / runs.MODEL_FILE))
    assert accuracy(model, digits.validation) == outcome.validation_accuracy >= 70.0
    assert outcome.summary.bytes < FLOAT_BYTES / 10


@pytest.mark.usefixtures("tiny_nets")
def test_the_less_may_be_lost_the_larger_the_file(digits: DataSplits) -> None:
    sizes = [
        runs.train_to_folder(
            to_goal(net=NET, epochs=40, max_drop=drop), digits, Path(str(drop)), Silent()
        ).summary.bytes
        for drop in (0.5, 10.0, 100.0)
    ]
    assert sizes == sorted(set(sizes), reverse=True)


def test_what_is_kept_are_the_last_weights_as_the_goal_has_left_them(tmp_path: Path, digits: DataSplits) -> None:
    trainer = Trainer(to_goal(epochs=3, target_bytes=3000), digits, tmp_path, Silent())
    kept = trainer.run()
    assert kept.record.epoch == 3
    assert kept.grids.keys() == kept.state_dict.keys()
    for name, weights in kept.state_dict.items():
        grid = kept.grids[name]
        values = torch.from_numpy(grid.values_of(grid.assign(weights.double().numpy()))).float()
        assert torch.equal(values, weights)
    assert all(torch.equal(tensor, kept.state_dict[name]) for name, tensor in trainer.model.state_dict().items())


@pytest.mark.parametrize(
    "goal", [{"target_bytes": 350}, {"target_bytes": 700}, {"target_value": 70.0}, {"max_drop": 5.0}], ids=str
)
@pytest.mark.usefixtures("tiny_nets")
def test_a_stopped_run_goes_on_to_the_same_file(digits: DataSplits, goal: dict[str, float]) -> None:
    config = to_goal(net=NET, epochs=8, **goal)
    whole = runs.train_to_folder(config, digits, Path("whole"), Silent())
    for epoch in (1, 4, 8):
        folder = Path(f"stopped{epoch}")
        with pytest.raises(KeyboardInterrupt):
            runs.train_to_folder(config, digits, folder, StopsAfter(epoch))
        resumed = runs.resume_in_folder(folder, digits, Silent())
        files = [(run.folder / runs.MODEL_FILE).read_bytes() for run in (whole, resumed)]
        assert files[0] == files[1]
        assert resumed.validation_accuracy == whole.validation_accuracy


@pytest.mark.parametrize("goal", [{"target_value": 70.0}, {"max_drop": 5.0}, {"target_bytes": 500}], ids=str)
@pytest.mark.usefixtures("tiny_nets")
def test_weights_that_are_trained_already_are_pressed_from_the_first_step(
    digits: DataSplits, goal: dict[str, float]
) -> None:
    start = runs.train_to_folder(
        plain(replace(preset("lenet300-digits"), net=NET, epochs=6)), digits, Path("float"), Silent()
    )
    config = replace(to_goal(net=NET, epochs=4, **goal), start=str(start.folder / runs.MODEL_FILE))
    config = aim(config, config.goal, images=1197, epochs=4)
    assert config.regularizer.warmup == 0
    trainer = Trainer(config, digits, Path("float"), Silent(), start=load(start.folder / runs.MODEL_FILE))
    kept = trainer.run()
    assert trainer.records[0].bits < 8 * WEIGHTS
    assert kept.record.quantized_accuracy > 65


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ({"target_bytes": 30}, "cannot be reached; with every weight at zero"),
        ({"target_ratio": 1.1}, "reaches that without training"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_trained(
    tmp_path: Path, digits: DataSplits, goal: dict[str, float], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        runs.train_to_folder(to_goal(**goal), digits, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("goal", [{"target_value": 90.0}, {"max_drop": 1.0}])
def test_an_accuracy_needs_three_epochs(goal: dict[str, float]) -> None:
    for epochs in (1, 2):
        with pytest.raises(ConfigError, match=f"epochs: {epochs} leave no time to measure accuracies; give 3"):
            to_goal(epochs=epochs, **goal)
    assert to_goal(epochs=3, **goal).epochs == 3
    assert to_goal(epochs=1, target_bytes=900).epochs == 1


SOME_GOAL = Goal(target_value=98.0)


@pytest.mark.parametrize("images", [1, 63, 1197, 10_000, 59_000, 10_000_000])
@pytest.mark.parametrize("batch_size", [64, 256])
def test_about_as_many_steps_whatever_the_number_of_images(images, batch_size):
    goal = Goal(target_bytes=900)
    config = aim(replace(preset("lenet5-mnist"), batch_size=batch_size), goal, images=images)
    steps_per_epoch = math.ceil(images / config.batch_size)
    assert config.epochs >= 1
    assert config.epochs == 1 or abs(config.epochs * steps_per_epoch - STEPS_TO_GOAL) <= steps_per_epoch / 2


def test_few_images_come_in_smaller_batches():
    large = replace(preset("lenet5-mnist"), batch_size=256)
    assert aim(large, SOME_GOAL, images=59_000).batch_size == 256
    assert aim(large, SOME_GOAL, images=1197).batch_size < 256


def test_a_given_number_of_epochs_is_kept():
    config = aim(preset("lenet5-mnist"), SOME_GOAL, images=1197, epochs=7)
    assert config.epochs == 7
    assert config.batch_size == aim(preset("lenet5-mnist"), SOME_GOAL, images=1197).batch_size


def test_aiming_keeps_what_is_learned_and_plans_the_rest():
    teacher = TeacherConfig(file="teacher.metaq", net="lenet300", share=0.25)
    changes = {
        "seed": 5,
        "validation_count": 77,
        "teacher": teacher,
        "init": InitConfig(),
    }
    config = replace(preset("lenet300-digits"), augmentation=None, **changes)
    config = config.override(["optimizer.name=sgd", "regularizer.exclude=fc3.bias"])
    aimed = aim(config, Goal(target_bytes=900), images=1197)
    for name in ("net", "data", "augmentation", *changes):
        assert getattr(aimed, name) == getattr(config, name)
    assert aimed.goal == Goal(target_bytes=900)
    assert aimed.optimizer.name == "sgd"
    assert aimed.regularizer.exclude == ("fc3.bias",)
    assert aimed.regularizer.strength is None
    assert aimed.regularizer.led_by == "strength"
    assert TrainConfig.from_json(aimed.to_json()) == aimed


def test_a_problem_that_is_not_about_bits_has_no_goal():
    with pytest.raises(ConfigError, match="code_length"):
        aim(preset("thesis"), SOME_GOAL, images=59_000)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"target_value": 0.0}, r"goal\.target_value: 0\.0 is no accuracy"),
        ({"target_value": -3.0}, r"goal\.target_value: -3\.0 is no accuracy"),
        ({"target_value": 100.1}, r"goal\.target_value: 100\.1 is no accuracy"),
        ({"target_value": math.nan}, "target_value: nan"),
        ({"target_bytes": 0}, "target_bytes: 0 must be positive"),
        ({"target_bytes": -1}, "target_bytes: -1 must be positive"),
        ({"target_ratio": 0.0}, r"target_ratio: 0\.0 must be positive"),
        ({"target_bits_per_weight": math.inf}, "target_bits_per_weight: inf must be positive"),
        ({"max_drop": -0.1}, r"max_drop: -0\.1 must be zero or more"),
        ({"keep": 0.99}, r"goal\.keep: is for metaq\.compress"),
        ({"target_value": 99.0, "larger_is_better": False}, r"goal\.larger_is_better"),
        ({"target_value": 99.0, "target_bytes": 900}, "give one of them"),
        ({"target_ratio": 20.0, "max_drop": 1.0}, "give one of them"),
    ],
)
def test_goals_that_cannot_be_are_refused(values: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        aim(preset("lenet5-digits"), Goal(**values), images=1197)


@pytest.mark.parametrize(
    "goal", [{"target_value": 100.0}, {"target_value": 1e-3}, {"target_bytes": 1}, {"max_drop": 0.0}], ids=str
)
def test_goals_at_the_ends_of_their_ranges(goal: dict[str, float]) -> None:
    assert aim(preset("lenet5-digits"), Goal(**goal), images=1197).has_goal


@pytest.mark.parametrize("goal", [Goal(target_value=99.0), Goal(target_bytes=900)])
def test_there_is_either_a_goal_or_a_strength(goal: Goal) -> None:
    config = preset("lenet5-digits")
    assert not config.has_goal
    with pytest.raises(ConfigError, match=r"either a goal or regularizer\.strength"):
        replace(config, goal=goal)
    driven = replace(config.regularizer, strength=None)
    with pytest.raises(ConfigError, match=r"either a goal or regularizer\.strength"):
        replace(config, regularizer=driven)
    assert replace(config, goal=goal, regularizer=driven).goal == goal


def test_without_the_term_there_is_no_goal() -> None:
    assert not plain(to_goal(target_bytes=900)).has_goal


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_shares_of_a_teacher_out_of_range_are_refused(share):
    with pytest.raises(ConfigError, match=r"teacher\.share"):
        TeacherConfig(file="teacher.metaq", share=share)


def test_a_teacher_may_count_for_nothing_or_everything():
    assert [TeacherConfig(file="teacher.metaq", share=share).share for share in (0.0, 1.0)] == [0.0, 1.0]


def test_goal_and_teacher_survive_json_and_overrides():
    config = aim(replace(preset("lenet5-digits"), teacher=TeacherConfig(file="a.pth")), SOME_GOAL, images=1197)
    assert TrainConfig.from_json(config.to_json()) == config
    goal = ("goal.target_value=none", "goal.target_bytes=900")
    changed = config.override([*goal, "teacher.share=0.25", "teacher.net=lenet300"])
    assert changed.goal == Goal(target_bytes=900)
    assert changed.teacher == TeacherConfig(file="a.pth", net="lenet300", share=0.25)
    assert config.override(["teacher=none"]).teacher is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"goal": {"target_byte": 99}}, r"goal\.target_byte.*target_bytes"),
        ({"goal": {"target_bytes": 900.5}}, r"goal\.target_bytes"),
        ({"goal": {"target_bytes": True}}, r"goal\.target_bytes"),
        ({"goal": {"target_value": "99"}}, r"goal\.target_value"),
        ({"goal": {"target_value": 99.0}}, r"regularizer\.strength"),
        ({"goal": 99.0}, "goal"),
        ({"teacher": {"file": 3}}, r"teacher\.file"),
        ({"teacher": {"file": "a.pth", "shares": 0.5}}, r"teacher\.shares.*share"),
        ({"teacher": "a.pth"}, "teacher"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(values, named):
    with pytest.raises(ConfigError, match=named):
        TrainConfig.from_dict(values)


def test_no_epochs_are_refused():
    with pytest.raises(ConfigError, match="epochs"):
        aim(preset("lenet5-digits"), Goal(target_bytes=900), images=1197, epochs=0)


def test_the_network_to_compare_with_has_neither_goal_nor_its_way():
    aimed = aim(preset("lenet5-mnist"), SOME_GOAL, images=59_000)
    assert aimed.regularizer.led_by == "strength"
    assert plain(aimed).regularizer.led_by == "step"
    assert plain(aimed).is_plain
    assert not plain(aimed).has_goal
