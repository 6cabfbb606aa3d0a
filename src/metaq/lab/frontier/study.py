"""The study that all processes of a sweep share: opened, recognised, and read."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, OptunaError
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from metaq.config import flat, require
from metaq.errors import ConfigError, MetaqError
from metaq.lab.frontier.plan import Settled, Trial

DIRECTIONS = [optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE]
SETTINGS, FILE, SETTLED = "settings", "file", "settled"
"""Names under which the study keeps its settings, and a trial its file and its settled epochs."""

HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60
"""A running trial gives a sign of life so often, and is given up after so long without one."""

SQLITE_PATIENCE_SECONDS = 60
SETTINGS_PATIENCE_SECONDS, SETTINGS_POLL_SECONDS = 10, 0.1
"""How long the settings of a study that another process is just making are waited for."""


class NumberedSampler(TPESampler):
    """TPE (Bergstra et al. 2011) whose random numbers depend on a seed and on the number of the trial alone.

    So no two processes propose the same, and a study that goes on proposes what it would have proposed uninterrupted.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self._own_seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin the stream of the trial's number."""
        stream = np.random.SeedSequence([self._own_seed, trial.number])
        # A sampler is seeded where it is made, and only there.
        super().__init__(seed=int(stream.generate_state(1)[0]))
        super().before_trial(study, trial)


@contextmanager
def open_study(
    storage: str,
    name: str,
    *,
    seed: int,
    identity: Mapping[str, object],
    epochs: Callable[[], int],
) -> Iterator[tuple[optuna.Study, int]]:
    """The study `name` in the database at a URL, made if there is none, and the number of epochs of each of its trials.

    The `seed` is that of what is proposed, `identity` the settings that all trials have in common, as JSON values;
    `epochs` is asked once in the life of a study, by the process that makes it. Raises :class:`ConfigError` if the
    storage cannot be used, or the study was made with other settings.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database: optuna.storages.RDBStorage | None = None
    try:
        database = _connect(storage)
        study = _load_or_make(database, name, identity, epochs)
        study.sampler = NumberedSampler(seed)
        yield study, _epochs_of(study, identity)
    except (SQLAlchemyError, OptunaError) as error:
        raise MetaqError(f"--storage: the database failed ({_first_line(error)}); the same command goes on.") from error
    finally:
        optuna.logging.set_verbosity(verbosity)
        if database is not None:
            database.remove_session()
            database.engine.dispose()


def completed_trials(study: optuna.Study) -> list[Trial]:
    """All completed trials, by number."""
    found = map(to_trial, study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
    return [trial for trial in found if trial is not None]


def to_trial(trial: FrozenTrial) -> Trial | None:
    """What a completed trial gave; None for one that was given up."""
    if trial.state != TrialState.COMPLETE:
        return None
    size_bytes, accuracy = trial.values
    return Trial(
        number=trial.number,
        parameters=trial.params,
        bytes=int(size_bytes),
        validation_accuracy=accuracy,
        file=trial.user_attrs[FILE],
        settled=tuple(Settled(*epoch) for epoch in trial.user_attrs.get(SETTLED, [])),
    )


def count(study: optuna.Study, *states: TrialState) -> int:
    """Trials in one of these states."""
    return len(study.get_trials(deepcopy=False, states=states))


def fail_abandoned(study: optuna.Study) -> None:
    """Mark those running trials failed whose process has not been heard of for ``GRACE_SECONDS``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        # A process killed before its first sign of life left no parameters either.
        begun = trial.datetime_start or datetime.now()
        if not trial.params and (datetime.now() - begun).total_seconds() > GRACE_SECONDS:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _connect(storage: str) -> optuna.storages.RDBStorage:
    patience = {"connect_args": {"timeout": SQLITE_PATIENCE_SECONDS}} if storage.startswith("sqlite") else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return optuna.storages.RDBStorage(
                storage,
                engine_kwargs=patience,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError) as error:
        # The URL may hold a password, so it is not repeated.
        raise ConfigError(
            f"--storage: cannot be used ({_first_line(error)}); give the URL of a database, as sqlite:///study.db."
        ) from error


def _load_or_make(
    database: optuna.storages.RDBStorage, name: str, identity: Mapping[str, object], epochs: Callable[[], int]
) -> optuna.Study:
    if name not in optuna.get_all_study_names(database):
        settings = {"identity": identity, "epochs": epochs()}
        try:
            study = optuna.create_study(storage=database, study_name=name, directions=DIRECTIONS)
        except DuplicatedStudyError:
            pass
        else:
            study.set_user_attr(SETTINGS, settings)
            return study
    return optuna.load_study(storage=database, study_name=name)


def _epochs_of(study: optuna.Study, identity: Mapping[str, object]) -> int:
    """Epochs of every trial, once it is certain that the study is of these settings."""
    patient_until = time.monotonic() + SETTINGS_PATIENCE_SECONDS
    while SETTINGS not in study.user_attrs and not study.get_trials(deepcopy=False):
        if time.monotonic() > patient_until:
            break
        time.sleep(SETTINGS_POLL_SECONDS)
    settings = study.user_attrs.get(SETTINGS)
    if settings is None or study.directions != DIRECTIONS:
        raise ConfigError(
            f"--storage: its study {study.study_name!r} was not made by metaq sweep; give another --storage."
        )
    ours, theirs = flat(identity), flat(settings["identity"])
    different = [
        f"{key}: {theirs.get(key)}, now {ours.get(key)}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]
    require(
        not different,
        f"--storage: its study was made with other settings ({'; '.join(different)}); give the same ones, or another "
        "--out or --storage.",
    )
    return int(settings["epochs"])


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
    lines = str(cause).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
