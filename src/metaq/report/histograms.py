"""Weights of a tensor as bars, one a bucket, as SVG."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from metaq.report.subject import Histogram
from metaq.report.svg import Axis, line, picture, short, shown, tag
from metaq.tensors.quantized import QuantizedTensor

WIDTH, HEIGHT = 320.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 312.0, 8.0, 124.0
LEAST = 0.5
"""Lower end of the axis of counts: a count of one is seen."""

MOST_BARS = 160
LEAST_BARS = 7
"""There is room for so many, however few there are."""

FLOAT_BARS = 60
LATENT_BINS_PER_BAR = 4
BAR_SHARE = 0.8
"""Of the room between two buckets, what a bar takes."""

X_TICKS, Y_TICKS = 5, 4


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


def draw(histogram: Histogram) -> Markup:
    """The picture; counts are on a logarithmic axis."""
    used = histogram.counts > 0
    centers, counts = histogram.centers[used], histogram.counts[used]
    middle = float(centers.min() + centers.max()) / 2
    reach = max(float(centers.max() - centers.min()) + histogram.width, LEAST_BARS * histogram.width) / 2
    low, high = middle - reach, middle + reach
    outline = _outline(histogram, low, high)
    tallest = max(float(counts.max()), *(count for _, count in outline), 2.0)
    x = Axis(low=low, high=high, start=LEFT, end=RIGHT)
    y = Axis(low=LEAST, high=tallest * 1.3, start=BOTTOM, end=TOP, is_logarithmic=True)
    width = max(BAR_SHARE * (x(low + histogram.width) - LEFT), 0.8)
    bars = "".join(
        f"M{x(center) - width / 2:.1f} {BOTTOM:g}V{y(count):.1f}h{width:.1f}V{BOTTOM:g}z"
        for center, count in zip(centers.tolist(), counts.tolist(), strict=True)
    )
    drawn = [_axes(x, y), tag("path", d=bars, class_="bars")]
    if outline:
        drawn.append(line([(x(place), y(max(count, LEAST))) for place, count in outline], class_="outline"))
    return picture(_said(histogram, centers, counts), WIDTH, HEIGHT, *drawn)


def _outline(histogram: Histogram, low: float, high: float) -> list[tuple[float, float]]:
    """Latent weights, counted in narrower bins."""
    if histogram.latent is None:
        return []
    bins = LATENT_BINS_PER_BAR * min(max(round((high - low) / histogram.width), 1), MOST_BARS)
    counts, edges = np.histogram(histogram.latent, bins=bins, range=(low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    return list(zip(middles.tolist(), counts.astype(float).tolist(), strict=True))


def _axes(x: Axis, y: Axis) -> Markup:
    parts = [tag("path", d=f"M{LEFT:g} {BOTTOM:g}H{RIGHT:g}", class_="axis")]
    for value in y.ticks(Y_TICKS):
        place = y(value)
        parts.append(tag("path", d=f"M{LEFT:g} {place:.1f}H{RIGHT:g}", class_="grid"))
        parts.append(tag("text", short(value), x=LEFT - 6, y=place + 4, class_="tick", text_anchor="end"))
    for value in x.ticks(X_TICKS):
        parts.append(tag("text", short(value), x=x(value), y=BOTTOM + 16, class_="tick", text_anchor="middle"))
    return Markup("").join(parts)


def _said(histogram: Histogram, centers: NDArray[np.float64], counts: NDArray[np.int64]) -> str:
    what = "values" if histogram.buckets_per_bar is None else "buckets"
    most = int(counts.argmax())
    share = counts[most] / counts.sum()
    place = 0.0 if math.isclose(centers[most], 0, abs_tol=histogram.width / 1e6) else float(centers[most])
    return (
        f"Histogram of {shown(histogram.name)}: {int(counts.sum()):,} weights in {len(counts)} {what}, from "
        f"{centers.min():.3g} to {centers.max():.3g}; {share:.1%} of them at {place:.3g}, the most common."
    )
