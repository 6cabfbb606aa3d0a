"""``metaq quantize``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.cli import options, output
from metaq.cli.compress import print_report
from metaq.config import require
from metaq.files import write_bytes

if TYPE_CHECKING:
    from metaq.lab.bucket_sweep import SweepRow
    from metaq.model.checkpoint import StateDict

DEFAULT_BUCKETS = 255


def quantize(
    source: Annotated[Path, typer.Argument(help="Checkpoint: .pth, .pt, .safetensors or .metaq.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The .metaq file to write.")] = None,
    buckets: Annotated[
        int | None, typer.Option("--buckets", help="Buckets C of every grid, at least 2 [default: 255].")
    ] = None,
    center: options.Center = None,
    radius: options.Radius = None,
    grouping: Annotated[
        str | None,
        typer.Option("--grouping", help="tensor: one grid per tensor; global: one for all, as a sweep has by default."),
    ] = None,
    counts: Annotated[
        str | None,
        typer.Option("--sweep", help="Try bucket counts, FIRST:LAST or FIRST:LAST:STEP, and choose by accuracy."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="With --sweep: points of accuracy that may be lost.")
    ] = 0.1,
    net: options.Net = "lenet5",
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    split: options.Split = "validation",
    coder: options.Coder = "small",
    include: options.Include = None,
    exclude: options.Exclude = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Quantise on uniform buckets over the range of the weights, as in the thesis.

    With --sweep, many bucket counts are tried on data, and the smallest is chosen that keeps the accuracy.
    """
    begun = time.perf_counter()
    require(buckets is None or counts is None, "--buckets, --sweep: give one of them.")
    require(out is not None or counts is not None, "-o: name the file to write; only --sweep works without.")
    require(buckets is None or buckets >= 2, f"--buckets {buckets}: a grid needs two buckets at least.")
    require(radius is None or radius > 0, f"--radius {radius}: must be positive.")
    require(grouping in (None, "tensor", "global"), f"--grouping {grouping}: choose tensor or global.")
    require(tolerance >= 0, f"--tolerance {tolerance}: must not be negative.")
    if out is not None:
        output.claim(out, force=force, sources=[source])
    with output.stage_progress() as progress:
        progress.stage("reading", None)
        from metaq.model import checkpoint
        from metaq.model.weights import ANY

        state_dict = checkpoint.read(source)
    is_global = grouping == "global" or (grouping is None and counts is not None)
    rules: dict[str, Any] = {
        "center": center,
        "radius": radius,
        "grouping": "global" if is_global else "tensor",
        "include": include or ANY,
        "exclude": exclude or (),
    }
    from metaq.report import facts

    given: dict[str, object] = {
        "--buckets": buckets,
        "--center": center,
        "--radius": radius,
        "--grouping": grouping,
        "--sweep": counts,
        "--tolerance": None if counts is None else tolerance,
        "--coder": None if coder == "small" else coder,
        "--include": include,
        "--exclude": exclude,
    }
    known = facts.command_fact("quantize", given)
    if counts is not None:
        _swept(
            state_dict, out, counts, rules, tolerance, net, data, data_dir, split, coder, known, begun, as_json=as_json
        )
    else:
        assert out is not None
        _on_buckets(state_dict, out, buckets or DEFAULT_BUCKETS, rules, coder, known, begun, as_json=as_json)


def _on_buckets(
    state_dict: StateDict,
    out: Path,
    buckets: int,
    rules: dict[str, Any],
    coder: str,
    known: Mapping[str, str],
    begun: float,
    *,
    as_json: bool,
) -> None:
    from metaq.compression.compressing import compress
    from metaq.compression.pipeline import choose_grids
    from metaq.report import facts

    grids = choose_grids(state_dict, count=buckets, **rules)
    with output.stage_progress() as progress:
        found = compress(state_dict, grids=grids, coder=coder, progress=progress)
    data = facts.added(found.data, known)
    found = replace(found, data=data, file_bytes=len(data))
    found.save(out)
    found = replace(found, coverage=found.coverage.explained(grids.reasons))
    print_report(found, out, seconds=time.perf_counter() - begun, as_json=as_json)


def _swept(
    state_dict: StateDict,
    out: Path | None,
    counts: str,
    rules: dict[str, Any],
    tolerance: float,
    net: str,
    data: str,
    data_dir: Path | None,
    split: str,
    coder: str,
    known: Mapping[str, str],
    begun: float,
    *,
    as_json: bool,
) -> None:
    from metaq import container
    from metaq.compression.pipeline import choose_grids
    from metaq.lab import runs
    from metaq.lab.bucket_sweep import parse_range, sweep_buckets
    from metaq.report import facts

    bucket_counts = parse_range(counts)
    metadata = {"net": net, "data": data}
    dataset = options.pick_split(options.load_data(data, data_dir), split)
    with output.stage_progress() as progress:
        progress.stage("trying bucket counts", len(bucket_counts))
        outcome = sweep_buckets(
            state_dict,
            bucket_counts,
            net=net,
            dataset=dataset,
            grids_of=lambda count: choose_grids(state_dict, count=count, **rules),
            tolerance=tolerance,
            metadata=metadata,
            on_row=lambda _: progress.advance(),
        )
    if out is not None:
        written = container.encode(outcome.tensors, metadata=metadata, coder=coder)
        accuracy = facts.accuracy_fact(outcome.chosen.accuracy, split, before=outcome.float_accuracy)
        size = write_bytes(out, facts.added(written, {**accuracy, **known}))
        outcome = replace(outcome, chosen=replace(outcome.chosen, file_bytes=size))
    floats = {"float_accuracy": outcome.float_accuracy, "split": split}
    if as_json:
        summary = runs.summarize(
            state_dict,
            file_bytes=outcome.chosen.file_bytes or 0,
            accuracy_percent=outcome.chosen.accuracy,
            seconds=time.perf_counter() - begun,
        )
        rows = [dataclasses.asdict(row) for row in outcome.best]
        chosen = {"buckets": outcome.chosen.buckets, "entropy_bits": outcome.chosen.entropy_bits}
        output.print_json({**summary.to_dict(), **chosen, **floats, "best": rows})
        return
    columns = ["buckets", "accuracy %", "entropy bits", "file bytes"]
    title = f"best on the {split} images; the float weights have {outcome.float_accuracy:.2f} %"
    output.print_table(title, columns, [_cells(row) for row in outcome.best])
    output.print_table(f"smallest within {tolerance} points", columns, [_cells(outcome.chosen)])


def _cells(row: SweepRow) -> list[str]:
    return [str(row.buckets), f"{row.accuracy:.2f}", f"{row.entropy_bits:,.0f}", f"{row.file_bytes:,}"]
