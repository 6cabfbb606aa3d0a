"""Accuracy of a classifier on images held in memory."""

import torch
from torch import nn

from metaq.errors import DataError
from metaq.lab.data import ImageDataset, channels_last, to_float
from metaq.model.evaluating import evaluating

BATCH = 250
"""Images evaluated at a time: few enough for the cache of a processor to hold what a network makes of them."""


def accuracy(model: nn.Module, dataset: ImageDataset) -> float:
    """Share of images whose largest output is their label, in percent; see :func:`is_right`."""
    return 100.0 * int(is_right(model, dataset).sum()) / len(dataset.labels)


@torch.no_grad()
def is_right(model: nn.Module, dataset: ImageDataset) -> torch.Tensor:
    """For every image whether the largest output is its label, bool of shape (N,); the model's mode is left as it was.

    Raises :class:`DataError` if the model cannot take the images or gives no row of scores for each.
    """
    right = []
    try:
        with evaluating(model):
            for start in range(0, len(dataset.labels), BATCH):
                scores = model(channels_last(to_float(dataset.images[start : start + BATCH])))
                labels = dataset.labels[start : start + BATCH]
                if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or len(scores) != len(labels):
                    raise DataError(
                        "the network does not give one row of class scores per image; check --net and --data."
                    )
                if scores.shape[1] < dataset.classes:
                    raise DataError(
                        f"the network has {scores.shape[1]} outputs for {dataset.classes} classes; "
                        "check --net and --data."
                    )
                right.append(scores.argmax(dim=1) == labels)
    except RuntimeError as error:
        shape = tuple(dataset.images.shape[1:])
        raise DataError(
            f"the network does not take images of shape {shape} ({error}); check --net and --data."
        ) from error
    return torch.cat(right)
