from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from metaq.errors import ConfigError
from metaq.lab import data
from metaq.lab.data import DataSplits
from metaq.lab.train import EpochRecord, GoalConfig, TrainConfig, Trainer, aim, preset
from metaq.lab.train.config import STEPS_TO_GOAL, InitConfig, StopConfig, TeacherConfig
from metaq.lab.train.goal import Goal
from metaq.regularizer.config import PlanConfig, RegularizerConfig
from metaq.regularizer.schedule import PlannedSchedule, phase_at, schedule_of

WARMUP = 0.1
PLAN = PlanConfig(press=0.5, fall=0.8, undershoot=0.8, settle=0.3)
FALLING, RISING, SETTLED = 0.3, 0.55, 0.65
"""Shares of all steps at which the bits fall, rise again, and weights are frozen."""

IMAGES = 1_000_000


def record(accuracy=95.0, *, bits=8000.0, file_bytes=1200):
    return EpochRecord(
        epoch=1,
        loss=1.0,
        float_accuracy=99.0,
        quantized_accuracy=accuracy,
        phi_bits=bits,
        bits=bits,
        bits_per_weight=bits / 1000,
        estimated_bytes=bits / 8,
        file_bytes=file_bytes,
        distance=0.0,
        frozen=0,
        strength=1e-5,
        seconds=1.0,
    )


def driven(**target) -> tuple[Goal, PlannedSchedule]:
    schedule = schedule_of(RegularizerConfig(warmup=WARMUP, plan=PLAN), weights=1000)
    assert isinstance(schedule, PlannedSchedule)
    return Goal(GoalConfig(**target), schedule, images=IMAGES), schedule


def speed_after(accuracies, *, target=95.0) -> float:
    goal, schedule = driven(accuracy=target)
    for accuracy in accuracies:
        goal.steer(record(accuracy), FALLING, FALLING + 0.01)
    return schedule.speed


def test_the_times_used_here_lie_in_the_phases_they_are_named_after():
    assert [phase_at(PLAN, WARMUP, at).kind for at in (FALLING, RISING, SETTLED)] == ["press", "press", "settle"]
    _, schedule = driven(accuracy=95.0)
    assert not schedule.rises_at(FALLING)
    assert schedule.rises_at(RISING)


def falls_steadily(speeds) -> bool:
    """From full speed to rising bits, over several speeds between."""
    between = [speed for speed in speeds if speeds[-1] < speed < 1.0]
    ordered = list(speeds) == sorted(speeds, reverse=True)
    return ordered and len(set(between)) > 3 and speeds[0] == 1.0 and -1.0 <= speeds[-1] < 0.0


def test_the_less_accurate_the_slower_the_bits_fall_until_they_rise():
    assert falls_steadily([speed_after([accuracy / 4]) for accuracy in range(400, -1, -1)])


def test_the_higher_the_target_the_slower_the_bits_fall():
    assert falls_steadily([speed_after([90.0], target=target / 20) for target in range(1600, 2001)])


def test_bits_still_fall_while_the_accuracy_is_just_met_as_settling_gives_some_back():
    assert speed_after([95.0]) > 0.0


@pytest.fixture(scope="module")
def neutral() -> float:
    """Error, in percent, at which the bits are held."""
    return min((error / 100 for error in range(1, 10_000)), key=lambda error: abs(speed_after([100 - error])))


def test_one_bad_epoch_slows_less_than_several(neutral):
    good, bad = 100 - 0.7 * neutral, 100 - 1.05 * neutral
    speeds = [speed_after([good, good, *[bad] * count]) for count in range(4)]
    assert all(later < earlier for earlier, later in itertools.pairwise(speeds))
    assert speed_after([bad]) < speeds[-1]
    assert speed_after([good]) == pytest.approx(speeds[0])


def test_one_good_epoch_does_not_undo_bad_ones(neutral):
    good, bad = 100 - 0.7 * neutral, 100 - 1.05 * neutral
    assert speed_after([bad, bad]) < speed_after([bad, bad, good]) < speed_after([good])


def test_nothing_is_steered_in_the_warm_up():
    for target in ({"accuracy": 95.0}, {"bytes": 600}):
        goal, schedule = driven(**target)
        for end in (0.02, 0.05, 0.09):
            goal.steer(record(10.0), end, end + 0.01)
        assert schedule.goal is None
        assert schedule.speed == 1.0
        goal.steer(record(88.0), FALLING, FALLING + 0.01)
        assert schedule.speed == (speed_after([88.0]) if "accuracy" in target else 1.0)


