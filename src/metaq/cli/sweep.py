"""``metaq sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaq.cli import output
from metaq.cli.options import DataDir, Json, NewData, NewNet, Teacher, TeacherNet, load_data
from metaq.cli.train import configured, seconds_of, taught
from metaq.config import needs, require
from metaq.lab.registry import PRESETS

if TYPE_CHECKING:
    from metaq.lab.frontier import Frontier, Trial

LARGEST_RATIO, SMALLEST_RATIO = 400, 20
"""Ratios between which the sizes of files lie where none are given."""


def sweep(
    out: Annotated[Path, typer.Option("--out", help="Folder for the trials, the frontier and its picture.")],
    trials: Annotated[int, typer.Option("--trials", help="Trainings to different sizes, in all.")] = 20,
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")
    ] = "lenet5-digits",
    net: NewNet = None,
    data: NewData = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of every trial.")] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="Train every trial about so long: 90s, 15m, 2h.")
    ] = None,
    smallest: Annotated[
        int | None, typer.Option("--smallest", help=f"Bytes to begin at; default: 1/{LARGEST_RATIO} of the floats.")
    ] = None,
    largest: Annotated[
        int | None, typer.Option("--largest", help=f"Bytes to end at; default: 1/{SMALLEST_RATIO} of the floats.")
    ] = None,
    teacher: Teacher = None,
    teacher_net: TeacherNet = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that run trials at the same time.")] = 1,
    storage: Annotated[
        str | None, typer.Option("--storage", help="URL of the study's database; default: OUT/study.db.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the trainings, and of what they are trained to.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Train a network to many sizes and show how accurate it is at each; the same command again goes on."""
    needs("optuna", "matplotlib")
    from metaq.compression.compressed import Goal
    from metaq.lab import frontier
    from metaq.lab.frontier import SweepPlan
    from metaq.lab.train import aim

    require(epochs is None or time_budget is None, "--time-budget: sets the number of epochs; give no --epochs then.")
    named = {"net": net, "data": data, "seed": seed, "teacher": taught(teacher, teacher_net)}
    config = configured(preset_name, named)
    seconds = None if time_budget is None else seconds_of(time_budget)
    float_bytes = frontier.float_bytes_of(config.net)
    splits = load_data(config.data, data_dir, validation_count=config.validation_count)
    plan = SweepPlan(
        config=aim(config, Goal(target_bytes=float_bytes), images=len(splits.train), epochs=epochs),
        trials=trials,
        smallest=max(1, float_bytes // LARGEST_RATIO) if smallest is None else smallest,
        largest=max(1, float_bytes // SMALLEST_RATIO) if largest is None else largest,
        folder=out,
        storage=storage,
        seconds=seconds,
        workers=workers,
        data_dir=data_dir,
    )
    try:
        with output.stage_progress() as progress:
            found = frontier.draw(plan, splits, SweepProgress(progress))
    except KeyboardInterrupt:
        output.error("stopped; every finished trial is kept. The same command goes on.")
        raise typer.Exit(130) from None
    if as_json:
        output.print_json(frontier.frontier_to_dict(found))
    else:
        _print(found, out)


class SweepProgress(output.QuietProgress):
    """The bar of the running trial, and one line for every finished one."""

    def __init__(self, progress: output.StageProgress) -> None:
        super().__init__(progress, "trial")
        self._is_waiting = False

    def on_trial(self, number: int, trial: Trial | None) -> None:
        """Print what the trial gave."""
        self._is_waiting = False
        if trial is None:
            output.note(f"trial {number}: given up, it would not have reached the frontier")
        else:
            accuracy = f"{trial.validation_accuracy:.2f} % on validation images"
            output.note(f"trial {number}: {trial.bytes:,} bytes, {accuracy}")

    def on_wait(self, running: int) -> None:
        """Say so once."""
        if not self._is_waiting:
            self._is_waiting = True
            output.note(f"waiting for {running} trials of other processes")


def _print(found: Frontier, out: Path) -> None:
    from metaq.lab.frontier.plan import JSON_FILE, PLOT_FILE

    rows = [
        [
            f"{member.trial.bytes:,}",
            f"{found.float_bytes / member.trial.bytes:.1f} x",
            f"{member.trial.validation_accuracy:.2f}",
            f"{member.test_accuracy:.2f}",
            str(member.trial.number),
            member.trial.file,
        ]
        for member in found.members
    ]
    counted = f"{len(found.trials)} completed trials, {found.given_up} given up"
    output.print_table(
        f"Frontier of {found.net} on {found.data}: {counted}",
        ["bytes", "ratio", "validation %", "test %", "trial", "file"],
        rows,
    )
    output.note(f"wrote {out / JSON_FILE} and {out / PLOT_FILE}")
