"""Compressing an image classifier to a budget, with its data set at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from metaq import container, nets
from metaq.checkpoint import StateDict
from metaq.compression import Budget, Compressed, compress
from metaq.config import require
from metaq.data import DataSplits, ImageDataset, to_float
from metaq.train.evaluate import is_right

BATCH = 250
"""Images whose curvature is measured at a time."""

STANDARD_ERRORS = 1.96


def compress_classifier(
    state_dict: StateDict,
    budget: Budget,
    *,
    net: str,
    splits: DataSplits,
    calibration_count: int = 10_000,
    corrects_biases: bool = False,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    coder: str = container.DEFAULT_CODER,
) -> Compressed:
    """Compress a network on the training and validation images of a data set; the test images are not touched.

    Parameters
    ----------
    state_dict
        Trained weights.
    budget
        What to reach; accuracy is a lower bound of that on images like all training and validation images, in percent
        (:func:`drop_bound`).
    net
        Name of the network, or its factory.
    splits
        The data set.
    calibration_count
        Training images whose curvature is measured, at least 1.
    corrects_biases, include, exclude, coder
        See :func:`metaq.compression.compress`.

    Raises
    ------
    ConfigError, DataError
        If the weights do not fit the network, the network not the data, or the budget cannot be met.
    """
    require(calibration_count >= 1, f"calibration: {calibration_count} images are too few; give one at least.")
    model, measured = nets.create(net), nets.create(net)
    nets.load_weights(model, state_dict)
    known = (splits.train, splits.validation)

    def rightly(weights: StateDict) -> torch.Tensor:
        nets.load_weights(measured, weights)
        return torch.cat([is_right(measured, part) for part in known])

    before = rightly(state_dict)

    def percent(weights: StateDict) -> float:
        return 100.0 * (float(before.double().mean()) - drop_bound(before, rightly(weights)))

    return compress(
        model,
        budget,
        batches=_batches(splits.train, calibration_count),
        accuracy=percent,
        include=include,
        exclude=exclude,
        corrects_biases=corrects_biases,
        coder=coder,
    )


def drop_bound(before: torch.Tensor, after: torch.Tensor) -> float:
    """Share of images like these that is lost, net, at most with a confidence of 97.5 %.

    Parameters
    ----------
    before, after
        Whether each image was and is classified rightly, bool of shape (N,).
    """
    lost = float((before & ~after).sum())
    gained = float((after & ~before).sum())
    # Lost and gained images are rare and independent: the variance of their difference is their sum.
    return (lost - gained + STANDARD_ERRORS * math.sqrt(lost + gained)) / len(before)


def _batches(dataset: ImageDataset, count: int) -> Iterator[torch.Tensor]:
    for start in range(0, min(count, len(dataset)), BATCH):
        yield to_float(dataset.images[start : min(start + BATCH, count)])
