"""A whole sweep: its processes, the one look at the test images at its end, and the two files that show it.

Every trial is a training to a size of its own, given up once it cannot reach the frontier.
"""

import json
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from multiprocessing import parent_process
from multiprocessing.synchronize import Event

import optuna
import torch
from optuna.trial import TrialState
from typing_extensions import override

from metaq.config import require
from metaq.errors import GoalError, MetaqError, OutputError
from metaq.files import write_bytes
from metaq.lab import data, nets, runs
from metaq.lab.data import DataSplits
from metaq.lab.frontier import study as studies
from metaq.lab.frontier.plan import (
    JSON_FILE,
    PLOT_FILE,
    STUDY_FILE,
    TRIALS_FOLDER,
    Frontier,
    Member,
    Settled,
    SweepObserver,
    SweepPlan,
    Trial,
    float_bytes_of,
    frontier_of,
    is_hopeless,
)
from metaq.lab.plots import Point, save_frontier
from metaq.lab.train import EpochRecord, Silent, TrainConfig, of_length
from metaq.regularizer.entropy_regularizer import EntropyRegularizer
from metaq.regularizer.pace import SETTLE

POLL_SECONDS = 0.5
ROUNDING = 1e-9
"""Of a share of the epochs: the one that ends where weights begin to settle is not settled."""

BYTES, LEARNING_RATE, RELATIVE_RATE = (
    "goal.target_bytes",
    "optimizer.learning_rate",
    "optimizer.relative_learning_rate",
)
RATE_RANGES = {LEARNING_RATE: (1e-3, 4e-3), RELATIVE_RATE: (1.2e-2, 4e-2)}


def draw(plan: SweepPlan, splits: DataSplits, observer: SweepObserver) -> Frontier:
    """Run the trials that the study lacks, measure the frontier, write ``frontier.json`` and ``frontier.png``.

    With several workers, a program that calls this must be importable without running again (``if __name__ ==
    "__main__"``), since every worker is a new interpreter. Raises :class:`ConfigError` if the storage cannot be used,
    or its study was made with other settings. After a KeyboardInterrupt every finished trial is in the storage.
    """
    _require_reachable(plan)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{plan.folder}: cannot be used as the sweep's folder ({error.strerror}).") from error
    with _opened(plan, splits) as (study, config):
        told = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
        with _helped(plan) if plan.workers > 1 else nullcontext():
            run_trials(study, plan, config, splits, observer, told)
        tell(study, told, observer)
        found = _measured(study, config, splits)
    write_bytes(plan.folder / JSON_FILE, (json.dumps(frontier_to_dict(found), indent=2) + "\n").encode())
    save_frontier(
        plan.folder / PLOT_FILE,
        trials=[Point(trial.bytes, trial.validation_accuracy) for trial in found.trials],
        members=[Point(member.trial.bytes, member.test_accuracy) for member in found.members],
        net=found.net,
        data=found.data,
    )
    return found


def frontier_to_dict(found: Frontier) -> dict[str, object]:
    """Plain dictionary, ready for JSON."""
    return {
        "net": found.net,
        "data": found.data,
        "float_bytes": found.float_bytes,
        "epochs": found.epochs,
        "given_up": found.given_up,
        "trials": [asdict(trial) for trial in found.trials],
        "frontier": [
            {
                "number": member.trial.number,
                "bytes": member.trial.bytes,
                "ratio": found.float_bytes / member.trial.bytes,
                "validation_accuracy": member.trial.validation_accuracy,
                "test_accuracy": member.test_accuracy,
                "file": member.trial.file,
            }
            for member in found.members
        ],
    }


