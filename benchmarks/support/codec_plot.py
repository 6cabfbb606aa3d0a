"""The picture of benchmarks/codec.py: size over entropy against speed, for every stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Row = Mapping[str, Any]

COLORS = {
    "small": "#0b5cad",
    "fast": "#c2570c",
    "NNCodec": "#15803d",
    "zstd-22": "#7c3aed",
    "lzma": "#7c3aed",
    "brotli-11": "#7c3aed",
}
GREY = "#6b7280"
WIDEST = 1.35
"""Bars are cut off at this share of the middle one; their numbers are written beside them."""


def plot(results: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Write a PNG: for every stream, sizes on the left and speeds on the right."""
    shown = {title: [row for row in rows if "threads" not in row["coder"]] for title, rows in results.items()}
    figure = Figure(figsize=(11, sum(0.9 + 0.26 * len(rows) for rows in shown.values())), layout="constrained")
    heights = [len(rows) + 3 for rows in shown.values()]
    pictures = figure.subplots(len(shown), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (sizes, speeds), (title, rows) in zip(pictures, shown.items(), strict=True):
        plot_sizes(sizes, title, rows)
        plot_speeds(speeds, rows)
    pictures[0][1].legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    pictures[-1][0].set_xlabel("bytes over zero-order entropy")
    pictures[-1][1].set_xlabel("million weights a second on one thread")
    figure.savefig(path, dpi=120)


def plot_sizes(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    """A bar a coder, cut off where it is far longer than most."""
    sizes = [row["bytes_to_entropy"] for row in rows]
    limit = WIDEST * max(sorted(sizes)[len(sizes) // 2], 1)
    bars = axes.barh(range(len(rows)), [min(size, limit) for size in sizes], color=[color_of(row) for row in rows])
    labels = [f"{size:.4f}" if size <= limit else f"→ {size:.4f}" for size in sizes]
    axes.axvline(1, color="black", linewidth=1, linestyle=":")
    axes.bar_label(bars, labels, padding=3, fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(0, 1.15 * limit)
    axes.set_yticks(range(len(rows)), [row["coder"] for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")


def plot_speeds(axes: Axes, rows: Sequence[Row]) -> None:
    """Encoding and decoding speed of every coder, joined by a line."""
    for place, row in enumerate(rows):
        slow, quick = row["encode_millions_a_second"], row["decode_millions_a_second"]
        axes.plot((slow, quick), (place, place), color=color_of(row), linewidth=1.5)
        axes.plot(slow, place, "o", color=color_of(row), markerfacecolor="white", label="" if place else "encode")
        axes.plot(quick, place, "o", color=color_of(row), label="" if place else "decode")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=True, alpha=0.25)


def color_of(row: Row) -> str:
    """Colour by the name of the coder up to the comma."""
    return COLORS.get(row["coder"].partition(",")[0], GREY)
