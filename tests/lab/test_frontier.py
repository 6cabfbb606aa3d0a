from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from metaq.compression.compressed import Goal
from metaq.errors import ConfigError, MetaqError
from metaq.lab import data, runs
from metaq.lab.frontier import Settled, SweepPlan, Trial, draw, execution, frontier_of, is_hopeless
from metaq.lab.frontier import study as studies
from metaq.lab.train import EpochRecord, TrainConfig, aim

optuna = pytest.importorskip("optuna")
TrialState = optuna.trial.TrialState


def trial(number, size, accuracy, settled=()):
    epochs = tuple(Settled(*epoch) for epoch in settled)
    return Trial(number=number, parameters={}, bytes=size, validation_accuracy=accuracy, file="", settled=epochs)


def test_the_frontier_holds_what_no_other_trial_beats():
    trials = [
        trial(number, size, accuracy)
        for number, (size, accuracy) in enumerate(itertools.product((300, 100, 200), (97.0, 99.0, 98.0)))
        if (size, accuracy) not in ((100, 99.0), (100, 98.0), (200, 99.0))
    ]
    found = frontier_of(trials)
    assert [(member.bytes, member.validation_accuracy) for member in found] == [(100, 97.0), (200, 98.0), (300, 99.0)]
    for one in trials:
        beaten = any(
            (other.bytes, -other.validation_accuracy) != (one.bytes, -one.validation_accuracy)
            and other.bytes <= one.bytes
            and other.validation_accuracy >= one.validation_accuracy
            for other in trials
        )
        assert beaten == (one not in found)


def test_of_equal_trials_the_first_is_on_the_frontier_and_an_empty_study_has_none():
    assert [member.number for member in frontier_of([trial(4, 100, 97.0), trial(2, 100, 97.0)])] == [2]
    assert frontier_of([]) == []


COMPLETED = [
    trial(0, 1000, 98.0, [(0.6, 95.0), (0.8, 97.5)]),
    trial(1, 500, 96.0, [(0.6, 95.5), (0.8, 95.75)]),
    trial(2, 2000, 99.0, [(0.6, 98.5), (0.8, 98.75)]),
    trial(3, 900, 90.0, [(0.6, 90.5), (0.8, 90.0)]),
]


@pytest.mark.parametrize(
    ("share", "accuracy", "goal_bytes", "hopeless"),
    [
        (0.6, 94.9, 1000, True),  # 94.9 + 3 < 98
        (0.6, 95.0, 1000, False),  # may just reach it
        (0.8, 97.4, 1000, True),  # only 0.5 is still to come
        (0.8, 97.5, 1000, False),
        (0.8, 97.4, 999, False),  # no completed trial of that size is better
        (0.8, 0.0, 499, False),
        (0.5, 0.0, 3000, False),  # nothing is known of so early a share
    ],
)
def test_a_trial_is_hopeless_if_the_largest_gain_leaves_it_dominated(share, accuracy, goal_bytes, hopeless):
    assert is_hopeless(Settled(share, accuracy), goal_bytes=goal_bytes, completed=COMPLETED) is hopeless


def test_nothing_is_hopeless_before_four_trials_are_completed():
    assert not is_hopeless(Settled(0.8, 0.0), goal_bytes=3000, completed=COMPLETED[:3])


def test_a_loss_after_the_share_counts_as_no_gain():
    fallen = [trial(number, 100, 90.0, [(0.8, 95.0)]) for number in range(4)]
    assert not is_hopeless(Settled(0.8, 90.0), goal_bytes=100, completed=fallen)
    assert is_hopeless(Settled(0.8, 89.9), goal_bytes=100, completed=fallen)


class Follower:
    def __init__(self):
        self.told = []

    def on_step(self, step, total_steps):
        pass

    def on_epoch(self, record):
        pass

    def on_trial(self, number, done):
        self.told.append((number, done))

    def on_wait(self, running):
        raise AssertionError(f"waits for {running}")


def epoch_of(config, epoch, accuracy):
    return EpochRecord(
        epoch=epoch,
        loss=1.0,
        float_accuracy=accuracy,
        quantized_accuracy=accuracy,
        phi_bits=1.0,
        bits=8.0 * config.goal.target_bytes,
        bits_per_weight=1.0,
        estimated_bytes=float(config.goal.target_bytes),
        distance=0.0,
        frozen=0,
        strength=1.0,
        seconds=0.0,
    )


