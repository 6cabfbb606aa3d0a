"""``metaq demo``."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli import output
from metaq.cli.options import Force, Json
from metaq.config import needs
from metaq.errors import OutputError

REPORT_FILE = Path("metaq-demo-report.html")
"""In the current folder, where the run itself is not kept; else it stands with the run."""


def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Keep the run, and its report, in this folder.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of both trainings.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """The whole road on embedded digits: train, quantise, pack, restore, evaluate, report."""
    needs("sklearn", "jinja2", "matplotlib")
    from metaq.cli import demonstration
    from metaq.lab import runs

    place: AbstractContextManager[str | Path] = tempfile.TemporaryDirectory() if out is None else nullcontext(out)
    with place as folder, output.stage_progress() as progress:
        result = demonstration.run(
            runs.new_folder(folder, force=force),
            seed=seed,
            plain_observer=output.QuietProgress(progress, "float network"),
            observer=output.TrainingProgress(progress, "few bits"),
        )
        page = REPORT_FILE if out is None else out / runs.REPORT_FILE
        report: Path | None = None
        try:
            report = demonstration.write_report(Path(folder), page)
        except OutputError as error:
            # Without a place for the report the demonstration has succeeded all the same.
            output.note(f"no report: {error}")
    if as_json:
        output.print_json({**result.to_dict(), "report": None if report is None else str(report)})
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
    if report is not None:
        output.line(f"report: {report.resolve()}")
