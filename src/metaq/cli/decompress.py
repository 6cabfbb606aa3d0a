"""``metaq decompress``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli import folders, output
from metaq.cli.options import Force, Json
from metaq.compression import pipeline
from metaq.files import refuse_overwrite
from metaq.model import checkpoint


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("decompress", epilog="Example: metaq decompress model.metaq -o model.safetensors")(decompress)


def decompress(
    source: Annotated[Path, typer.Argument(help="The .metaq file.")],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="The .safetensors, .pth or .pt file to write; or a folder, if it was one."),
    ],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Restore the quantised weights, bit for bit, as an ordinary checkpoint or model folder."""
    begun = time.perf_counter()
    if out.suffix not in checkpoint.WRITABLE_SUFFIXES and folders.holds_folder(source):
        folders.decompress(source, out, force=force, as_json=as_json)
        return
    refuse_overwrite(out, force=force)
    state_dict = pipeline.load(source)
    checkpoint.write(out, state_dict)
    numbers = pipeline.sizes(state_dict, file_bytes=source.stat().st_size)
    if as_json:
        output.print_json({**numbers, "seconds": time.perf_counter() - begun, "file": str(out)})
    else:
        output.print_table(f"{source} restored as {out}", ["", "value"], output.size_rows(numbers))
