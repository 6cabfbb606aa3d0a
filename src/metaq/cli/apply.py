"""``metaq apply``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from metaq.cli import output
from metaq.cli.decompress import is_folder, is_other_form
from metaq.cli.diff import Base
from metaq.cli.options import Coder, Force, Json
from metaq.config import require
from metaq.model.formats.weight_file import WRITABLE_SUFFIXES


def apply(
    base: Base,
    updates: Annotated[list[Path], typer.Argument(help="Updates that metaq diff has written, in their order.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="What to write: .metaq, .safetensors, .pth or .npz; or a folder or file as the model is.",
        ),
    ],
    coder: Coder = "small",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the model that updates make of their base: one file, whatever the number of updates."""
    begun = time.perf_counter()
    with output.stage_progress() as progress:
        progress.stage("applying", None)
        from metaq.compression.restoring import origin_of, restore_file, restore_folder
        from metaq.files import write_bytes
        from metaq.model import checkpoint
        from metaq.model.applying import applied

        model = applied(base, updates)
        made_of = origin_of(model.metadata)
        if out.suffix == ".metaq":
            output.claim(out, force=force, sources=updates)
            write_bytes(out, model.encode(coder=coder))
        elif made_of is None or is_other_form(out, made_of):
            require(
                out.suffix in WRITABLE_SUFFIXES,
                f"{out}: end the name in .metaq or one of {', '.join(WRITABLE_SUFFIXES)}.",
            )
            output.claim(out, force=force, sources=updates)
            checkpoint.write_as(out, model.state_dict(), model.metadata)
        else:
            with tempfile.TemporaryDirectory() as folder:
                packed = Path(folder) / "model.metaq"
                packed.write_bytes(model.encode(coder="fast"))
                if is_folder(out, made_of, packed):
                    restore_folder(packed, out, force=force, progress=progress)
                else:
                    output.claim(out, force=force, sources=updates)
                    restore_file(packed, out, progress=progress)
    if as_json:
        told = {"updates": len(updates), "tensors": len(model.held), "identity": model.identity.hex()}
        output.print_json({**told, "seconds": time.perf_counter() - begun, "file": str(out)})
        return
    rows = [
        ("updates", f"{len(updates):,}"),
        ("tensors", f"{len(model.held):,}"),
        ("model", model.identity.hex()),
    ]
    output.print_table(str(out), ["", "value"], rows)