@pytest.mark.parametrize(("before", "epoch"), [(0.02, 0.01), (0.02, 0.2), (FALLING, 0.01), (FALLING, 0.15)])
def test_between_two_looks_at_the_accuracy_the_bits_are_halved_at_most(before, epoch):
    goal, schedule = driven(accuracy=95.0)
    goal.steer(record(99.9), before, before + epoch)
    asked = schedule.speed * math.log(PLAN.deepest) / PLAN.press * epoch
    assert asked <= math.log(2) * (1 + 1e-12)
    assert schedule.speed == 1.0 or asked == pytest.approx(math.log(2))


@pytest.mark.parametrize("following", [0.51, RISING, SETTLED])
def test_the_epoch_before_the_rise_sets_the_lowest_point(following):
    goal, schedule = driven(accuracy=95.0)
    goal.steer(record(99.0, bits=20_000.0), 0.4, 0.45)
    assert schedule.goal is None
    goal.steer(record(91.0, bits=8000.0), 0.49, following)
    assert schedule.goal == pytest.approx(8000 / PLAN.undershoot)
    settled_on = schedule.goal
    goal.steer(record(50.0, bits=9000.0), RISING, RISING + 0.01)
    goal.steer(record(99.0, bits=9500.0), SETTLED, SETTLED + 0.01)
    assert schedule.goal == settled_on


def test_as_weights_settle_the_goal_stays():
    goal, schedule = driven(accuracy=95.0)
    schedule.goal = 5000.0
    for end in (0.61, 0.68, 0.71, 0.73, 0.76, 0.79, 0.95):
        goal.steer(record(20.0), end, end + 0.005)
    assert schedule.goal == 5000.0


def test_where_no_error_is_allowed_one_image_is():
    assert speed_after([100.0], target=100.0) > 0.0 > speed_after([99.9], target=100.0)


@pytest.mark.parametrize("end", [FALLING, RISING, SETTLED, 0.9])
def test_a_size_becomes_bits_by_what_a_bit_costs_in_the_file(end):
    goal, schedule = driven(bytes=600)
    goal.steer(record(20.0, bits=8000.0, file_bytes=1200), end, end + 0.01)
    assert schedule.goal == pytest.approx(4000)
    goal.steer(record(99.0, bits=4000.0, file_bytes=500), end + 0.01, end + 0.02)
    assert schedule.goal == pytest.approx(4800)
    assert schedule.speed == 1.0


def best_first(target, *candidates):
    """The candidates in falling rank; each is (accuracy, file_bytes) or (accuracy, file_bytes, progress)."""
    goal, _ = driven(**target)

    def rank(candidate):
        accuracy, file_bytes, *progress = candidate
        return goal.rank(record(accuracy, file_bytes=file_bytes), *(progress or [SETTLED]))

    return sorted(candidates, key=rank, reverse=True)


def test_for_an_accuracy_the_smallest_that_meets_it_comes_first():
    met = [(95.0, 700), (96.0, 800), (95.5, 800), (99.9, 900)]
    missed = [(94.999, 600), (94.9, 900), (94.9, 1000), (94.8, 100), (0.0, 10)]
    expected = [*met, *missed]
    assert best_first({"accuracy": 95.0}, *reversed(expected)) == expected
    assert best_first({"accuracy": 95.0}, *sorted(expected)) == expected


def test_for_a_size_the_most_accurate_that_fits_comes_first():
    expected = [(96.0, 600), (95.0, 500), (95.0, 600), (80.0, 100), (85.0, 601), (81.0, 601), (99.0, 700), (99.9, 9000)]
    assert best_first({"bytes": 600}, *reversed(expected)) == expected
    assert best_first({"bytes": 600}, *sorted(expected)) == expected


@pytest.mark.parametrize("target", [{"accuracy": 95.0}, {"bytes": 600}])
def test_settled_weights_come_before_all_others(target):
    better, worse = (99.0, 100), (20.0, 5000)
    unsettled = [(*better, at) for at in (0.05, FALLING, RISING, 0.599)]
    for settled in ((*worse, SETTLED), (*worse, 0.7), (*worse, 0.79), (*worse, 1.0)):
        assert best_first(target, *unsettled, settled)[0] == settled


