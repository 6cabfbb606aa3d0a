"""``metaq evaluate``."""

from metaq.cli import output
from metaq.cli.options import Data, DataDir, Json, Model, OwnNet, Split, load_data, pick_split


def evaluate(
    source: Model,
    net: OwnNet = None,
    data: Data = "digits",
    data_dir: DataDir = None,
    split: Split = "test",
    as_json: Json = False,
) -> None:
    """Restore a model from its file and measure its accuracy."""
    from metaq.lab import runs

    net = net or runs.network_of(source)
    summary = runs.measure_file(source, net=net, load_dataset=lambda: pick_split(load_data(data, data_dir), split))
    if as_json:
        output.print_json({**summary.to_dict(), "net": net, "data": data, "split": split})
    else:
        output.print_table(f"{source} on {data} ({split})", ["", "value"], output.summary_rows(summary))
