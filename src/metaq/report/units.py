"""Units that folding leaves of a plain chain of layers, counted on the weights alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LAYERS = {
    "lenet300": ("fc1", "fc2", "fc3"),
    "lenet5": ("conv1", "conv2", "fc1", "fc2", "fc3"),
    "lenet5-caffe": ("conv1", "conv2", "fc1", "fc2"),
}
"""Layers of the reference networks in which every layer is read by the next one alone."""


def units_left(weights: Sequence[NDArray[np.generic]]) -> list[tuple[int, int]] | None:
    """Units of every layer but the last, and those that :func:`metaq.model.structure.fold` leaves; None if no chain.

    Weights have shape (units, inputs, ...); a unit may be several neighbouring inputs of the next layer. A unit goes if
    its weights are all zero, so that it is constant, or if no unit that stays reads it. One unit of every layer stays.

    Examples
    --------
    >>> units_left([np.array([[1.0], [0.0], [2.0]]), np.array([[0.0, 5.0, 3.0]])])
    [(3, 1)]
    """
    units = [len(layer) for layer in weights]
    if any(layer.ndim < 2 for layer in weights) or any(
        before == 0 or layer.shape[1] == 0 or layer.shape[1] % before
        for before, layer in zip(units, weights[1:], strict=False)
    ):
        return None
    # reads[k][i, j]: unit i of layer k + 1 reads unit j of layer k.
    reads = [
        (layer.reshape(len(layer), before, -1) != 0).any(axis=2)
        for before, layer in zip(units, weights[1:], strict=False)
    ]
    live = [np.ones(count, dtype=bool) for count in units]
    live[0] = (weights[0].reshape(units[0], -1) != 0).any(axis=1)
    while True:
        before = sum(int(kept.sum()) for kept in live)
        for number, read in enumerate(reads):
            is_last = number + 1 == len(reads)
            live[number] &= read[live[number + 1]].any(axis=0)
            if not is_last:
                live[number + 1] &= read[:, live[number]].any(axis=1)
        if sum(int(kept.sum()) for kept in live) == before:
            return [(count, max(1, int(kept.sum()))) for count, kept in zip(units[:-1], live[:-1], strict=True)]
