"""``metaq compress``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from metaq import checkpoint, pipeline
from metaq.cli import output
from metaq.cli.options import Buckets, Center, Exclude, Force, Grouping, Include, Json, Radius, grids_for
from metaq.files import refuse_overwrite


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compress", epilog="Example: metaq compress model.safetensors -o model.metaq --buckets 64")(compress)


def compress(
    source: Annotated[Path, typer.Argument(help="Checkpoint: .pth, .pt, .safetensors or .metaq.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .metaq file to write.")],
    buckets: Buckets = 255,
    center: Center = None,
    radius: Radius = None,
    grouping: Grouping = "tensor",
    coder: Annotated[str, typer.Option("--coder", help="auto tries all and keeps the smallest per tensor.")] = "auto",
    include: Include = None,
    exclude: Exclude = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Snap the weights of a checkpoint to buckets and write them as one small file."""
    begun = time.perf_counter()
    refuse_overwrite(out, force=force)
    state_dict = checkpoint.read(source)
    grids = grids_for(
        state_dict, buckets, center=center, radius=radius, grouping=grouping, include=include, exclude=exclude
    )
    report = pipeline.save(out, state_dict, grids=grids, coder=coder)
    exact = sorted(set(state_dict) - set(grids))
    numbers = pipeline.sizes(state_dict, file_bytes=report.file_bytes)
    if as_json:
        seconds = time.perf_counter() - begun
        output.print_json({**numbers, "seconds": seconds, "file": str(out), "stored_exactly": exact})
        return
    output.print_table(str(out), ["", "value"], output.size_rows(numbers))
    if exact:
        output.note(f"stored exactly, not quantised: {', '.join(exact)}")
