"""``metaq decompress``."""

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
    files: dict[str, list[str]] = {}
    if out.suffix not in SUFFIXES and holds_folder(source):
        with output.stage_progress() as progress:
            files = {"files": list(restore_folder(source, out, force=force, progress=progress).files)}
    else:
        require(out.suffix in SUFFIXES, f"{out}: end the name in one of {', '.join(SUFFIXES)}.")
        output.claim(out, force=force)
        _restore_file(source, out)
    sizes = container.describe(source).sizes
    if as_json:
        output.print_json({**sizes, "seconds": time.perf_counter() - begun, "file": str(out), **files})
        return
    output.print_table(f"{source} restored as {out}", ["", "value"], output.size_rows(sizes))
    for what, names in files.items():
        output.note_names(what, dict.fromkeys(names, ""))


def _restore_file(source: Path, out: Path) -> None:
    if out.suffix == ".safetensors":
        with output.stage_progress() as progress:
            restore_safetensors(source, out, progress=progress)
        return
    from metaq.model import checkpoint

    checkpoint.write(out, checkpoint.weights_of(container.read(source)))
