"""Pictures: curves of a training run, weights and buckets of a model."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from metaq.files import write_bytes
from metaq.lab.train.records import EpochRecord
from metaq.tensors.quantized import QuantizedTensor

BLUE, ORANGE, GREY = "#0b5cad", "#c2570c", "#6b7280"
HISTOGRAM_BINS = 120
COLUMNS = 2


def save_curves(path: str | os.PathLike[str], records: Sequence[EpochRecord], *, kept_epoch: int) -> None:
    """Write a PNG of validation accuracy, bytes and distance to the grid over all epochs, the kept one marked."""
    epochs = [record.epoch for record in records]
    figure = Figure(figsize=(9, 9), layout="constrained")
    accuracy, size, distance = figure.subplots(3, 1, sharex=True)
    floats = [record.float_accuracy for record in records]
    quantized = [record.quantized_accuracy for record in records]
    accuracy.plot(epochs, floats, color=GREY, label="latent (float) weights")
    accuracy.plot(epochs, quantized, color=BLUE, label="quantised weights")
    accuracy.set_ylim(_accuracy_floor(quantized), 100)
    accuracy.set_ylabel("validation accuracy, %")
    size.semilogy(epochs, [record.estimated_bytes for record in records], color=BLUE, label="entropy of the indices")
    size.set_ylabel("bytes (zero-order entropy)")
    _plain_log_labels(size, subs=(1.0, 2.0, 5.0))
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


def save_buckets(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[np.floating]],
    quantized: Mapping[str, QuantizedTensor],
) -> None:
    """Write a PNG with the weights of every tensor: a bar per bucket where it is quantised, else a histogram."""
    rows = math.ceil(len(tensors) / COLUMNS)
    figure = Figure(figsize=(6 * COLUMNS, 2.6 * rows), layout="constrained")
    all_axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, (name, values) in zip(all_axes, tensors.items(), strict=False):
        if name in quantized:
            _draw_buckets(axes, quantized[name])
        else:
            axes.hist(values.reshape(-1).astype(np.float64), bins=HISTOGRAM_BINS, color=GREY, log=True)
        axes.set_title(_title(name, values, quantized.get(name)), fontsize=10)
        axes.set_ylabel("weights")
        axes.grid(visible=True, axis="y", alpha=0.25)
    for axes in all_axes[len(tensors) :]:
        axes.set_visible(False)
    save_figure(figure, path)


def _draw_buckets(axes: Axes, tensor: QuantizedTensor) -> None:
    buckets, counts = np.unique(tensor.indices, return_counts=True)
    width = tensor.grid.step_size
    axes.bar(tensor.grid.values_of(buckets), counts, width=0.8 * width, color=BLUE)
    axes.set_yscale("log")
    axes.set_ylim(0.5, counts.max() * 2)
    _plain_log_labels(axes, subs=(1.0,))


def _plain_log_labels(axes: Axes, *, subs: tuple[float, ...]) -> None:
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _title(name: str, values: NDArray[np.floating], tensor: QuantizedTensor | None) -> str:
    shape = "×".join(map(str, values.shape)) or "scalar"
    if tensor is None:
        return f"{name}  ({shape}, not quantised)"
    return f"{name}  ({shape}, {len(np.unique(tensor.indices))} buckets of {tensor.grid.step_size:.3g})"


def _accuracy_floor(values: Sequence[float]) -> float:
    """Lower end of the axis that shows the later epochs well, whatever the first ones were."""
    return max(0.0, math.floor(float(np.quantile(values, 0.1))) - 1.0)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, atomically."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_bytes(path, stream.getvalue())
