"""The picture of benchmarks/course.py: bits, λ and loss one above the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.pace import SETTLE
from metaq.regularizer.size_control import ASKING
from support.embeddings_plot import BLUE, GREY, ORANGE

WARM_UP = RegularizerConfig().warmup
PHASES = (("warm-up", 0.0, WARM_UP), ("pressing", WARM_UP, 1 - SETTLE), ("settling", 1 - SETTLE, 1.0))
SHADES = ("#eef1f5", "#ffffff", "#eef1f5")


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(8.0, 6.6), layout="constrained")
    bits, strength, loss = figure.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1))
    rows = result["rows"]
    for axes in (bits, strength, loss):
        for (_, begin, end), shade in zip(PHASES, SHADES, strict=True):
            axes.axvspan(begin, end, color=shade, linewidth=0)
        for _, begin, _ in PHASES[1:]:
            axes.axvline(begin, color=GREY, linewidth=0.6)
        axes.grid(visible=True, axis="y", alpha=0.25)
        axes.margins(x=0)
    for name, begin, end in PHASES:
        bits.text((begin + end) / 2, 1.02, name, transform=bits.get_xaxis_transform(), ha="center", va="bottom")

    curve(bits, rows, "bits_per_weight", BLUE, "entropy of the indices")
    bits.axhline(result["goal_bits_per_weight"], color=ORANGE, linestyle="--", label="goal, less what is fixed")
    bits.plot([1.0], [result["file_bits_per_weight"]], "o", color=ORANGE, clip_on=False, zorder=3, label="file")
    for share in ASKING:
        place = WARM_UP + share * (1 - SETTLE - WARM_UP)
        bits.axvline(place, color=GREY, linestyle=":", label="its size is asked for" if share == ASKING[0] else None)
    bits.set_ylabel("bits per weight")
    bits.set_ylim(bottom=0)
    bits.legend(loc="upper right", framealpha=1)

    curve(strength, rows, "strength", BLUE, "λ")
    strength.set_yscale("log")
    strength.set_ylabel("λ, loss per bit")

    curve(loss, result["float"], "loss", GREY, "without metaq")
    curve(loss, rows, "loss", BLUE, "to the goal")
    loss.set_yscale("log")
    loss.set_ylabel("training loss")
    loss.legend(loc="upper right")
    loss.set_xlabel("share of all steps")
    loss.set_xlim(0, 1)
    loss.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.savefig(path, dpi=120)


def curve(axes: Axes, rows: list[Mapping[str, Any]], key: str, color: str, label: str) -> None:
    """One figure over the share of steps; what is not known yet is left out."""
    values = [math.nan if row[key] is None else row[key] for row in rows]
    axes.plot([row["share"] for row in rows], values, color=color, label=label)
