"""Pictures: curves of a training run, and a frontier, bytes against error, beside what the literature reached."""

import io
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from metaq.files import write_bytes
from metaq.lab.train.records import EpochRecord

BLUE, ORANGE, GREY = "#0b5cad", "#c2570c", "#6b7280"


def save_curves(path: str | os.PathLike[str], records: Sequence[EpochRecord], *, kept_epoch: int) -> None:
    """Write a PNG of validation accuracy, bytes and distance to the grid over all epochs, the kept one marked."""
    epochs = [record.epoch for record in records]
    figure = Figure(figsize=(9, 9), layout="constrained")
    accuracy, size, distance = figure.subplots(3, 1, sharex=True)
    floats = [record.float_accuracy for record in records]
    quantized = [record.quantized_accuracy for record in records]
    accuracy.plot(epochs, floats, color=GREY, label="latent (float) weights")
    accuracy.plot(epochs, quantized, color=BLUE, label="quantised weights")
    # Shows the later epochs well, whatever the first ones were.
    accuracy.set_ylim(max(0.0, math.floor(float(np.quantile(quantized, 0.1))) - 1.0), 100)
    accuracy.set_ylabel("validation accuracy, %")
    size.semilogy(epochs, [record.estimated_bytes for record in records], color=BLUE, label="entropy of the indices")
    size.set_ylabel("bytes (zero-order entropy)")
    size.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    size.yaxis.set_major_formatter("{x:,.0f}")
    size.yaxis.set_minor_formatter(NullFormatter())
    distance.plot(epochs, [record.distance for record in records], color=BLUE, label="root mean square")
    distance.set_ylim(bottom=0)
    distance.set_ylabel("distance to the grid, weight units")
    distance.set_xlabel("epoch")
    distance.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (accuracy, size, distance):
        axes.axvline(kept_epoch, color=ORANGE, linestyle="--", linewidth=1, label=f"kept: epoch {kept_epoch}")
        axes.grid(visible=True, alpha=0.25)
        axes.legend(loc="best", frameon=False)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, atomically."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_bytes(path, stream.getvalue())


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

    def places(points: Sequence[Point]) -> tuple[list[int], list[float]]:
        return [point.bytes for point in points], [max(100 - point.accuracy, least) for point in points]

    axes.scatter(*places(trials), s=22, color=GREY, alpha=0.5, linewidths=0, label="all trials, validation images")
    axes.step(*places(members), where="post", color=BLUE, marker="o", label="frontier, test images", zorder=3)
    _draw_references(axes, references, least)
    sizes, drawn = places(shown)
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


def _draw_references(axes: Axes, references: Sequence[Reference], least: float) -> None:
    for number, reference in enumerate(references):
        error = max(100 - reference.accuracy, least)
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
    for axis, form in ((axes.xaxis, "{x:,.0f}"), (axes.yaxis, "{x:g}")):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(base=10, subs=FEW_TICKS if high / low > WIDE else MANY_TICKS))
        axis.set_major_formatter(form)
        axis.set_minor_locator(NullLocator())
