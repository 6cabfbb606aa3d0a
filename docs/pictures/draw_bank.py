"""Draws the size and quality of real models, metaq beside other ways, from the table of docs/results.md.

    python docs/pictures/draw_bank.py --out docs/pictures/bank.png

The table's figures come from benchmarks/frontier.py, with the command that stands below it; nothing is measured here. A
point of another way and metaq's files that are no worse than it lie on one line.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

PAGE = Path(__file__).parents[1] / "results.md"
HEADING = "## Beside other ways, at equal quality"
BLUE, ORANGE, GREY = "#0b5cad", "#c2570c", "#6b7280"
LEAST_LOSS = 3e-5
MOST_PANELS = 9
COLUMNS = 3


@dataclass(frozen=True)
class Row:
    """Bytes at one quality: of another way, and of metaq's files that are no worse; None where none was measured."""

    model: str
    score: float
    other: int
    without: int | None
    calibrated: int | None


def rows_of(text: str) -> list[Row]:
    """Rows of the table below :data:`HEADING` of a page."""
    table = text.split(HEADING)[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return [
        Row(model, float(score), bytes_of(other) or 0, bytes_of(without), bytes_of(calibrated))
        for model, _, score, other, without, calibrated in cells[2:]
    ]


def bytes_of(cell: str) -> int | None:
    """The number at the start of a cell."""
    found = re.match(r"[\d,]+", cell)
    return int(found[0].replace(",", "")) if found else None


def draw(axes: Axes, rows: list[Row]) -> None:
    """One model: bytes against what the score is short of 1."""
    for row in rows:
        loss = max(1 - row.score, LEAST_LOSS)
        ours = [size for size in (row.without, row.calibrated) if size]
        axes.plot([min(ours), row.other], [loss, loss], color=GREY, linewidth=1, zorder=1)
        axes.plot(row.other, loss, "x", color=GREY, zorder=2)
        if row.without:
            axes.plot(row.without, loss, "o", color=BLUE, markersize=5, zorder=3)
        if row.calibrated:
            axes.plot(row.calibrated, loss, "s", color=ORANGE, markersize=5, zorder=3)
    axes.set(yscale="log", ylim=(0.4, LEAST_LOSS / 1.5), xlim=(0, 1.08 * max(row.other for row in rows)))
    axes.set_title(rows[0].model, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks([0.1, 0.01, 0.001, 1e-4], ["0.9", "0.99", "0.999", "0.9999"])
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.25)


def short(size: float) -> str:
    """Bytes in kB or MB."""
    if size == 0:
        return "0"
    return f"{size / 1e6:g} MB" if size >= 1e6 else f"{size / 1e3:g} kB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the PNG")
    out = parser.parse_args().out
    rows = rows_of(PAGE.read_text(encoding="utf-8"))
    models = list(dict.fromkeys(row.model for row in rows))[:MOST_PANELS]
    figure = Figure(figsize=(9, 6.8), layout="constrained")
    panels = figure.subplots(-(-len(models) // COLUMNS), COLUMNS)
    for axes, model in zip(panels.flat, models, strict=True):
        draw(axes, [row for row in rows if row.model == model])
    figure.supxlabel("bytes of the complete file", fontsize=10)
    figure.supylabel("score: 1 means equal outputs", fontsize=10)
    handles = [
        panels.flat[0].plot([], [], marker, color=color, label=label)[0]
        for marker, color, label in (
            ("x", GREY, "GGUF's types + zstd, NNCodec"),
            ("o", BLUE, "metaq, without data"),
            ("s", ORANGE, "metaq, calibrated"),
        )
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
