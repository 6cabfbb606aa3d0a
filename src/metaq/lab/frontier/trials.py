"""The trials of a sweep: each one training to a size of its own, given up once it cannot reach the frontier."""

from __future__ import annotations

import time
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path

import optuna
from optuna.trial import TrialState

from metaq.lab import runs
from metaq.lab.data import DataSplits
from metaq.lab.frontier import study as studies
from metaq.lab.frontier.plan import TRIALS_FOLDER, Settled, SweepObserver, SweepPlan, is_hopeless
from metaq.lab.train import EpochRecord, TrainConfig
from metaq.regularizer.schedule import phase_at

POLL_SECONDS = 0.5
ROUNDING = 1e-9
"""The end of an epoch belongs to the phase that it ends."""

BYTES, UNDERSHOOT, LEARNING_RATE = "goal.bytes", "regularizer.plan.undershoot", "optimizer.relative_learning_rate"
UNDERSHOOT_RANGE, LEARNING_RATE_RANGE = (0.6, 0.95), (4e-3, 1.6e-2)

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def run_trials(
    study: optuna.Study, plan: SweepPlan, config: TrainConfig, splits: DataSplits, observer: SweepObserver
) -> None:
    """Run trials until the study has as many finished ones as `plan` asks for, whoever runs the others.

    The trials have `config` in common, their number of epochs included. The test images are not looked at.
    """
    unseen = replace(splits, test=splits.validation)
    while not is_complete(study, plan):
        running = studies.count(study, TrialState.RUNNING)
        if studies.count(study, *_FINISHED) + running >= plan.trials:
            observer.on_wait(running)
            time.sleep(POLL_SECONDS)
            studies.fail_abandoned(study)
            continue
        study.optimize(
            lambda trial: _run(study, trial, plan, config, unseen, observer),
            n_trials=1,
            callbacks=[lambda _, finished: observer.on_trial(finished.number, studies.to_trial(finished))],
        )


def is_complete(study: optuna.Study, plan: SweepPlan) -> bool:
    """Whether all trials asked for are finished."""
    return studies.count(study, *_FINISHED) >= plan.trials


def trial_folder(folder: Path, number: int) -> Path:
    """Folder of the trial of that number."""
    return folder / TRIALS_FOLDER / f"{number:04d}"


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
    folder = trial_folder(plan.folder, trial.number)
    outcome = runs.train_to_folder(own, unseen, folder, _Judge(study, trial, own, observer))
    # It would pass validation accuracy off as that on the test images.
    (folder / runs.SUMMARY_FILE).unlink()
    trial.set_user_attr(studies.FILE, str(folder / runs.MODEL_FILE))
    return float(outcome.summary.bytes), outcome.summary.accuracy


def _propose(trial: optuna.Trial, plan: SweepPlan, config: TrainConfig) -> TrainConfig:
    values = {
        BYTES: trial.suggest_int(BYTES, plan.smallest, plan.largest, log=True),
        UNDERSHOOT: trial.suggest_float(UNDERSHOOT, *UNDERSHOOT_RANGE),
        LEARNING_RATE: trial.suggest_float(LEARNING_RATE, *LEARNING_RATE_RANGE, log=True),
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
        """Pass the news on, then prune the trial if it is hopeless.

        Raises KeyboardInterrupt if the process that started this one is gone.
        """
        self._observer.on_epoch(record)
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            raise KeyboardInterrupt
        share = record.epoch / self._config.epochs
        plan, goal_bytes = self._config.regularizer.plan, self._config.goal.bytes
        assert plan is not None
        assert goal_bytes is not None
        assert record.file_bytes is not None
        if phase_at(plan, self._config.regularizer.warmup, share - ROUNDING).kind != "settle":
            return
        self._settled.append(Settled(share, record.file_bytes, record.quantized_accuracy))
        self._trial.set_user_attr(studies.SETTLED, self._settled)
        completed = studies.completed_trials(self._study)
        if is_hopeless(self._settled[-1], goal_bytes=goal_bytes, completed=completed):
            raise optuna.TrialPruned
