"""``metaq demo``."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from metaq import demonstration, runs
from metaq.cli import output
from metaq.cli.options import Force, Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: metaq demo --out runs/demo")(demo)


def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Keep the run in this folder.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of both trainings.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The whole road on embedded digits: train, quantise, pack, restore, evaluate."""
    place: AbstractContextManager[str | Path] = tempfile.TemporaryDirectory() if out is None else nullcontext(out)
    with place as folder, output.step_progress() as progress:
        result = demonstration.run(
            runs.new_folder(folder, force=force),
            seed=seed,
            plain_observer=output.QuietProgress(progress, "float network"),
            observer=output.TrainingProgress(progress, "few bits"),
        )
    if as_json:
        output.print_json(result.to_dict())
        return
    summary = result.outcome.summary
    rows = [
        ("float tensors", f"{summary.float_bytes:,} bytes"),
        ("file on disk", f"{summary.bytes:,} bytes"),
        ("ratio", f"{summary.ratio:.1f} x"),
        ("accuracy before (float training)", f"{result.float_accuracy:.2f} %"),
        ("accuracy after (restored from the file)", f"{summary.accuracy:.2f} %"),
        ("restored tensors bit-equal to the quantised", "yes" if result.bit_equal else "NO"),
    ]
    output.print_table("LeNet-5 on digits, 400 test images", ["", "value"], rows)
