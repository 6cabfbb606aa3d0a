"""``metaq export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metaq import checkpoint, runs, structure
from metaq.checkpoint import StateDict
from metaq.cli import output
from metaq.cli.options import Force, Json
from metaq.config import require
from metaq.files import refuse_overwrite


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog="Example: metaq export model.metaq --fold --net lenet5 -o small.safetensors")(export)


def export(
    source: Annotated[Path, typer.Argument(help="Model: .metaq, .safetensors, .pth or .pt.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors, .pth or .pt file to write.")],
    fold: Annotated[
        bool,
        typer.Option("--fold", help="Take out units that are constant or unread: smaller layers, the same outputs."),
    ] = False,
    net: Annotated[str | None, typer.Option("--net", help="With --fold: its network; default: lenet5.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a model as ordinary dense weights; with --fold as a smaller network that computes the same."""
    require(fold or net is None, f"--net {net}: only folding needs the network; give --fold too.")
    refuse_overwrite(out, force=force)
    state_dict = checkpoint.read(source)
    folded = structure.fold(runs.build(net or "lenet5", state_dict)) if fold else None
    written = state_dict if folded is None else _as_typed(folded.model.state_dict(), state_dict)
    checkpoint.write(out, written)
    weights = sum(tensor.numel() for tensor in written.values())
    if as_json:
        output.print_json({"units": folded.units if folded else None, "weights": weights, "file": str(out)})
        return
    rows = output.folded_rows(folded.units) if folded else []
    output.print_table(f"{source} as {out}", ["", "value"], [*rows, ("weights", f"{weights:,}")])


def _as_typed(state_dict: StateDict, source: StateDict) -> StateDict:
    """The tensors in the dtypes of those they came from."""
    return {name: tensor.to(source[name].dtype) for name, tensor in state_dict.items()}
