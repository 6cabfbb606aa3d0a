"""``metaq decompress``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import Force, Json
from metaq.compression.restoring import has_parts, origin, restore_file, restore_folder, restore_safetensors
from metaq.config import require
from metaq.model.formats.weight_file import TORCH_SUFFIXES, WRITABLE_SUFFIXES

FOLDER = "a folder"


def decompress(
    source: Annotated[Path, typer.Argument(help="The .metaq file.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="What to write: a folder or file such as it was; or its weights as .safetensors, .pth or .npz.",
        ),
    ],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Restore the quantised weights, bit for bit, as what they were: checkpoint, folder or other file."""
    begun = time.perf_counter()
    files: tuple[str, ...] = ()
    made_of = origin(source)
    with output.stage_progress() as progress:
        if made_of is None or is_other_form(out, made_of):
            require(out.suffix in WRITABLE_SUFFIXES, f"{out}: end the name in one of {', '.join(WRITABLE_SUFFIXES)}.")
            output.claim(out, force=force, sources=[source])
            if out.suffix == ".safetensors":
                restore_safetensors(source, out, progress=progress)
            else:
                from metaq.model import checkpoint

                checkpoint.restore_as(source, out)
        elif is_folder(out, made_of, source):
            files = restore_folder(source, out, force=force, progress=progress).files
        else:
            output.claim(out, force=force, sources=[source])
            restore_file(source, out, progress=progress)
    sizes = container.describe(source).sizes
    if as_json:
        told = {"files": list(files)} if files else {}
        output.print_json({**sizes, "seconds": time.perf_counter() - begun, "file": str(out), **told})
        return
    output.print_table(f"{source} restored as {out}", ["", "value"], output.size_rows(sizes))
    output.note_names("files", dict.fromkeys(files, ""))


def is_folder(out: Path, made_of: str, source: Path) -> bool:
    """Whether the output is a folder: `source` was made of one, or of files that belong together."""
    is_named_so = not out.suffix or (has_parts(source) and out.suffix != Path(made_of).suffix)
    return made_of == FOLDER or (is_named_so and not out.is_file())


def is_other_form(out: Path, made_of: str) -> bool:
    """Whether the output is a file of weights, and not of the kind of what there was."""
    kinds = ["torch" if path.suffix in TORCH_SUFFIXES else path.suffix for path in (out, Path(made_of))]
    return out.suffix in WRITABLE_SUFFIXES and kinds[0] != kinds[1]
