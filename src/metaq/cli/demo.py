"""``metaq demo``."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli import demonstration, output
from metaq.cli.options import Force, Json
from metaq.errors import OutputError
from metaq.lab import runs

REPORT_FILE = Path("metaq-demo-report.html")
"""In the current folder, where the run itself is not kept."""


def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Keep the run, and its report, in this folder.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of both trainings.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The whole road on embedded digits: train, quantise, pack, restore, evaluate, report."""
    place: AbstractContextManager[str | Path] = tempfile.TemporaryDirectory() if out is None else nullcontext(out)
    with place as folder, output.stage_progress() as progress:
        result = demonstration.run(
            runs.new_folder(folder, force=force),
            seed=seed,
            plain_observer=output.QuietProgress(progress, "float network"),
            observer=output.TrainingProgress(progress, "few bits"),
        )
        page = _report(Path(folder), REPORT_FILE if out is None else out / runs.REPORT_FILE)
    if as_json:
        output.print_json({**result.to_dict(), "report": None if page is None else str(page)})
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
    if page is not None:
        output.line(f"report: {page.resolve()}")


def _report(folder: Path, page: Path) -> Path | None:
    """Write the report; without a place for it the demonstration has succeeded all the same."""
    try:
        return demonstration.write_report(folder, page)
    except OutputError as error:
        output.note(f"no report: {error}")
        return None
