"""Curves of one training, or of two in one chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metaq.report.drawing import FONT_SIZE, INK, LINE, Picture, make_logarithmic, picture, plot

WIDTH, HEIGHT = 360, 224
MOST_POINTS = 600
"""Of a line; more are not seen."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart: epochs and values, and perhaps the epoch to mark.

    The second way to draw it is grey and dashed.
    """

    label: str
    points: Sequence[tuple[int, float]]
    kept_epoch: int | None = None
    is_second: bool = False

    @property
    def kept(self) -> list[tuple[int, float]]:
        """The point to mark, if there is one."""
        return [(epoch, value) for epoch, value in self.points if epoch == self.kept_epoch]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its heading, which says the unit, and the labels of its lines, with True for second ones."""

    title: str
    picture: Picture
    legend: Sequence[tuple[str, bool]]


def chart(title: str, curves: Sequence[Curve], *, unit: str = "", is_logarithmic: bool = False) -> Chart | None:
    """Draw curves over the epochs; None if there is no finite value (no positive one on a logarithmic axis)."""
    figure = figure_of(curves, is_logarithmic=is_logarithmic)
    if figure is None:
        return None
    legend = [(curve.label, curve.is_second) for curve in curves]
    return Chart(title=title, picture=picture(figure, _said(title, curves, unit)), legend=legend)


def figure_of(curves: Sequence[Curve], *, is_logarithmic: bool = False) -> Figure | None:
    """The figure of :func:`chart`: a line for each curve, then a dot for each epoch that was kept."""
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
        style, colour, width = ("--", INK, 1.5) if curve.is_second else ("-", LINE, 2.0)
        axes.plot([epoch for epoch, _ in points], heights, linestyle=style, color=colour, linewidth=width)
    for curve in curves:
        for epoch, value in curve.kept:
            axes.plot([epoch], [value], "o", color=INK if curve.is_second else LINE, markersize=7)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("epoch", color=INK, size=FONT_SIZE, loc="right", labelpad=0)
    return figure


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
