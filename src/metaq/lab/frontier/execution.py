"""A whole sweep: its processes, the one look at the test images at its end, and the two files that show it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType

import optuna
import torch
from optuna.trial import TrialState

from metaq.config import require
from metaq.errors import MetaqError, OutputError
from metaq.files import write_bytes
from metaq.lab import data, runs
from metaq.lab.data import DataSplits
from metaq.lab.frontier import study as studies
from metaq.lab.frontier.plan import (
    JSON_FILE,
    PLOT_FILE,
    STUDY_FILE,
    TRIALS_FOLDER,
    Frontier,
    Member,
    SweepObserver,
    SweepPlan,
    Trial,
    float_bytes_of,
    frontier_of,
)
from metaq.lab.frontier.plot import Point, save_frontier
from metaq.lab.frontier.trials import is_complete, run_trials
from metaq.lab.train import EpochRecord, TrainConfig

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 15
"""How long a worker that is told to stop may take before it is told again."""


def draw(plan: SweepPlan, splits: DataSplits, observer: SweepObserver) -> Frontier:
    """Run the trials that the study lacks, measure the frontier, write ``frontier.json`` and ``frontier.png``.

    With several workers, a program that calls this must be importable without running again (``if __name__ ==
    "__main__"``), since every worker is a new interpreter. Raises :class:`ConfigError` if the storage cannot be used,
    or its study was made with other settings. After a KeyboardInterrupt every finished trial is in the storage.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{plan.folder}: cannot be used as the sweep's folder ({error.strerror}).") from error
    with _opened(plan, splits) as (study, config):
        if plan.workers == 1:
            run_trials(study, plan, config, splits, observer)
        else:
            _run_workers(study, plan, observer)
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
        yield study, replace(plan.config, epochs=epochs)


def _epochs(plan: SweepPlan, splits: DataSplits) -> int:
    if plan.seconds is None:
        return plan.config.epochs
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads_each(plan))
    try:
        return runs.epochs_within(plan.config, splits, plan.seconds)
    finally:
        torch.set_num_threads(threads)


def _threads_each(plan: SweepPlan) -> int:
    return max(1, torch.get_num_threads() // plan.workers)


def _measured(study: optuna.Study, config: TrainConfig, splits: DataSplits) -> Frontier:
    """The frontier; what was measured on the test images before is not measured again."""
    trials = studies.completed_trials(study)
    members = []
    for trial in frontier_of(trials):
        key = f"test accuracy of trial {trial.number}"
        if key not in study.user_attrs:
            study.set_user_attr(key, _test_accuracy(trial, config, splits))
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


def _test_accuracy(trial: Trial, config: TrainConfig, splits: DataSplits) -> float:
    return runs.measure_file(trial.file, net=config.net, load_dataset=lambda: splits.test).accuracy


def _run_workers(study: optuna.Study, plan: SweepPlan, observer: SweepObserver) -> None:
    """Run trials in processes of their own until there are enough, or one of them fails."""
    context = multiprocessing.get_context("spawn")
    failures: SimpleQueue[str] = context.SimpleQueue()
    workers = [context.Process(target=_work, args=(plan, _threads_each(plan), failures)) for _ in range(plan.workers)]
    told = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) and not _failed(workers):
            time.sleep(POLL_SECONDS)
            _tell(study, told, observer)
    finally:
        _end(workers, at_once=not is_complete(study, plan))
    _tell(study, told, observer)
    if not failures.empty():
        raise MetaqError(failures.get())
    for worker in _failed(workers):
        raise MetaqError(f"sweep: a worker ended with status {worker.exitcode}; the same command goes on.")


def _end(workers: list[SpawnProcess], *, at_once: bool) -> None:
    """Wait until all have ended; `at_once` stops them, and tells them again if they do not listen."""
    while living := [worker for worker in workers if worker.is_alive()]:
        for worker in living:
            if at_once:
                worker.terminate()
        for worker in living:
            worker.join(PATIENCE_SECONDS)


def _failed(workers: list[SpawnProcess]) -> list[SpawnProcess]:
    return [worker for worker in workers if worker.exitcode]


def _tell(study: optuna.Study, told: set[int], observer: SweepObserver) -> None:
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]):
        if trial.number not in told:
            told.add(trial.number)
            observer.on_trial(trial.number, studies.to_trial(trial))


def _work(plan: SweepPlan, threads: int, failures: SimpleQueue[str]) -> None:
    """Body of a worker process."""
    # Ctrl-C reaches the whole group of processes; the first one passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = _Ending()
    signal.signal(signal.SIGTERM, ending.ask)
    torch.set_num_threads(threads)
    try:
        splits = data.load(plan.config.data, data_dir=plan.data_dir, validation_count=plan.config.validation_count)
        with _opened(plan, splits) as (study, config):
            run_trials(study, plan, config, splits, ending)
    except MetaqError as error:
        failures.put(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGTERM)


class _Ending:
    """Follows a training to end it between two steps, once it is asked to.

    A handler that raises at once may do so while an object is being deleted, where exceptions are lost; so only who
    asks twice gets that.
    """

    def __init__(self) -> None:
        self._is_asked = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True

    def on_step(self, _step: int, _total_steps: int) -> None:
        """End."""
        if self._is_asked:
            raise KeyboardInterrupt

    def on_epoch(self, record: EpochRecord) -> None:
        """Nothing to do."""

    def on_trial(self, number: int, trial: Trial | None) -> None:
        """Nothing to do."""

    def on_wait(self, _running: int) -> None:
        """End."""
        if self._is_asked:
            raise KeyboardInterrupt
