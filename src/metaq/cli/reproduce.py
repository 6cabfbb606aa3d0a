"""``metaq reproduce``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli import output
from metaq.cli.options import DataDir, Json, load_data
from metaq.config import near_match, require
from metaq.lab import thesis
from metaq.lab.nets import create, load_weights
from metaq.model import checkpoint

STUDIES = ("thesis",)


def reproduce(
    study: Annotated[str, typer.Argument(help="What to reproduce: thesis.")],
    checkpoint_path: Annotated[Path, typer.Option("--checkpoint", help="The original LeNet-5 before quantisation.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print published tables beside what is measured now."""
    begun = time.perf_counter()
    require(study in STUDIES, f"reproduce {study}: there is no such study; {near_match(study, STUDIES)}")
    state_dict = checkpoint.read(checkpoint_path)
    load_weights(create("lenet5"), state_dict)
    test = load_data("mnist", data_dir).test
    with output.stage_progress() as progress:
        progress.stage("trying bucket counts", len(thesis.PUBLISHED_SWEEP))
        report = thesis.reproduce(state_dict, test, on_row=progress.advance)
    if as_json:
        sizes = thesis.summary(state_dict, report)
        output.print_json({**sizes, **dataclasses.asdict(report), "seconds": time.perf_counter() - begun})
        return
    output.print_table(
        "Quantisation of the published LeNet-5, MNIST test images",
        ["buckets", "published %", "measured %", "published bits", "measured bits"],
        [
            [
                str(row.buckets),
                f"{row.published_accuracy:.2f}",
                f"{row.accuracy:.2f}",
                f"{row.published_entropy_bits:,}",
                f"{row.entropy_bits:,.1f}",
            ]
            for row in report.quantization
        ],
    )
    columns = ["coder", "published bits", "measured bits"]
    title = f"All weights at C = {thesis.BUCKETS} as the original codes them"
    output.print_table(title, columns, [_cells(row) for row in report.original_sizes])
    output.note(thesis.HUFFMAN_NOTE)
    title = f"Bucket indices at C = {thesis.BUCKETS}, tensor by tensor, tables counted"
    output.print_table(title, columns, [_cells(row) for row in report.own_sizes])
    output.print_table("Complete .metaq file", ["", "bytes"], [["file", f"{report.file_bytes:,}"]])


def _cells(row: thesis.SizeRow) -> list[str]:
    return [row.coder, "-" if row.published_bits is None else f"{row.published_bits:,}", f"{row.bits:,}"]