class Trainings:
    """Stands in for the trainings of a sweep: accuracy grows with size, except where it is told otherwise."""

    def __init__(self, monkeypatch):
        self.configs, self.poor, self.interrupted = [], set(), set()
        self.measured = []
        monkeypatch.setattr(runs, "train_to_folder", self.train)
        monkeypatch.setattr(runs, "measure_file", self.measure)

    def train(self, config, splits, folder, observer):
        assert splits.test is splits.validation
        number = int(folder.name)
        self.configs.append(config)
        if number in self.interrupted:
            raise KeyboardInterrupt
        accuracy = 1.0 if number in self.poor else 90 + config.goal.target_bytes / 1000
        for epoch in range(1, config.epochs + 1):
            observer.on_epoch(epoch_of(config, epoch, accuracy))
        folder.mkdir(parents=True)
        for name in (runs.MODEL_FILE, runs.SUMMARY_FILE):
            (folder / name).write_text("")
        return SimpleNamespace(summary=SimpleNamespace(bytes=config.goal.target_bytes, accuracy=accuracy))

    def measure(self, path, *, load_dataset, **_):
        self.measured.append(path)
        assert load_dataset() is SPLITS.test
        return SimpleNamespace(accuracy=50.0)


SPLITS = data.load("digits")


@pytest.fixture
def trainings(monkeypatch):
    return Trainings(monkeypatch)


def plan_in(folder, **values):
    config = aim(TrainConfig(net="lenet5", data="digits"), Goal(target_bytes=1), images=1000, epochs=10)
    return SweepPlan(**{"config": config, "trials": 6, "smallest": 100, "largest": 5000, "folder": folder, **values})


def proposals(found):
    return [done.parameters for done in found.trials]


STUDY = "lenet5 on digits"


def database(plan):
    return f"sqlite:///{plan.folder / 'study.db'}"


def states(plan):
    study = optuna.load_study(study_name=STUDY, storage=database(plan))
    found = [done.state for done in study.trials]
    study._storage._backend.engine.dispose()
    return found


def test_trials_differ_only_in_what_is_proposed(tmp_path, trainings):
    plan = plan_in(tmp_path)
    found = draw(plan, SPLITS, Follower())
    assert len(trainings.configs) == 6
    for config, proposed in zip(trainings.configs, proposals(found), strict=True):
        assert 100 <= config.goal.target_bytes <= 5000
        assert config == plan.config.override(f"{key}={value!r}" for key, value in proposed.items())
    assert len({config.goal.target_bytes for config in trainings.configs}) == 6


def test_a_study_goes_on_as_if_it_had_not_stopped(tmp_path, trainings):
    whole = draw(plan_in(tmp_path / "whole", trials=11), SPLITS, Follower())
    draw(plan_in(tmp_path / "parts", trials=4), SPLITS, Follower())
    trainings.configs.clear()
    parts = draw(plan_in(tmp_path / "parts", trials=11), SPLITS, Follower())
    assert len(trainings.configs) == 7
    assert proposals(parts) == proposals(whole)
    other = draw(plan_in(tmp_path / "other", config=seeded(1), trials=1), SPLITS, Follower())
    assert proposals(other) != proposals(whole)[:1]


def seeded(seed):
    return replace(plan_in(None).config, seed=seed)


def test_a_finished_study_trains_nothing_and_measures_no_file_twice(tmp_path, trainings):
    first = draw(plan_in(tmp_path), SPLITS, Follower())
    measured = list(trainings.measured)
    assert measured == [member.trial.file for member in first.members]
    trainings.configs.clear()
    assert draw(plan_in(tmp_path), SPLITS, Follower()) == first
    assert trainings.configs == []
    assert trainings.measured == measured


def test_a_dominated_trial_is_given_up_and_counts(tmp_path, trainings):
    trainings.poor = {3, 5}
    follower = Follower()
    found = draw(plan_in(tmp_path, trials=7, smallest=1000, largest=1000), SPLITS, follower)
    # The third comes before four are complete; it then shows that a training may also end poorly, not that it gains.
    assert [number for number, done in follower.told if done is None] == [5]
    assert found.given_up == 1
    assert [done.number for done in found.trials] == [0, 1, 2, 3, 4, 6]
    assert states(plan_in(tmp_path))[5] == TrialState.PRUNED