@pytest.mark.parametrize("target", [{"accuracy": 95.0}, {"bytes": 600}])
def test_a_goal_goes_on_from_its_state(target):
    (whole, schedule), (resumed, resumed_schedule) = driven(**target), driven(**target)
    epochs = [(90.0, 0.2), (78.0, 0.25), (85.0, 0.3), (83.0, 0.35), (84.0, 0.4), (90.0, 0.495), (93.0, 0.7)]
    for number, (accuracy, end) in enumerate(epochs):
        whole.steer(record(accuracy), end, end + 0.01)
        if number == 2:
            resumed.load_state_dict(whole.state_dict())
            resumed_schedule.load_state_dict(schedule.state_dict())
        if number > 2:
            resumed.steer(record(accuracy), end, end + 0.01)
            assert (resumed_schedule.goal, resumed_schedule.speed) == (schedule.goal, schedule.speed)
    assert math.isfinite(schedule.goal)


class Silent:
    def on_step(self, step, total_steps):
        pass

    def on_epoch(self, record):
        pass


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    splits = data.load("digits")
    return replace(
        splits, train=replace(splits.train, images=splits.train.images[:320], labels=splits.train.labels[:320])
    )


SETTLING_EARLY = PlanConfig(press=0.2, settle=0.72)


def short(goal) -> TrainConfig:
    config = aim(replace(preset("lenet300-digits"), batch_size=64), goal, images=320, epochs=6)
    return replace(config, regularizer=replace(config.regularizer, plan=SETTLING_EARLY))


def test_one_lucky_epoch_is_not_taken_at_its_word():
    ranks = {}
    for name, accuracies in {"lucky": [94.0, 94.0, 95.2], "steady": [95.2, 95.2, 95.2]}.items():
        goal, _ = driven(accuracy=95.0)
        for accuracy in accuracies:
            goal.steer(record(accuracy), SETTLED, SETTLED + 0.01)
        ranks[name] = goal.rank(record(accuracies[-1], file_bytes=600 if name == "lucky" else 700), SETTLED)
    assert ranks["steady"] > ranks["lucky"]


def test_a_run_keeps_the_settled_epoch_that_ranks_highest(tmp_path, digits):
    sizes = [100, 900, 600, 400, 450, 900]
    told = iter(sizes)
    config = short(GoalConfig(bytes=500))
    trainer = Trainer(config, digits, tmp_path, Silent(), file_bytes=lambda _weights, _grids: next(told))
    kept = trainer.run()
    assert [one.file_bytes for one in trainer.records] == sizes
    fitting = [one for one in trainer.records if one.epoch in (4, 5)]
    assert kept.record == max(fitting, key=lambda one: (one.quantized_accuracy, -one.file_bytes))


def test_a_file_is_measured_from_the_weights_and_grids_that_would_be_kept(tmp_path, digits):
    seen = []

    def count(weights, grids):
        seen.append({name: grid.assign(weights[name].double().numpy()) for name, grid in grids.items()})
        assert all(
            (grid.values_of(seen[-1][name]).astype("float32") == weights[name].numpy()).all()
            for name, grid in grids.items()
        )
        return 1000 + len(seen)

    config = replace(short(GoalConfig(accuracy=50.0)), epochs=2)
    trainer = Trainer(config, digits, tmp_path, Silent(), file_bytes=count)
    trainer.run()
    assert [one.file_bytes for one in trainer.records] == [1001, 1002]
    assert seen[0].keys() == {name for name, _ in trainer.model.named_parameters()}


def test_without_a_goal_no_file_is_measured(tmp_path, digits):
    config = replace(preset("lenet300-digits"), epochs=1)
    trainer = Trainer(config, digits, tmp_path, Silent(), file_bytes=lambda _weights, _grids: pytest.fail("measured"))
    assert trainer.run().record.file_bytes is None


def test_a_goal_needs_a_way_to_measure_files(tmp_path, digits):
    with pytest.raises(ConfigError, match="measure files"):
        Trainer(short(GoalConfig(bytes=500)), digits, tmp_path, Silent())


SOME_GOAL = GoalConfig(accuracy=98.0)


@pytest.mark.parametrize("images", [1, 63, 1197, 10_000, 59_000, 10_000_000])
@pytest.mark.parametrize("batch_size", [64, 256])
def test_about_as_many_steps_whatever_the_number_of_images(images, batch_size):
    config = aim(replace(preset("lenet5-mnist"), batch_size=batch_size), SOME_GOAL, images=images)
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
        "stop": StopConfig(bits=9.0),
    }
    config = replace(preset("lenet300-digits"), augmentation=None, **changes)
    config = config.override(["optimizer.name=sgd", "regularizer.exclude=fc3.bias", "regularizer.buckets.count=31"])
    aimed = aim(config, GoalConfig(bytes=900), images=1197)
    for name in ("net", "data", "augmentation", *changes):
        assert getattr(aimed, name) == getattr(config, name)
    assert aimed.goal == GoalConfig(bytes=900)
    assert aimed.optimizer.name == "sgd"
    assert aimed.regularizer.exclude == ("fc3.bias",)
    assert aimed.regularizer.buckets.count == 31
    assert aimed.regularizer.plan is not None
    assert TrainConfig.from_json(aimed.to_json()) == aimed


