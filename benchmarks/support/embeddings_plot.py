"""The pictures of benchmarks/embeddings.py: squared error and cosine against bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

Row = Mapping[str, Any]

BLUE, ORANGE, GREY = "#0b5cad", "#c2570c", "#6b7280"
STYLES = ("--", ":", "-.")


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    errors, cosines = figure.subplots(1, 2)
    whole = result["float_bytes"]
    for number, scale in enumerate(sorted({row["lambda_scale"] for row in result["nncodec"]})):
        rows = [row for row in result["nncodec"] if row["lambda_scale"] == scale]
        label = f"NNCodec, lambda_scale {scale:g}"
        curve(errors, rows, "squared_error", whole, STYLES[number] + ".", color=GREY, label=label)
    curve(errors, result["without_data"], "squared_error", whole, "o-", color=BLUE, label="metaq")
    curve(cosines, with_loss(result["without_data"]), "loss", whole, "o-", color=BLUE, label="metaq, without data")
    curve(cosines, with_loss(result["with_data"]), "loss", whole, "s-", color=ORANGE, label="metaq, calibrated")
    wanted = [(target["percent_of_float"], 1 - target["wanted_cosine"]) for target in result["targets"]]
    cosines.plot(*zip(*wanted, strict=True), "x", color="black", markersize=8, label="wanted: on or above, and left")
    finish(errors, "sum of squared errors of the weights")
    finish(cosines, "mean cosine with the original's embeddings")
    show_what_is_left(cosines)
    figure.suptitle(f"{result['model']}: float32 is {whole:,} bytes")
    figure.savefig(path, dpi=120)


def with_loss(rows: Sequence[Row]) -> list[Row]:
    """Rows with what the mean cosine is short of 1."""
    return [{**row, "loss": 1 - row["mean_cosine"]} for row in rows]


def curve(axes: Axes, rows: Sequence[Row], key: str, whole: int, style: str, **options: Any) -> None:
    """A line through rows in order of their bytes, which are shown in percent of `whole`."""
    ordered = sorted(rows, key=lambda row: float(row["bytes"]))
    if ordered:
        axes.plot([100 * row["bytes"] / whole for row in ordered], [row[key] for row in ordered], style, **options)


def finish(axes: Axes, label: str) -> None:
    """Scale and labels."""
    axes.set_yscale("log")
    axes.set_xlabel("complete file, % of float32")
    axes.set_ylabel(label)
    axes.grid(visible=True, which="both", alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def show_what_is_left(axes: Axes) -> None:
    """Label losses by one less them, with the best on top."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{1 - value:.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.invert_yaxis()