def test_an_interrupted_trial_is_replaced(tmp_path, trainings):
    trainings.interrupted = {2}
    with pytest.raises(KeyboardInterrupt):
        draw(plan_in(tmp_path), SPLITS, Follower())
    found = draw(plan_in(tmp_path), SPLITS, Follower())
    assert [done.number for done in found.trials] == [0, 1, 3, 4, 5, 6]
    assert states(plan_in(tmp_path))[2] == TrialState.FAIL


@pytest.mark.usefixtures("trainings")
@pytest.mark.parametrize("sign_of_life", [False, True])
def test_a_trial_left_by_a_killed_process_is_waited_for_then_replaced(tmp_path, monkeypatch, sign_of_life):
    plan = plan_in(tmp_path, trials=2)
    draw(plan, SPLITS, Follower())
    storage = optuna.storages.RDBStorage(database(plan))
    left = optuna.load_study(storage=storage, study_name=STUDY).ask()
    if sign_of_life:
        left.suggest_float(execution.LEARNING_RATE, *execution.RATE_RANGES[execution.LEARNING_RATE], log=True)
        storage.record_heartbeat(left._trial_id)
    storage.remove_session()
    storage.engine.dispose()
    monkeypatch.setattr(studies, "GRACE_SECONDS", 1)
    follower, waits = Follower(), []
    follower.on_wait = waits.append
    found = draw(replace(plan, trials=3), SPLITS, follower)
    assert set(waits) == {1}
    assert [done.number for done in found.trials] == [0, 1, 3]
    assert states(plan)[2] == TrialState.FAIL


def test_the_first_process_fixes_the_number_of_epochs(tmp_path, trainings, monkeypatch):
    monkeypatch.setattr(runs, "epochs_within", lambda _config, _splits, seconds: int(seconds))
    assert draw(plan_in(tmp_path, seconds=7.0, trials=1), SPLITS, Follower()).epochs == 7
    monkeypatch.setattr(runs, "epochs_within", lambda *_: 99)
    assert draw(plan_in(tmp_path, seconds=7.0, trials=2), SPLITS, Follower()).epochs == 7
    assert [config.epochs for config in trainings.configs] == [7, 7]


@pytest.mark.usefixtures("trainings")
def test_a_study_of_other_settings_is_refused(tmp_path):
    plan = plan_in(tmp_path, trials=1)
    draw(plan, SPLITS, Follower())
    for other in (replace(plan.config, epochs=11), replace(plan.config, seed=5)):
        with pytest.raises(ConfigError, match=r"other settings \((epochs: 10, now 11|seed: 0, now 5)\)"):
            draw(replace(plan, config=other), SPLITS, Follower())
    with pytest.raises(ConfigError, match="trials of another study"):
        draw(replace(plan, config=replace(plan.config, net="lenet300")), SPLITS, Follower())
    draw(replace(plan, smallest=200, trials=2), SPLITS, Follower())


def test_a_study_of_another_program_is_refused(tmp_path, monkeypatch):
    plan = plan_in(tmp_path)
    monkeypatch.setattr(studies, "SETTINGS_PATIENCE_SECONDS", 0)
    storage = optuna.storages.RDBStorage(database(plan))
    optuna.create_study(storage=storage, study_name=STUDY)
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(ConfigError, match="was not made by metaq sweep"):
        draw(plan, SPLITS, Follower())


@pytest.mark.parametrize("storage", ["nonsense", "nodialect://x", "sqlite:////nowhere/at/all/study.db"])
def test_an_unusable_storage_is_refused(tmp_path, storage):
    with pytest.raises(ConfigError, match="--storage: cannot be used"):
        draw(plan_in(tmp_path, storage=storage), SPLITS, Follower())


@pytest.mark.usefixtures("trainings")
def test_a_database_that_fails_later_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_):
        raise optuna.exceptions.StorageInternalError("the disk is gone")

    monkeypatch.setattr(execution, "run_trials", fail)
    with pytest.raises(MetaqError, match=re.escape("the database failed (the disk is gone)")):
        draw(plan_in(tmp_path), SPLITS, Follower())


@pytest.mark.usefixtures("trainings")
def test_results_are_written(tmp_path):
    found = draw(plan_in(tmp_path), SPLITS, Follower())
    written = json.loads((tmp_path / "frontier.json").read_text())
    assert (written["net"], written["data"], written["float_bytes"]) == ("lenet5", "digits", 177_704)
    assert [done["number"] for done in written["trials"]] == list(range(6))
    assert [member["number"] for member in written["frontier"]] == [member.trial.number for member in found.members]
    assert all(member["ratio"] == 177_704 / member["bytes"] for member in written["frontier"])
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
