"""``metaq train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from metaq import runs
from metaq.cli import output
from metaq.cli.options import DataDir, Force, Json, load_data
from metaq.config import require
from metaq.runs import TrainingOutcome
from metaq.train import PRESETS, TrainConfig, preset
from metaq.train.records import tensorboard_available


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", epilog="Example: metaq train --preset lenet5-mnist --out runs/lenet5")(train)


def train(
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")
    ] = "lenet5-digits",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the run.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    net: Annotated[str | None, typer.Option("--net", help="Another network than the preset's.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Another data set than the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Another number of epochs.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as key=value; see config.json of a run.")
    ] = None,
    data_dir: DataDir = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a network to few bits and write RUN/model.metaq, its curves, metrics and settings."""
    require((out is None) != (resume is None), "train: give either --out FOLDER or --resume FOLDER.")
    if not tensorboard_available():
        output.note("TensorBoard is not installed, so no scalars are written; metaq-torch[tensorboard] brings it.")
    folder = resume or out or Path()
    try:
        outcome = (
            _resume(folder, data_dir)
            if resume
            else _start(
                _configure(preset_name, net, data, epochs, seed, assignments or []), folder, data_dir, force=force
            )
        )
    except KeyboardInterrupt:
        output.error(f"stopped; every finished epoch is saved. Go on with: metaq train --resume {folder}")
        raise typer.Exit(130) from None
    if as_json:
        output.print_json(runs.outcome_to_dict(outcome))
    else:
        _print(outcome)


def _configure(
    preset_name: str, net: str | None, data: str | None, epochs: int | None, seed: int | None, assignments: list[str]
) -> TrainConfig:
    given = {"net": net, "data": data, "epochs": epochs, "seed": seed}
    named = {key: value for key, value in given.items() if value is not None}
    return replace(preset(preset_name), **named).override(assignments)  # type: ignore[arg-type]


def _start(config: TrainConfig, folder: Path, data_dir: Path | None, *, force: bool) -> TrainingOutcome:
    splits = load_data(config.data, data_dir, validation_count=config.validation_count)
    runs.new_folder(folder, force=force)
    with output.step_progress() as progress:
        return runs.train_to_folder(config, splits, folder, output.TrainingProgress(progress, "training"))


def _resume(folder: Path, data_dir: Path | None) -> TrainingOutcome:
    config = runs.saved_config(folder)
    splits = load_data(config.data, data_dir, validation_count=config.validation_count)
    with output.step_progress() as progress:
        return runs.resume_in_folder(folder, splits, output.TrainingProgress(progress, "training"))


def _print(outcome: TrainingOutcome) -> None:
    rows = [
        *output.summary_rows(outcome.summary),
        ("validation accuracy", f"{outcome.validation_accuracy:.2f} %"),
        ("kept epoch", f"{outcome.kept_epoch} of {outcome.epochs}"),
    ]
    output.print_table(f"{outcome.folder / runs.MODEL_FILE}, measured on the test images", ["", "value"], rows)
