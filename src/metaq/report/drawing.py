"""Pictures that a page can hold, such as curves: Matplotlib's as SVG whose colours follow a light or dark screen."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

INK, RULE, LINE, BAR, OUTLINE = "#57606a", "#d4d9df", "#0b5cad", "#7fb0e0", "#1b1f24"
OTHER_LINE, OTHER_BAR = "#a04a00", "#e3a877"
DARK = {
    INK: "#a2abb6",
    RULE: "#343b43",
    LINE: "#6cb2f7",
    BAR: "#31689f",
    OUTLINE: "#e7eaee",
    OTHER_LINE: "#f2a45c",
    OTHER_BAR: "#96562a",
}
"""By colour on light paper, the one on dark paper; the other ones are of the second of two that are compared."""

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


WIDTH, HEIGHT = 360, 224
Kind = Literal["first", "second", "other"]
STYLES: dict[str, tuple[str, str, float]] = {
    "first": ("-", LINE, 2.0),
    "second": ("--", INK, 1.5),
    "other": ("-", OTHER_LINE, 2.0),
    "level": (":", OUTLINE, 1.5),
    "other level": (":", OTHER_LINE, 1.5),
}
"""Of every kind of line, its style, colour and width in points."""

LEAST_MARGIN = 0.05
"""Above and below the lines of a close axis, in its unit."""

MOST_POINTS = 600
"""Of a line; more are not seen."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart: epochs and values, and perhaps the epoch to mark; its kind is the way to draw it.

    The second is grey and dashed, the other one, of the second of two that are compared, has the other colour.
    """

    label: str
    points: Sequence[tuple[int, float]]
    kept_epoch: int | None = None
    kind: Kind = "first"

    @property
    def kept(self) -> list[tuple[int, float]]:
        """The point to mark, if there is one."""
        return [(epoch, value) for epoch, value in self.points if epoch == self.kept_epoch]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A value that does not change, as a dotted line across a chart."""

    label: str
    value: float
    kind: Literal["level", "other level"] = "level"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its heading, which says the unit, and the labels of its lines with their kinds.

    In a chart that is `cut`, curves begin below the lower end of the axis.
    """

    title: str
    picture: Picture
    legend: Sequence[tuple[str, str]]
    cut: bool = False


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    unit: str = "",
    is_logarithmic: bool = False,
    levels: Sequence[Level] = (),
    is_close: bool = False,
) -> Chart | None:
    """Draw curves over the epochs; None if there is no finite value (no positive one on a logarithmic axis).

    If it `is_close`, the axis is where the later half of the curves but the second ones is, and the levels.
    """
    figure = figure_of(curves, is_logarithmic=is_logarithmic, levels=levels, is_close=is_close)
    if figure is None:
        return None
    legend = [(curve.label, str(curve.kind)) for curve in curves] + [(level.label, str(level.kind)) for level in levels]
    said = "".join(f" {level.label}: {_value(level.value, unit)}." for level in levels)
    lowest = figure.axes[0].get_ylim()[0]
    cut = any(value < lowest for curve in curves for _, value in curve.points)
    return Chart(title=title, picture=picture(figure, _said(title, curves, unit) + said), legend=legend, cut=cut)


def figure_of(
    curves: Sequence[Curve], *, is_logarithmic: bool = False, levels: Sequence[Level] = (), is_close: bool = False
) -> Figure | None:
    """The figure of :func:`chart`: a line for each curve and level, then a dot for each epoch that was kept."""
    values = [value for curve in curves for _, value in curve.points]
    usable = [value for value in values if math.isfinite(value) and (value > 0 or not is_logarithmic)]
    if not usable:
        return None
    figure, axes = plot(WIDTH, HEIGHT)
    if is_logarithmic:
        make_logarithmic(axes, max(usable) / min(usable))
    for curve in curves:
        step = -(-len(curve.points) // MOST_POINTS) or 1
        points = curve.points[::-step][::-1]
        heights = [math.nan if is_logarithmic and not value > 0 else value for _, value in points]
        style, colour, width = STYLES[curve.kind]
        axes.plot([epoch for epoch, _ in points], heights, linestyle=style, color=colour, linewidth=width)
    for level in levels:
        style, colour, width = STYLES[level.kind]
        axes.axhline(level.value, linestyle=style, color=colour, linewidth=width)
    for curve in curves:
        for epoch, value in curve.kept:
            axes.plot([epoch], [value], "o", color=STYLES[curve.kind][1], markersize=7)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if is_close:
        axes.set_ylim(*_close_range(curves, [level.value for level in levels]))
    axes.set_xlabel("epoch", color=INK, size=FONT_SIZE, loc="right", labelpad=0)
    return figure


def _close_range(curves: Sequence[Curve], levels: Sequence[float]) -> tuple[float, float]:
    """An axis from below the later half of all but the second curves to above all that is drawn."""
    leading = [curve for curve in curves if curve.kind != "second"] or curves
    later = [value for curve in leading for _, value in curve.points[len(curve.points) // 2 :]]
    shown = [value for value in [*later, *levels] if math.isfinite(value)]
    highest = max((value for curve in curves for _, value in curve.points if math.isfinite(value)), default=0.0)
    low, high = min(shown, default=0.0), max([*shown, highest])
    margin = max((high - low) / 10, LEAST_MARGIN)
    return low - margin, high + margin


def _said(title: str, curves: Sequence[Curve], unit: str) -> str:
    """The text alternative: where every line begins, ends and is at the epoch that was kept."""
    said = []
    for curve in curves:
        if not curve.points:
            continue
        (first, begin), (last, end) = curve.points[0], curve.points[-1]
        text = f"{curve.label}: {_value(begin, unit)} in epoch {first}, {_value(end, unit)} in epoch {last}"
        kept = [f", {_value(value, unit)} in epoch {epoch}, which was kept" for epoch, value in curve.kept]
        said.append(text + "".join(kept))
    return f"{title}. {'; '.join(said)}."


def _value(value: float, unit: str) -> str:
    return f"{value:,.4g} {unit}".strip() if abs(value) < 1e4 else f"{value:,.0f} {unit}".strip()
