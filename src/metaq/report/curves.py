"""Curves of one training, or of two in one chart, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from metaq.report.svg import Axis, axis_over, line, picture, short, tag

WIDTH, HEIGHT = 360.0, 224.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 350.0, 14.0, 188.0
MOST_POINTS = 600
"""Of a line; more are not seen."""

X_TICKS, Y_TICKS = 6, 6
UNDER_AXIS = 16.0
END = 34.0
"""Room that the last number of an axis needs."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes
    ----------
    label
        What it is.
    points
        Epochs and values.
    kept_epoch
        The epoch to mark, or None.
    is_second
        Whether it is drawn in the second way: grey and dashed.
    """

    label: str
    points: Sequence[tuple[int, float]]
    kept_epoch: int | None = None
    is_second: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its heading and what its lines are.

    Attributes
    ----------
    title
        What is drawn, with the unit.
    svg
        The picture.
    legend
        Labels and whether they are drawn in the second way.
    """

    title: str
    svg: Markup
    legend: Sequence[tuple[str, bool]]


def chart(title: str, curves: Sequence[Curve], *, unit: str = "", is_logarithmic: bool = False) -> Chart | None:
    """Draw curves over the epochs; None if there is no finite value (no positive one on a logarithmic axis)."""
    values = [value for curve in curves for _, value in curve.points]
    y = axis_over(values, BOTTOM, TOP, is_logarithmic=is_logarithmic, has_round_ends=True)
    x = axis_over([epoch for curve in curves for epoch, _ in curve.points], LEFT + 4, RIGHT - 4)
    if x is None or y is None:
        return None
    drawn = [line(_placed(curve, x, y), class_=_class("line", curve.is_second)) for curve in curves]
    marks = [_mark(curve, x, y) for curve in curves if curve.kept_epoch is not None]
    svg = picture(_said(title, curves, unit), WIDTH, HEIGHT, _grid(x, y), *drawn, *marks)
    return Chart(title=title, svg=svg, legend=[(curve.label, curve.is_second) for curve in curves])


def _placed(curve: Curve, x: Axis, y: Axis) -> list[tuple[float, float]]:
    step = -(-len(curve.points) // MOST_POINTS) or 1
    chosen = [*curve.points[::step], *curve.points[-1:]]
    gap = float("nan")
    return [(x(epoch), gap if y.is_logarithmic and not value > 0 else y(value)) for epoch, value in chosen]


def _grid(x: Axis, y: Axis) -> Markup:
    parts = []
    for value in y.ticks(Y_TICKS):
        place = y(value)
        parts.append(tag("path", d=f"M{LEFT:g} {place:.1f}H{RIGHT:g}", class_="grid"))
        parts.append(tag("text", short(value), x=LEFT - 6, y=place + 4, class_="tick", text_anchor="end"))
    epochs = sorted({round(value) for value in x.ticks(X_TICKS)})
    for epoch in (epoch for epoch in epochs if x.low <= epoch <= x.high):
        parts.append(tag("text", short(epoch), x=x(epoch), y=BOTTOM + UNDER_AXIS, class_="tick", text_anchor="middle"))
    parts.append(tag("path", d=f"M{LEFT:g} {BOTTOM:g}H{RIGHT:g}", class_="axis"))
    parts.append(tag("text", "epoch", x=RIGHT, y=BOTTOM + END - 1, class_="tick", text_anchor="end"))
    return Markup("").join(parts)


def _mark(curve: Curve, x: Axis, y: Axis) -> Markup:
    """A dot at the epoch that was kept."""
    found = [value for epoch, value in curve.points if epoch == curve.kept_epoch]
    if not found or curve.kept_epoch is None or (y.is_logarithmic and not found[0] > 0):
        return Markup("")
    return tag("circle", cx=x(curve.kept_epoch), cy=y(found[0]), r=4, class_=_class("dot", curve.is_second))


def _class(name: str, is_second: bool) -> str:
    return f"{name} second" if is_second else name


def _said(title: str, curves: Sequence[Curve], unit: str) -> str:
    """The text alternative: where every line begins, ends and is at the epoch that was kept."""
    said = []
    for curve in curves:
        if not curve.points:
            continue
        (first, begin), (last, end) = curve.points[0], curve.points[-1]
        text = f"{curve.label}: {_value(begin, unit)} in epoch {first}, {_value(end, unit)} in epoch {last}"
        kept = [value for epoch, value in curve.points if epoch == curve.kept_epoch]
        said.append(text + (f", {_value(kept[0], unit)} in epoch {curve.kept_epoch}, which was kept" if kept else ""))
    return f"{title}. {'; '.join(said)}."


def _value(value: float, unit: str) -> str:
    return f"{value:,.4g} {unit}".strip() if abs(value) < 1e4 else f"{value:,.0f} {unit}".strip()
