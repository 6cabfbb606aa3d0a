"""``metaq inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import Force, Json, Model
from metaq.config import needs, require
from metaq.container.source import is_update
from metaq.report import inspection

RELATIONS = {"alone": "alone", "given": "by the base", "added": "added to the base"}
"""How a tensor of an update is told, in words."""


def inspect(
    source: Model,
    net: Annotated[
        str | None, typer.Option("--net", help="Network, to tell what folds away; default: the one the file names.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write weights and buckets as a PNG.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show what a file holds, tensor by tensor."""
    if plot is not None:
        output.claim(plot, force=force, sources=[source])
    if is_update(source):
        require(net is None and plot is None, "--net, --plot: are about models; give what the update is applied to.")
        _show_update(source, as_json=as_json)
        return
    found = inspection.inspect(source, net=net)
    # Before anything is printed, since a wrong network is an error.
    units = found.folded
    if plot is not None:
        needs("matplotlib", "markupsafe")
        from metaq.report.model_file import save_plot

        save_plot(plot, found)
    if as_json:
        output.print_json(found.to_dict())
        if found.coverage is not None:
            output.warn_of_left_out(found.coverage)
        return
    columns = ["tensor", "shape", "dtype", "used", "step", "coder", "bytes", "bits", "mode"]
    legend = "used: buckets in use; bits: their entropy; mode: share of the most common"
    output.print_table(str(source), columns, [_cells(row) for row in found.rows], legend=legend)
    folded = [] if units is None else output.folded_rows(units)
    covered = [] if found.coverage is None else output.coverage_rows(found.coverage)
    frame = [(name.removesuffix("_bytes"), f"{size:,} bytes") for name, size in found.frame.items() if size]
    output.print_table("in all", ["", "value"], [*output.size_rows(found.sizes), *frame, *covered, *folded])
    if found.coverage is not None:
        output.print_left_out(found.coverage)


def _show_update(source: Path, *, as_json: bool) -> None:
    """What can be told of an update without its base."""
    contents = container.describe(source)
    facts = contents.update
    assert facts is not None
    if as_json:
        tensors = [
            {"name": entry.name, "shape": list(entry.shape), "dtype": entry.dtype.name, "relation": entry.relation}
            for entry in contents.entries
        ]
        told = {"bytes": contents.file_bytes, "base": facts.base.hex(), "result": facts.result.hex()}
        output.print_json({**told, "removed": list(facts.removed), "tensors": tensors})
        return
    rows = [
        [
            entry.name,
            "×".join(map(str, entry.shape)) or "scalar",
            entry.dtype.name,
            RELATIONS[entry.relation],
            "-" if entry.grid is None else f"{2 * entry.grid.radius / entry.grid.count:.4g}",
            entry.coder,
        ]
        for entry in contents.entries
    ]
    output.print_table(str(source), ["tensor", "shape", "dtype", "told", "step", "coder"], rows)
    frame = [
        ("update", f"{contents.file_bytes:,} bytes"),
        ("of the model", facts.base.hex()),
        ("gives one that ends in", facts.result.hex()),
        *([("removed tensors", f"{len(facts.removed):,}")] if facts.removed else []),
    ]
    output.print_table("in all", ["", "value"], frame)


def _cells(row: inspection.TensorRow) -> list[str]:
    shape = "×".join(map(str, row.shape)) or "scalar"
    if row.step_size is None:
        coder = "-" if row.tied_to is None else f"tied to {row.tied_to}"
        return [row.name, shape, row.dtype, "-", "-", coder, f"{row.stored_bytes:,}", "-", "-"]
    return [
        row.name,
        shape,
        row.dtype,
        str(row.buckets_used),
        f"{row.step_size:.4g}",
        row.coder or "-",
        f"{row.stored_bytes:,}",
        f"{row.entropy_bits:,.0f}",
        f"{row.mode_share:.1%}",
    ]
