"""The picture of benchmarks/knob.py: for every loop, the figure on test data against bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from support.embeddings_plot import BLUE, GREY, ORANGE
from support.loops.rows import FLOAT, GOAL, HAND, POST_TRAINING, PRUNING, Row, Rows

COLUMNS = 5
WAYS = (
    (GOAL, "trained to a goal", "o-", BLUE),
    (POST_TRAINING, "compressed after training, calibrated", "s-", ORANGE),
    (PRUNING, "pruned, int8 + zstd", "D-", GREY),
)
"""Name, label, style and colour."""


def plot(rows: Rows, path: Path) -> None:
    """Write a PNG."""
    loops = rows.loops()
    lines, columns = max(1, math.ceil(len(loops) / COLUMNS)), max(1, min(COLUMNS, len(loops)))
    figure = Figure(figsize=(max(3.2 * columns, 6.4), 2.7 * lines + 0.5), layout="constrained")
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, loop in zip(places, loops, strict=False):
        panel(axes, rows, loop)
    for axes in places[len(loops) :]:
        axes.set_axis_off()
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 * min(columns, 2), frameon=False)
    figure.supxlabel("complete file, % of its floats", fontsize="medium")
    figure.savefig(path, dpi=120)


def panel(axes: Axes, rows: Rows, loop: str) -> None:
    """One loop."""
    floats = rows.of(loop, FLOAT)
    axes.axhline(median(row["test"] for row in floats), color="black", linestyle="--", linewidth=1, label="float")
    for way, label, style, color in WAYS:
        found = list(points(rows, loop, way, floats[0]["bytes"]))
        axes.plot([x for x, _ in found], [y for _, y in found], style, color=color, label=label, markersize=4)
    tried = [row for row in rows.all if row["loop"] == loop and row["way"].startswith(HAND) and "bytes" in row]
    if tried:
        places = [100 * row["bytes"] / floats[0]["bytes"] for row in tried]
        axes.plot(places, [row["test"] for row in tried], "x", color="black", label="λ and step by hand")
    axes.set_xscale("log")
    if floats[0]["is_loss"]:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{loop}: {floats[0]['figure']}", fontsize="small")
    axes.tick_params(labelsize="small")
    axes.grid(visible=True, alpha=0.25)


def points(rows: Rows, loop: str, way: str, float_bytes: int) -> Iterator[tuple[float, float]]:
    """Sizes in percent and test figures, medians over the seeds, of every ratio at which there are some."""
    for ratio in rows.ratios():
        found: Sequence[Row] = [row for row in rows.of(loop, way, ratio) if "test" in row]
        if found:
            size = median(row["bytes"] for row in found)
            yield 100 * size / float_bytes, median(row["test"] for row in found)
