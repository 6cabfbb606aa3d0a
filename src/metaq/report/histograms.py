"""Weights of a tensor as bars, one a bucket."""

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from metaq.lab.plots import save_figure
from metaq.report.drawing import BAR, OTHER_BAR, OUTLINE, Picture, make_logarithmic, picture, plot
from metaq.report.subject import Histogram
from metaq.report.text import shown
from metaq.tensors.quantized import QuantizedTensor

WIDTH, HEIGHT = 320, 150
Limits = tuple[tuple[float, float], int]

COLUMNS = 2
"""Of a picture of many."""

LEAST = 0.7
"""Lower end of the axis of counts: a count of one is seen."""

MOST_BARS = 160
LEAST_BARS = 7
"""There is room for so many, however few there are."""

FLOAT_BARS = 60
LATENT_BINS_PER_BAR = 4
BAR_SHARE = 0.8
"""Of the room between two buckets, what a bar takes."""


def of_buckets(tensor: QuantizedTensor, latent: NDArray[np.float64] | None) -> Histogram:
    """A bar a bucket, or a bar for several where there are many."""
    lowest, highest = int(tensor.indices.min()), int(tensor.indices.max())
    together = -(-(highest - lowest + 1) // MOST_BARS)
    counts = np.bincount((tensor.indices.reshape(-1) - lowest) // together)
    middles = lowest + together * np.arange(len(counts)) + (together - 1) / 2
    step_size = tensor.grid.step_size
    first = float(tensor.grid.values_of(np.array([0]))[0])
    return Histogram(
        name=tensor.name,
        centers=(first + step_size * middles).astype(np.float64),
        counts=counts.astype(np.int64),
        width=together * step_size,
        buckets_per_bar=together,
        latent=latent,
    )


def of_values(name: str, values: NDArray[np.float64], latent: NDArray[np.float64] | None = None) -> Histogram | None:
    """Bars of equal width over all finite values; None if there is none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    if not low + (high - low) / FLOAT_BARS > low:
        low, high = low - (abs(low) or 1.0) / 2, low + (abs(low) or 1.0) / 2
    counts, edges = np.histogram(finite, bins=FLOAT_BARS, range=(low, high))
    width = float(edges[1] - edges[0])
    return Histogram(
        name=name,
        centers=(edges[:-1] + edges[1:]) / 2,
        counts=counts.astype(np.int64),
        width=width,
        buckets_per_bar=None,
        latent=latent,
    )


def draw(histogram: Histogram) -> Picture:
    """The picture; counts are on a logarithmic axis."""
    used = histogram.counts > 0
    return picture(figure_of(histogram), _said(histogram, histogram.centers[used], histogram.counts[used]))


def draw_both(one: Histogram | None, other: Histogram | None) -> tuple[Picture | None, Picture | None]:
    """Pictures of two to be compared, with the same axes, each in its colour; None where there is no histogram."""
    limits = shared_limits([each for each in (one, other) if each is not None])
    drawn: list[Picture | None] = []
    for each, colour in ((one, BAR), (other, OTHER_BAR)):
        if each is None:
            drawn.append(None)
            continue
        used = each.counts > 0
        figure = figure_of(each, colour=colour, limits=limits)
        drawn.append(picture(figure, _said(each, each.centers[used], each.counts[used])))
    return drawn[0], drawn[1]


def figure_of(histogram: Histogram, *, colour: str = BAR, limits: Limits | None = None) -> Figure:
    """The figure of :func:`draw`."""
    figure, axes = plot(WIDTH, HEIGHT)
    draw_on(axes, histogram, colour=colour)
    if limits is not None:
        (low, high), tallest = limits
        make_logarithmic(axes, max(tallest / LEAST, 10))
        axes.set_ylim(LEAST, 1.3 * tallest)
        axes.set_xlim(low, high)
    return figure


def shared_limits(histograms: Sequence[Histogram]) -> Limits:
    """Ends of an axis of values on which all histograms have room, and the largest count."""
    ends = [_reach(each) for each in histograms]
    tallest = max((int(each.counts.max()) for each in histograms), default=2)
    return (min(low for low, _ in ends), max(high for _, high in ends)), max(tallest, 2)


def _reach(histogram: Histogram) -> tuple[float, float]:
    """Ends of the axis of values."""
    centers = histogram.centers[histogram.counts > 0]
    middle = float(centers.min() + centers.max()) / 2
    reach = max(float(centers.max() - centers.min()) + histogram.width, LEAST_BARS * histogram.width) / 2
    return middle - reach, middle + reach


def save(path: str | os.PathLike[str], drawn: Sequence[Histogram]) -> None:
    """Write a PNG of all, each under its name."""
    rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(6 * COLUMNS, 2.6 * rows), layout="constrained")
    all_axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, histogram in zip(all_axes, drawn, strict=False):
        draw_on(axes, histogram)
        axes.set_title(shown(histogram.name), fontsize=10)
        axes.set_ylabel("weights")
    for axes in all_axes[len(drawn) :]:
        axes.set_visible(False)
    save_figure(figure, path)


def draw_on(axes: Axes, histogram: Histogram, *, colour: str = BAR) -> None:
    """Bars as one outline, and latent weights as another, in narrower bins."""
    used = histogram.counts > 0
    centers, counts = histogram.centers[used], histogram.counts[used]
    low, high = _reach(histogram)
    half = BAR_SHARE / 2 * histogram.width
    edges = np.stack([centers - half, centers + half], axis=1).reshape(-1)
    heights = np.stack([counts, np.full(counts.shape, LEAST)], axis=1).reshape(-1)[:-1]
    axes.stairs(heights, edges, baseline=LEAST, fill=True, color=colour)
    tallest = max(int(counts.max()), 2)
    if histogram.latent is not None:
        bins = LATENT_BINS_PER_BAR * min(max(round((high - low) / histogram.width), 1), MOST_BARS)
        latent, places = np.histogram(histogram.latent, bins=bins, range=(low, high))
        axes.plot((places[:-1] + places[1:]) / 2, np.maximum(latent, LEAST), color=OUTLINE, linewidth=1.25)
        tallest = max(tallest, int(latent.max()))
    make_logarithmic(axes, max(tallest / LEAST, 10))
    axes.set_ylim(LEAST, 1.3 * tallest)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))


def _said(histogram: Histogram, centers: NDArray[np.float64], counts: NDArray[np.int64]) -> str:
    what = "values" if histogram.buckets_per_bar is None else "buckets"
    most = int(counts.argmax())
    share = counts[most] / counts.sum()
    place = 0.0 if math.isclose(centers[most], 0, abs_tol=histogram.width / 1e6) else float(centers[most])
    return (
        f"Histogram of {shown(histogram.name)}: {int(counts.sum()):,} weights in {len(counts)} {what}, from "
        f"{centers.min():.3g} to {centers.max():.3g}; {share:.1%} of them at {place:.3g}, the most common."
    )
