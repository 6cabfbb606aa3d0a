"""Compressing an image classifier to a budget, with its data set at hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from metaq.compression.compressed import Compressed, Goal
from metaq.compression.compressing import compress
from metaq.config import require
from metaq.lab import nets
from metaq.lab.data import DataSplits, to_float
from metaq.lab.train.evaluate import is_right
from metaq.model.checkpoint import StateDict
from metaq.quantize.recovery import OutputLoss

BATCH = 250
"""Images that calibrate at a time."""

TEACHER_SHARE = 0.5
"""Share of the original network's own probabilities in the labels that weights recover by: it keeps them from learning
the calibration images by heart."""

STANDARD_ERRORS = 1.28
TESTED = 10_000
"""Images of the test set whose accuracy the bound is for, as many as most image data sets have."""


def compress_classifier(
    state_dict: StateDict,
    goal: Goal,
    *,
    net: str,
    splits: DataSplits,
    calibration_count: int = 20_000,
    recovers: bool = True,
    **options: Any,
) -> Compressed:
    """Compress a network on the training and validation images of a data set; the test images are not touched.

    Accuracy is a lower bound of that on a test set, in percent (:func:`drop_bound`), from the validation images and the
    training images that did not calibrate. Weights still to be quantised make up for what the others cost, by the
    labels of the calibration images, if it `recovers`. Further options are those of :func:`metaq.compress`. Raises
    :class:`ConfigError` or :class:`DataError` if weights, network and data do not fit together, or the goal cannot be
    met.
    """
    require(calibration_count >= 1, f"calibration: {calibration_count} images are too few; give one at least.")
    model, measured = nets.create(net), nets.create(net)
    nets.load_weights(model, state_dict)
    count = min(calibration_count, len(splits.train))
    known = [splits.validation]
    if count < len(splits.train):
        known.append(replace(splits.train, images=splits.train.images[count:], labels=splits.train.labels[count:]))

    def rightly(weights: StateDict) -> torch.Tensor:
        nets.load_weights(measured, weights)
        return torch.cat([is_right(measured, part) for part in known])

    batches = [to_float(images) for images in torch.split(splits.train.images[:count], BATCH)]
    before = rightly(state_dict)

    def percent(weights: StateDict) -> float:
        return 100.0 * (float(before.double().mean()) - drop_bound(before, rightly(weights)))

    return compress(
        model,
        batches=batches,
        training_loss=_softened_loss(model, batches, splits.train.labels[:count]) if recovers else None,
        accuracy=percent,
        **goal.to_dict(),
        **options,
    )


def drop_bound(before: torch.Tensor, after: torch.Tensor) -> float:
    """Share of a test set of ``TESTED`` images like these that is lost, net, at most with a confidence of nine in ten.

    Whether each image was classified rightly `before` and is `after` are bool of shape (N,).
    """
    lost = float((before & ~after).sum()) / len(before)
    gained = float((after & ~before).sum()) / len(before)
    # Lost and gained images are rare and independent: the variance of their difference is their sum, here and there.
    return lost - gained + STANDARD_ERRORS * math.sqrt((lost + gained) * (1 / len(before) + 1 / TESTED))


def _softened_loss(model: nn.Module, batches: Sequence[torch.Tensor], labels: torch.Tensor) -> OutputLoss:
    """Cross-entropy with labels that are mixed with the probabilities of `model` as it is."""
    model.eval()
    with torch.no_grad():
        own = [model(batch).softmax(dim=1) for batch in batches]
    parts = zip(own, torch.split(labels, BATCH), strict=True)
    targets = [TEACHER_SHARE * p + (1 - TEACHER_SHARE) * functional.one_hot(y, p.shape[1]) for p, y in parts]

    def loss(output: object, number: int) -> torch.Tensor:
        assert isinstance(output, torch.Tensor)
        return functional.cross_entropy(output, targets[number])

    return loss