@contextmanager
def _opened(plan: SweepPlan, splits: DataSplits) -> Iterator[tuple[optuna.Study, TrainConfig]]:
    """The study and the settings of its trials."""
    # Looked for before the study is read: a trial is in the study before it has a folder.
    has_trials = any((plan.folder / TRIALS_FOLDER).glob("*"))
    with studies.open_study(
        plan.storage or f"sqlite:///{(plan.folder / STUDY_FILE).resolve()}",
        f"{plan.config.net} on {plan.config.data}",
        seed=plan.config.seed,
        identity=plan.identity,
        epochs=lambda: _epochs(plan, splits),
    ) as (study, epochs):
        require(
            not has_trials or bool(study.get_trials(deepcopy=False)),
            f"{plan.folder}: holds the trials of another study; choose another --out.",
        )
        yield study, of_length(plan.config, epochs, images=len(splits.train))


def _require_reachable(plan: SweepPlan) -> None:
    """Refuse a plan none of whose sizes can be reached; a trial to a size that cannot is given up."""
    goal = replace(plan.config.goal, target_bytes=plan.largest)
    model = nets.create(plan.config.net)
    EntropyRegularizer(model, plan.config.regularizer, total_steps=1, **goal.of_training())


def _epochs(plan: SweepPlan, splits: DataSplits) -> int:
    if plan.seconds is None:
        return plan.config.epochs
    with _share_of_threads(plan):
        return runs.epochs_within(plan.config, splits, plan.seconds)


def _measured(study: optuna.Study, config: TrainConfig, splits: DataSplits) -> Frontier:
    """The frontier; what was measured on the test images before is not measured again."""
    trials = studies.completed_trials(study)
    members = []
    for trial in frontier_of(trials):
        key = f"test accuracy of trial {trial.number}"
        if key not in study.user_attrs:
            measured = runs.measure_file(trial.file, net=config.net, load_dataset=lambda: splits.test)
            study.set_user_attr(key, measured.accuracy)
        members.append(Member(trial=trial, test_accuracy=study.user_attrs[key]))
    return Frontier(
        net=config.net,
        data=config.data,
        float_bytes=float_bytes_of(config.net),
        epochs=config.epochs,
        trials=tuple(trials),
        given_up=studies.count(study, TrialState.PRUNED),
        members=tuple(members),
    )


@contextmanager
def _helped(plan: SweepPlan) -> Iterator[None]:
    """Let the other workers of the plan run trials beside this process; all share its threads."""
    context = multiprocessing.get_context("spawn")
    is_over, helpers = context.Event(), []
    with _share_of_threads(plan) as threads:
        try:
            for _ in range(plan.workers - 1):
                helper = context.Process(target=_help, args=(plan, threads, is_over), daemon=True)
                helper.start()
                helpers.append(helper)
            yield
        finally:
            is_over.set()
            for helper in helpers:
                # Ends at once those that are still starting.
                helper.terminate()
                helper.join()


