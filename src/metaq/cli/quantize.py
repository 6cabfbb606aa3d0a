"""``metaq quantize``."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import (
    Center,
    Data,
    DataDir,
    Exclude,
    Force,
    Grouping,
    Include,
    Json,
    Net,
    Radius,
    Split,
    grids_for,
    load_data,
    network_of,
    pick_split,
)
from metaq.config import require
from metaq.lab import runs
from metaq.lab.bucket_sweep import sweep_buckets
from metaq.model import checkpoint
from metaq.quantize.sweep import SweepRow, parse_range


def quantize(
    source: Annotated[Path, typer.Argument(help="Checkpoint: .pth, .pt, .safetensors or .metaq.")],
    net: Net = None,
    data: Data = "digits",
    data_dir: DataDir = None,
    split: Split = "validation",
    counts: Annotated[str, typer.Option("--sweep", help="Bucket counts, FIRST:LAST or FIRST:LAST:STEP.")] = "10:1024",
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Points of accuracy that may be lost against the float weights.")
    ] = 0.1,
    center: Center = None,
    radius: Radius = None,
    grouping: Grouping = "global",
    include: Include = None,
    exclude: Exclude = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the chosen quantisation as .metaq.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Try bucket counts on data and choose the smallest that keeps the accuracy."""
    begun = time.perf_counter()
    bucket_counts = parse_range(counts)
    require(tolerance >= 0, f"--tolerance {tolerance}: must not be negative.")
    if out is not None:
        output.claim(out, force=force)
    net = network_of(source, net)
    metadata = {"net": net, "data": data}
    state_dict = checkpoint.read(source)
    grids_of = partial(
        grids_for, state_dict, center=center, radius=radius, grouping=grouping, include=include, exclude=exclude
    )
    dataset = pick_split(load_data(data, data_dir), split)
    with output.stage_progress() as progress:
        progress.stage("trying bucket counts", len(bucket_counts))
        outcome = sweep_buckets(
            state_dict,
            bucket_counts,
            net=net,
            dataset=dataset,
            grids_of=grids_of,
            tolerance=tolerance,
            metadata=metadata,
            on_row=lambda _: progress.advance(),
        )
    if out is not None:
        container.write(out, outcome.tensors, metadata=metadata)
    if as_json:
        summary = runs.summarize(
            state_dict,
            file_bytes=outcome.chosen.file_bytes or 0,
            accuracy_percent=outcome.chosen.accuracy,
            seconds=time.perf_counter() - begun,
        )
        rows = [dataclasses.asdict(row) for row in outcome.best]
        chosen = {"buckets": outcome.chosen.buckets, "entropy_bits": outcome.chosen.entropy_bits}
        floats = {"float_accuracy": outcome.float_accuracy, "split": split}
        output.print_json({**summary.to_dict(), **chosen, **floats, "best": rows})
        return
    columns = ["buckets", "accuracy %", "entropy bits", "file bytes"]
    title = f"best on the {split} images; the float weights have {outcome.float_accuracy:.2f} %"
    output.print_table(title, columns, [_cells(row) for row in outcome.best])
    output.print_table(f"smallest within {tolerance} points", columns, [_cells(outcome.chosen)])


def _cells(row: SweepRow) -> list[str]:
    return [str(row.buckets), f"{row.accuracy:.2f}", f"{row.entropy_bits:,.0f}", f"{row.file_bytes:,}"]
