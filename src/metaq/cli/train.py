"""``metaq train``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import (
    DataDir,
    Force,
    Json,
    NewData,
    NewNet,
    TargetBitsPerWeight,
    TargetBytes,
    TargetRatio,
    Teacher,
    TeacherNet,
    load_data,
)
from metaq.config import require
from metaq.files import write_bytes
from metaq.lab.registry import PRESETS

if TYPE_CHECKING:
    import torch

    from metaq.compression.compressed import Goal
    from metaq.lab.data import DataSplits
    from metaq.lab.runs import TrainingOutcome
    from metaq.lab.train import Processes, TrainConfig
    from metaq.lab.train.config import TeacherConfig

DEFAULT_PRESET = "lenet5-digits"
OTHER_PRESETS = ", ".join(name for name in PRESETS if name != DEFAULT_PRESET)

OF_DATA = ("data", "validation_count")
"""Settings by which images are read, before any other is known."""

UNITS = {"s": 1, "m": 60, "h": 3600}
"""Seconds of the units of a duration."""


def train(
    preset_name: Annotated[
        str | None,
        typer.Option("--preset", help=f"Settings to start from; default: {DEFAULT_PRESET}. Also: {OTHER_PRESETS}."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the run.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    target_bytes: TargetBytes = None,
    target_ratio: TargetRatio = None,
    target_bits_per_weight: TargetBitsPerWeight = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option("--target-accuracy", help="Smallest file with this accuracy on validation images, in percent."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Smallest file so many points of accuracy behind the best on these at most."),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="Train about so long: 90s, 15m, 2h. Sets the number of epochs.")
    ] = None,
    teacher: Teacher = None,
    teacher_net: TeacherNet = None,
    start: Annotated[Path | None, typer.Option("--from", help="File of trained weights to start from.")] = None,
    without_term: Annotated[
        bool,
        typer.Option("--float", help="Train as usual, without the entropy term: what to compare with, or start from."),
    ] = False,
    net: NewNet = None,
    data: NewData = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Another number of epochs.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as key=value; see config.json of a run.")
    ] = None,
    device_name: Annotated[
        str, typer.Option("--device", help="Where to train: cpu, cuda, or cuda:1 for the second of several.")
    ] = "cpu",
    data_dir: DataDir = None,
    force: Force = False,
    is_verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the accuracy of the latent, unquantised weights too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a network to few bits and write RUN/model.metaq, its curves, metrics and settings."""
    from metaq.compression.compressed import Goal
    from metaq.lab import runs
    from metaq.lab.train import checkpointing, device_named, launched, plain

    require((out is None) != (resume is None), "train: give either --out FOLDER or --resume FOLDER.")
    others = (target_bytes, target_ratio, target_bits_per_weight, max_drop)
    require(
        target_accuracy is None or all(value is None for value in others),
        "--target-accuracy: is a goal of its own; give no other beside it.",
    )
    goal = Goal(
        target_bytes=target_bytes,
        target_ratio=target_ratio,
        target_bits_per_weight=target_bits_per_weight,
        target_value=target_accuracy,
        max_drop=max_drop,
    )
    named: dict[str, object] = {
        "net": net,
        "data": data,
        "epochs": epochs,
        "seed": seed,
        "start": None if start is None else str(start),
    }
    if resume is not None:
        given = (preset_name, time_budget, teacher, teacher_net, *named.values())
        alone = all(value is None for value in given) and not (assignments or force or without_term or goal != Goal())
        require(
            alone,
            f"--resume {resume}: goes on with the settings of that run; only --data-dir, --device and "
            "--verbose go with it.",
        )
    require(not (without_term and goal != Goal()), "--float: files of floats have one size; give no target.")
    device = device_named(device_name)
    folder = resume or out or Path()
    before = _stamp(folder / checkpointing.FILE_NAME)
    with launched(device) as processes, output.silent(unless=processes.is_first):
        where = Where(device=device, processes=processes)
        try:
            if resume:
                config, _ = checkpointing.load(folder)
            else:
                named["teacher"] = taught(teacher, teacher_net)
                config = configured(preset_name or DEFAULT_PRESET, named)
                config = plain(config) if without_term else config
            settled = config.override([text for text in assignments or [] if text.partition("=")[0].strip() in OF_DATA])
            splits = load_data(settled.data, data_dir, validation_count=settled.validation_count)
            if not resume:
                config = _aimed(config, splits, goal, epochs, time_budget, assignments or [], where)
            with output.stage_progress() as progress:
                observer = output.TrainingProgress(progress, "training", is_verbose=is_verbose)
                if resume:
                    outcome = runs.resume_in_folder(folder, splits, observer, progress=progress, **where)
                else:
                    outcome = runs.train_to_folder(
                        config, splits, folder, observer, force=force, progress=progress, **where
                    )
        except KeyboardInterrupt:
            has_saved = resume is not None or _stamp(folder / checkpointing.FILE_NAME) != before
            told = f"every finished epoch is saved. Go on with: metaq train --resume {folder}"
            output.error(f"stopped; {told if has_saved else 'no epoch was finished, so nothing was saved'}")
            raise typer.Exit(130) from None
        outcome = processes.by_first(lambda: _described(outcome, config.goal))
        if as_json:
            output.print_json(runs.outcome_to_dict(outcome))
        else:
            _print(outcome)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that was in its place; None if there is none."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def _described(outcome: TrainingOutcome, goal: Goal) -> TrainingOutcome:
    """The outcome once its file says how accurate it is and what the goal was, as far as it has room for that."""
    from metaq.lab import runs
    from metaq.report import facts

    path = outcome.folder / runs.MODEL_FILE
    known = facts.accuracy_fact(outcome.summary.accuracy, "test") | facts.goal_fact(goal)
    held = {"float_bytes": outcome.summary.float_bytes, "weights": outcome.summary.weights}
    written = path.read_bytes()
    data = facts.added(written, known, limit_bytes=goal.limit_bytes(**held))
    if data == written:
        return outcome
    sizes = container.sizes(len(data), **held)
    outcome = replace(outcome, summary=replace(outcome.summary, **sizes))  # type: ignore[arg-type]
    write_bytes(path, data)
    write_bytes(outcome.folder / runs.SUMMARY_FILE, (json.dumps(runs.outcome_to_dict(outcome)) + "\n").encode())
    return outcome


