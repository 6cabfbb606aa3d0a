"""``metaq decompress``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import Force, Json
from metaq.compression.restoring import holds_folder, restore_folder, restore_safetensors
from metaq.config import require

SUFFIXES = (".safetensors", ".pth", ".pt")


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
    if out.suffix not in SUFFIXES and holds_folder(source):
        _restore_folder(source, out, force=force, as_json=as_json)
        return
    require(out.suffix in SUFFIXES, f"{out}: end the name in one of {', '.join(SUFFIXES)}.")
    output.claim(out, force=force)
    if out.suffix == ".safetensors":
        with output.stage_progress() as progress:
            restore_safetensors(source, out, progress=progress)
    else:
        _restore_for_torch(source, out)
    sizes = container.describe(source).sizes
    if as_json:
        output.print_json({**sizes, "seconds": time.perf_counter() - begun, "file": str(out)})
    else:
        output.print_table(f"{source} restored as {out}", ["", "value"], output.size_rows(sizes))


def _restore_for_torch(source: Path, out: Path) -> None:
    from metaq.model import checkpoint

    checkpoint.write(out, checkpoint.weights_of(container.read(source)))


def _restore_folder(source: Path, out: Path, *, force: bool, as_json: bool) -> None:
    begun = time.perf_counter()
    with output.stage_progress() as progress:
        restored = restore_folder(source, out, force=force, progress=progress)
    sizes = container.describe(source).sizes
    if as_json:
        files = list(restored.files)
        output.print_json({**sizes, "seconds": time.perf_counter() - begun, "file": str(out), "files": files})
        return
    output.print_table(f"{source} restored as {out}", ["", "value"], output.size_rows(sizes))
    output.note_names("files", dict.fromkeys(restored.files, ""))
