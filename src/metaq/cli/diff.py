"""``metaq diff``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metaq.cli import output
from metaq.cli.compress import with_inputs
from metaq.cli.options import (
    Calibrate,
    Coder,
    Exclude,
    Force,
    Include,
    Json,
    Keep,
    Key,
    OwnNet,
    TargetBitsPerWeight,
    TargetBytes,
    TargetRatio,
)
from metaq.config import require

if TYPE_CHECKING:
    from metaq.compression.updating import Update

Base = Annotated[Path, typer.Argument(help="Model that is there already: a .metaq file or any other file or folder.")]


def diff(
    base: Base,
    new: Annotated[Path, typer.Argument(help="Model that it is to become: the same.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The update to write, a .metaq file.")],
    key: Key = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Bring every tensor back bit for bit.")] = False,
    target_bytes: TargetBytes = None,
    target_ratio: TargetRatio = None,
    target_bits_per_weight: TargetBitsPerWeight = None,
    keep: Keep = None,
    calibrate: Calibrate = None,
    net: OwnNet = None,
    coder: Coder = "small",
    include: Include = None,
    exclude: Exclude = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write what has changed between two models as one small file, which metaq apply adds to the first one.

    Of a new model that is a .metaq file every bit comes back. Of any other, the change is quantised, as metaq compress
    quantises weights; without a goal so finely that most models do not feel it.
    """
    begun = time.perf_counter()
    output.claim(out, force=force, sources=[base, new])
    require(keep is None or calibrate is not None, "--keep: outputs are compared on inputs; give some by --calibrate.")
    require(calibrate is None or not lossless, "--lossless: leaves nothing to calibrate; give no inputs.")
    goals: dict[str, Any] = {
        "target_bytes": target_bytes,
        "target_ratio": target_ratio,
        "target_bits_per_weight": target_bits_per_weight,
        "keep": keep,
    }
    goals = {name: value for name, value in goals.items() if value is not None}
    given = goals | ({"include": include} if include else {}) | ({"exclude": exclude} if exclude else {})
    with output.stage_progress() as progress:
        progress.stage("reading", None)
        from metaq.compression.compressing import diff as difference
        from metaq.model.applying import is_packed, model_of

        known = model_of(base)
        if calibrate is None or is_packed(new):
            require(calibrate is None, f"--calibrate: {new} is compressed already; give the model it was made of.")
            own = given | ({"key": key} if key else {})
            found = difference(known, new, lossless=lossless, coder=coder, progress=progress, **own)
    if calibrate is not None:
        from metaq.compression.compressed import Goal
        from metaq.compression.updating import Update
        from metaq.model.opened import open_model

        model = open_model(new, key=key)
        rules = {name: value for name, value in given.items() if name not in goals}
        made = with_inputs(model, new, Goal(**goals), calibrate, net, base=known, coder=coder, **rules)
        assert isinstance(made, Update)
        found = made
    found.save(out)
    _print(found, base, out, seconds=time.perf_counter() - begun, as_json=as_json)


def _print(update: Update, base: Path, out: Path, *, seconds: float, as_json: bool) -> None:
    told = {
        "bytes": update.file_bytes,
        "float_bytes": update.float_bytes,
        "ratio": update.ratio,
        "changed": len(update.changed),
        "unchanged": update.unchanged,
        "removed": list(update.removed),
        "base": update.base.identity.hex(),
        "relative_error": update.relative_error,
        "kept": update.kept,
        "kept_error": update.kept_error,
        "notes": list(update.notes),
        "left_out": update.left_out,
    }
    if as_json:
        output.print_json({**told, "seconds": seconds, "file": str(out)})
        return
    rows = [
        ("update", f"{update.file_bytes:,} bytes"),
        ("tensors of the new model", f"{update.float_bytes:,} bytes, {update.ratio:.1f} x as many"),
        ("changed", f"{len(update.changed):,} tensors of {len(update.changed) + update.unchanged:,}"),
        *([("removed", f"{len(update.removed):,} tensors")] if update.removed else []),
    ]
    if update.kept is not None:
        rows.append(("expect of the outputs", output.score(update.kept, update.kept_error)))
    elif update.relative_error is not None:
        rows.append(("error of the change", f"{update.relative_error:.1%} of its size"))
    rows.append(("load", f"metaq apply {base} {out} -o NEW"))
    output.print_table(str(out), ["", "value"], rows)
    for note in update.notes:
        output.note(f"note: {note}")
    output.note_names("left out", update.left_out)