@contextmanager
def _share_of_threads(plan: SweepPlan) -> Iterator[int]:
    """Compute with what a worker has of the threads."""
    threads = torch.get_num_threads()
    share = max(1, threads // plan.workers)
    torch.set_num_threads(share)
    try:
        yield share
    finally:
        torch.set_num_threads(threads)


def _help(plan: SweepPlan, threads: int, is_over: Event) -> None:
    """Body of a process that helps; what it cannot do, the first one cannot either, and says so."""
    # Signals would lose a trial midway. Ctrl-C reaches the whole group of processes; the first one passes it on.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with suppress(MetaqError, KeyboardInterrupt):
        splits = data.load(plan.config.data, data_dir=plan.data_dir, validation_count=plan.config.validation_count)
        with _opened(plan, splits) as (study, config):
            run_trials(study, plan, config, splits, _Ending(is_over), set())


class _Ending(Silent):
    """Ends what a process that helps is doing between two steps, once it is over or the first process is gone."""

    def __init__(self, is_over: Event) -> None:
        self._is_over = is_over

    @override
    def on_step(self, step: int, total_steps: int) -> None:
        if self._is_over.is_set():
            raise KeyboardInterrupt

    def on_wait(self, _running: int) -> None:
        """End."""
        parent = parent_process()
        if self._is_over.is_set() or parent is None or not parent.is_alive():
            raise KeyboardInterrupt

    @override
    def on_epoch(self, record: EpochRecord) -> None:
        self.on_wait(0)

    def on_trial(self, _number: int, _trial: Trial | None) -> None:
        """Leave it to the first process to tell of it."""


def run_trials(
    study: optuna.Study,
    plan: SweepPlan,
    config: TrainConfig,
    splits: DataSplits,
    observer: SweepObserver,
    told: set[int],
) -> None:
    """Run trials until the study has as many finished ones as `plan` asks for, whoever runs the others.

    The trials have `config` in common, their number of epochs included. The test images are not looked at. The observer
    is told of every finished trial whose number is not among those `told`.
    """
    unseen = replace(splits, test=splits.validation)
    while (finished := tell(study, told, observer)) < plan.trials:
        running = studies.count(study, TrialState.RUNNING)
        if finished + running >= plan.trials:
            observer.on_wait(running)
            time.sleep(POLL_SECONDS)
            studies.fail_abandoned(study)
        else:
            study.optimize(lambda trial: _run(study, trial, plan, config, unseen, observer), n_trials=1)


def tell(study: optuna.Study, told: set[int], observer: SweepObserver) -> int:
    """Tell of trials that were not `told` of; how many are finished."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    for trial in finished:
        if trial.number not in told:
            told.add(trial.number)
            observer.on_trial(trial.number, studies.to_trial(trial))
    return len(finished)


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    plan: SweepPlan,
    config: TrainConfig,
    unseen: DataSplits,
    observer: SweepObserver,
) -> tuple[float, float]:
    """Bytes and validation accuracy of one training; `unseen` holds validation images in place of the test images."""
    own = _propose(trial, plan, config)
    folder = plan.folder / TRIALS_FOLDER / f"{trial.number:04d}"
    try:
        outcome = runs.train_to_folder(own, unseen, folder, _Judge(study, trial, own, observer))
    except GoalError as error:
        raise optuna.TrialPruned from error
    # It would pass validation accuracy off as that on the test images.
    (folder / runs.SUMMARY_FILE).unlink()
    trial.set_user_attr(studies.FILE, str(folder / runs.MODEL_FILE))
    return float(outcome.summary.bytes), outcome.summary.accuracy


def _propose(trial: optuna.Trial, plan: SweepPlan, config: TrainConfig) -> TrainConfig:
    rate = LEARNING_RATE if config.optimizer.relative_learning_rate is None else RELATIVE_RATE
    values = {
        BYTES: trial.suggest_int(BYTES, plan.smallest, plan.largest, log=True),
        rate: trial.suggest_float(rate, *RATE_RANGES[rate], log=True),
    }
    return config.override(f"{key}={value!r}" for key, value in values.items())


class _Judge:
    """Notes the settled epochs of a trial and ends it once it is hopeless."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial, config: TrainConfig, observer: SweepObserver) -> None:
        self._study = study
        self._trial = trial
        self._config = config
        self._observer = observer
        self._settled: list[Settled] = []

    def on_step(self, step: int, total_steps: int) -> None:
        self._observer.on_step(step, total_steps)

    def on_epoch(self, record: EpochRecord) -> None:
        """Pass the news on, then prune the trial if it is hopeless."""
        self._observer.on_epoch(record)
        share = record.epoch / self._config.epochs
        goal_bytes = self._config.goal.target_bytes
        assert goal_bytes is not None
        if share <= 1 - SETTLE + ROUNDING:
            return
        self._settled.append(Settled(share, record.quantized_accuracy))
        self._trial.set_user_attr(studies.SETTLED, self._settled)
        completed = studies.completed_trials(self._study)
        if is_hopeless(self._settled[-1], goal_bytes=goal_bytes, completed=completed):
            raise optuna.TrialPruned
