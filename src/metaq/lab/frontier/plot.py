"""The picture of a frontier: bytes against error, beside what the literature reached."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, NullLocator

from metaq.lab.plots import BLUE, GREY, ORANGE, save_figure

MARGIN = 1.25
"""Factor by which the axes reach beyond the outermost points."""

LABEL_MARGIN = 1.45
"""The same for sizes where published results are named, so that the names fit."""

FEW_TICKS, MANY_TICKS = (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
WIDE = 12.0
"""Ratio of the ends of an axis above which few ticks suffice."""


class Point(NamedTuple):
    """Size of a file and accuracy in percent."""

    bytes: int
    accuracy: float


class Reference(NamedTuple):
    """A published result on the test images."""

    label: str
    bytes: int
    accuracy: float


REFERENCES: dict[tuple[str, str], tuple[Reference, ...]] = {
    ("lenet5", "mnist"): (
        Reference("thesis, zstd", 6_103, 99.01),
        Reference("thesis, later runs, picked on test", 3_732, 99.04),
    ),
    ("lenet300", "mnist"): (Reference("best published with entropy coding", 8_560, 98.1),),
    ("lenet5-caffe", "mnist"): (Reference("MIRACLE (Havasi et al. 2019)", 1_520, 99.04),),
}
"""By network and data set."""


def save_frontier(
    path: str | os.PathLike[str], *, trials: Sequence[Point], members: Sequence[Point], net: str, data: str
) -> None:
    """Write a PNG of a frontier, both axes logarithmic; where the literature has results for net and data, these too.

    All completed trials have their accuracy on the validation images, the members of the frontier, the smallest first,
    that on the test images; there is at least one of each.
    """
    references = REFERENCES.get((net, data), ())
    shown = [*trials, *members, *(Point(reference.bytes, reference.accuracy) for reference in references)]
    errors = [100 - point.accuracy for point in shown if point.accuracy < 100]
    # A logarithm has no place for an error of zero: half the least other one stands for it.
    least = min(errors, default=1.0) / 2
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    _scatter(axes, trials, least, color=GREY, alpha=0.5, label="all trials, validation images")
    _draw_members(axes, members, least)
    _draw_references(axes, references, least)
    sizes, drawn = [point.bytes for point in shown], [_error(point.accuracy, least) for point in shown]
    beside = LABEL_MARGIN if references else MARGIN
    axes.set_xlim(min(sizes) / beside, max(sizes) * beside)
    axes.set_ylim(min(drawn) / MARGIN, max(drawn) * MARGIN)
    axes.set_xlabel("size of the file, bytes")
    axes.set_ylabel("error, % of the images")
    axes.set_title(f"Size and error of {net} on {data}")
    _label(axes)
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.legend(loc="upper right", frameon=True, framealpha=0.9)
    save_figure(figure, path)


def _error(accuracy: float, least: float) -> float:
    return max(100 - accuracy, least)


def _scatter(axes: Axes, points: Sequence[Point], least: float, *, color: str, alpha: float, label: str) -> None:
    errors = [_error(point.accuracy, least) for point in points]
    axes.scatter([point.bytes for point in points], errors, s=22, color=color, alpha=alpha, linewidths=0, label=label)


def _draw_members(axes: Axes, members: Sequence[Point], least: float) -> None:
    sizes = [point.bytes for point in members]
    errors = [_error(point.accuracy, least) for point in members]
    axes.step(sizes, errors, where="post", color=BLUE, marker="o", label="frontier, test images", zorder=3)


def _draw_references(axes: Axes, references: Sequence[Reference], least: float) -> None:
    for number, reference in enumerate(references):
        error = _error(reference.accuracy, least)
        label = "published, test images" if number == 0 else None
        axes.scatter([reference.bytes], [error], s=60, marker="D", color=ORANGE, label=label, zorder=4)
        axes.annotate(
            f"{reference.label}\n{reference.bytes:,} bytes, {reference.accuracy:.2f} %",
            (reference.bytes, error),
            xytext=(0, 10 if number % 2 == 0 else -10),
            textcoords="offset points",
            ha="center",
            va="bottom" if number % 2 == 0 else "top",
            color=ORANGE,
            fontsize=9,
        )


def _label(axes: Axes) -> None:
    for axis, form in ((axes.xaxis, "{:,.0f}"), (axes.yaxis, "{:g}")):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(base=10, subs=FEW_TICKS if high / low > WIDE else MANY_TICKS))
        axis.set_major_formatter(_plain(form))
        axis.set_minor_locator(NullLocator())


def _plain(form: str) -> Formatter:
    return FuncFormatter(lambda value, _: form.format(value))
