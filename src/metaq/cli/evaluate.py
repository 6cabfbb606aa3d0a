"""``metaq evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metaq import container
from metaq.cli import output
from metaq.cli.options import Data, DataDir, Json, Model, OwnNet, Split, load_data, pick_split
from metaq.config import require

if TYPE_CHECKING:
    from metaq.lab.runs import Summary


def evaluate(
    source: Model,
    net: OwnNet = None,
    data: Data = "digits",
    data_dir: DataDir = None,
    split: Split = "test",
    record: Annotated[
        bool, typer.Option("--record", help="Write network, data and accuracy into the .metaq file, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Restore a model from its file and measure its accuracy."""
    from metaq.lab import runs

    require(not record or container.is_metaq(source), f"--record: {source} is no .metaq file, which says such things.")
    net = net or runs.network_of(source)
    summary = runs.measure_file(source, net=net, load_dataset=lambda: pick_split(load_data(data, data_dir), split))
    if record:
        summary = _recorded(source, summary, net, data, split)
    if as_json:
        output.print_json({**summary.to_dict(), "net": net, "data": data, "split": split})
    else:
        output.print_table(f"{source} on {data} ({split})", ["", "value"], output.summary_rows(summary))


def _recorded(source: Path, summary: Summary, net: str, data: str, split: str) -> Summary:
    """The summary once the file says network, data and accuracy, whatever room these take."""
    from metaq.container.metadata import rewrite
    from metaq.report import facts

    before = {key: value for key, value in container.describe(source).metadata.items() if key not in facts.IMAGES}
    known = {"net": net, "data": Path(data).absolute().name, **facts.accuracy_fact(summary.accuracy, split)}
    size = rewrite(source, {**before, **known})
    sizes = container.sizes(size, summary.float_bytes, summary.weights)
    return replace(summary, **sizes)  # type: ignore[arg-type]