class Where(TypedDict):
    """Where a training runs."""

    device: torch.device
    processes: Processes


def configured(preset_name: str, named: Mapping[str, object]) -> TrainConfig:
    """The preset with whatever was named of its settings."""
    from metaq.lab.train import preset

    given = {key: value for key, value in named.items() if value is not None}
    return replace(preset(preset_name), **given)  # type: ignore[arg-type]


def taught(file: Path | None, net: str | None) -> TeacherConfig | None:
    """The teacher that the options name."""
    from metaq.lab.train.config import TeacherConfig

    require(file is not None or net is None, "--teacher-net: give the teacher's weights too, with --teacher FILE.")
    return None if file is None else TeacherConfig(file=str(file), net=net)


def _aimed(
    config: TrainConfig,
    splits: DataSplits,
    goal: Goal,
    epochs: int | None,
    time_budget: str | None,
    assignments: list[str],
    where: Where,
) -> TrainConfig:
    """The configuration with its goal, its number of epochs and every other setting."""
    from metaq.compression.compressed import Goal
    from metaq.lab import runs
    from metaq.lab.train import aim, of_length

    sets_epochs = epochs is not None or any(text.partition("=")[0].strip() == "epochs" for text in assignments)
    require(time_budget is None or not sets_epochs, "--time-budget: sets the number of epochs; give no --epochs then.")
    images = len(splits.train)
    if goal != Goal():
        config = aim(config, goal, images=images, epochs=epochs)
        config = of_length(config, config.override(assignments).epochs, images=images)
    if time_budget is None:
        return config.override(assignments)
    found = runs.epochs_within(config.override(assignments), splits, seconds_of(time_budget), **where)
    config = of_length(config, found, images=images) if goal != Goal() else replace(config, epochs=found)
    return config.override(assignments)


def seconds_of(duration: str) -> float:
    """Seconds of a duration such as ``90s``, ``15m`` or ``2h``; raises :class:`ConfigError` unless positive."""
    parts = re.fullmatch(r"([0-9]{1,9}\.?[0-9]{0,9}|\.[0-9]{1,9})([smh])", duration)
    seconds = float(parts[1]) * UNITS[parts[2]] if parts else 0.0
    require(seconds > 0, f"--time-budget {duration}: write a number and s, m or h, as in 15m.")
    return seconds


def _print(outcome: TrainingOutcome) -> None:
    from metaq.lab.runs import MODEL_FILE

    rows = [
        *output.summary_rows(outcome.summary),
        ("validation accuracy", f"{outcome.validation_accuracy:.2f} %"),
        ("kept epoch", f"{outcome.kept_epoch} of {outcome.epochs}"),
    ]
    output.print_table(f"{outcome.folder / MODEL_FILE}, measured on the test images", ["", "value"], rows)