def test_a_problem_that_is_not_about_bits_has_no_goal():
    with pytest.raises(ConfigError, match="code_length"):
        aim(preset("thesis"), SOME_GOAL, images=59_000)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"accuracy": 0.0}, r"goal\.accuracy: 0\.0"),
        ({"accuracy": -3.0}, r"goal\.accuracy: -3\.0"),
        ({"accuracy": 100.1}, r"goal\.accuracy: 100\.1"),
        ({"accuracy": math.nan}, r"goal\.accuracy: nan"),
        ({"bytes": 0}, r"goal\.bytes: 0"),
        ({"bytes": -1}, r"goal\.bytes: -1"),
        ({"accuracy": 99.0, "bytes": 900}, "not both"),
    ],
)
def test_goals_that_cannot_be_are_refused(values, named):
    with pytest.raises(ConfigError, match=named):
        GoalConfig(**values)


def test_goals_at_the_ends_of_their_ranges():
    assert GoalConfig(accuracy=100.0).is_given
    assert GoalConfig(accuracy=1e-3).is_given
    assert GoalConfig(bytes=1).is_given
    assert not GoalConfig().is_given


@pytest.mark.parametrize("goal", [GoalConfig(accuracy=99.0), GoalConfig(bytes=900)])
def test_a_goal_needs_a_plan(goal):
    with pytest.raises(ConfigError, match=r"regularizer\.plan"):
        replace(preset("lenet5-digits"), goal=goal)
    planned = replace(preset("lenet5-digits"), regularizer=RegularizerConfig(plan=PLAN))
    assert replace(planned, goal=goal).goal == goal


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_shares_of_a_teacher_out_of_range_are_refused(share):
    with pytest.raises(ConfigError, match=r"teacher\.share"):
        TeacherConfig(file="teacher.metaq", share=share)


def test_a_teacher_may_count_for_nothing_or_everything():
    assert [TeacherConfig(file="teacher.metaq", share=share).share for share in (0.0, 1.0)] == [0.0, 1.0]


def test_goal_and_teacher_survive_json_and_overrides():
    config = aim(replace(preset("lenet5-digits"), teacher=TeacherConfig(file="a.pth")), SOME_GOAL, images=1197)
    assert TrainConfig.from_json(config.to_json()) == config
    changed = config.override(["goal.accuracy=none", "goal.bytes=900", "teacher.share=0.25", "teacher.net=lenet300"])
    assert changed.goal == GoalConfig(bytes=900)
    assert changed.teacher == TeacherConfig(file="a.pth", net="lenet300", share=0.25)
    assert config.override(["teacher=none"]).teacher is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"goal": {"accurcy": 99.0}}, r"goal\.accurcy.*accuracy"),
        ({"goal": {"bytes": 900.5}}, r"goal\.bytes"),
        ({"goal": {"bytes": True}}, r"goal\.bytes"),
        ({"goal": {"accuracy": "99"}}, r"goal\.accuracy"),
        ({"goal": {"accuracy": 99.0}}, r"regularizer\.plan"),
        ({"goal": 99.0}, "goal"),
        ({"teacher": {"file": 3}}, r"teacher\.file"),
        ({"teacher": {"file": "a.pth", "shares": 0.5}}, r"teacher\.shares.*share"),
        ({"teacher": "a.pth"}, "teacher"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(values, named):
    with pytest.raises(ConfigError, match=named):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize("target", [{"bytes": 600}, {"accuracy": 95.0}])
def test_bits_that_collapse_to_none_do_not_end_the_training(target):
    goal, schedule = driven(**target)
    goal.steer(record(bits=0.0), 0.49, 0.51)
    schedule.observe(0.0, 0.51)
    assert schedule.strength(0.51) > 0


def test_no_epochs_are_refused():
    with pytest.raises(ConfigError, match="epochs"):
        aim(preset("lenet5-digits"), GoalConfig(bytes=900), images=1197, epochs=0)
