"""Pictures that a page can hold: Matplotlib's as SVG whose colours follow the reader's light or dark screen."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

INK, RULE, LINE, BAR, OUTLINE = "#57606a", "#d4d9df", "#0b5cad", "#7fb0e0", "#1b1f24"
DARK = {INK: "#a2abb6", RULE: "#343b43", LINE: "#6cb2f7", BAR: "#31689f", OUTLINE: "#e7eaee"}
"""By colour on light paper, the one on dark paper."""

POINTS_PER_INCH = 72
FONT_SIZE = 11.5
LOG_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = ((10, ()), (100, (1, 2, 5)), (3000, (1, 3)))
"""By the greatest ratio of values, the ticks in a decade of a logarithmic axis; none means even ticks."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as a data URI, its size in pixels of the page, and what it shows, for those who do not see it."""

    address: str
    width: int
    height: int
    alternative: str


def plot(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty figure of so many pixels with one pair of axes, nothing but a line under it and grid lines in it."""
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    axes = figure.add_axes((54 / width, 40 / height, (width - 72) / width, (height - 48) / height))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, length=0, labelsize=FONT_SIZE)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    return figure, axes


def make_logarithmic(axes: Axes, ratio: float) -> None:
    """Set the vertical axis to a logarithmic one with a few round ticks, for values of this greatest ratio."""
    axes.set_yscale("log")
    steps = next((steps for most, steps in LOG_STEPS if ratio < most), (1.0,))
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=7) if steps else MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def picture(figure: Figure, alternative: str) -> Picture:
    """The figure as SVG; the same figure gives the same bytes."""
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "metaq", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    names = {colour: f"--c{number}" for number, colour in enumerate(DARK)}
    light, dark = (";".join(f"{names[of]}:{by[of]}" for of in DARK) for by in ({of: of for of in DARK}, DARK))
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    svg = stream.getvalue()
    for colour, name in names.items():
        svg = svg.replace(colour, f"var({name})")
    svg = svg.replace("<defs>", f"<defs>{style}", 1)
    width, height = (round(POINTS_PER_INCH * inches) for inches in figure.get_size_inches())
    address = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return Picture(address=address, width=width, height=height, alternative=alternative)


def _short(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"
