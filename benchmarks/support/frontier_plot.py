"""The picture of one model of benchmarks/frontier.py: what the score is short of 1 against bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from support.embeddings_plot import BLUE, GREY, ORANGE

LEAST_LOSS = 1e-7

FAMILIES = (
    ("int8", "int8 per channel + zstd", "D"),
    ("blocks", "blocks of 32 + zstd", "v"),
    ("q", "GGUF's types + zstd", "^"),
    ("NNCodec", "NNCodec, dependent quantisation", "x"),
    ("HQQ", "HQQ + zstd", "P"),
    ("GPTQ", "GPTQ + zstd, calibrated", "s"),
    ("AutoRound", "AutoRound + zstd, calibrated", "*"),
)
"""Beginning of the names, label and marker."""


def plot(name: str, result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.subplots()
    for begin, label, marker in FAMILIES:
        rows = [row for row in result["peers"] if row["way"].startswith(begin)]
        if rows:
            axes.plot(*points(rows, result), marker, color=GREY, label=label, alpha=0.8)
    for way, color in (("metaq", BLUE), ("metaq calibrated", ORANGE)):
        rows = sorted((row for row in result["metaq"] if row["way"] == way), key=lambda row: float(row["bytes"]))
        if rows:
            axes.plot(*points(rows, result), "o-", color=color, label=way, markersize=4)
    axes.set(yscale="log", xscale="log", xlabel="complete file, % of its floats", ylabel="1 - score")
    axes.set_ylim(top=1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{name}: floats are {result['float_bytes']:,} bytes")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def points(rows: list[Mapping[str, Any]], result: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Sizes in percent and what scores are short of 1."""
    return (
        [100 * row["bytes"] / result["float_bytes"] for row in rows],
        [max(1 - row["score"], LEAST_LOSS) for row in rows],
    )
