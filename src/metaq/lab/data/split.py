"""Fixed pseudo-random splits: the same images on every machine and with every version of numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metaq.errors import ConfigError
from metaq.lab.data.dataset import ImageDataset

SPLIT_SEED = 0
"""Seed of every split. Changing it makes results incomparable with earlier ones."""


def fixed_permutation(count: int) -> Tensor:
    """A permutation of ``range(count)`` that never changes, int64 of shape (count,).

    The raw output of PCG64 is sorted, because numpy promises that stream for ever; it does not promise what
    ``Generator.permutation`` makes of it.

    Examples
    --------
    >>> fixed_permutation(6).tolist()
    [3, 2, 1, 0, 4, 5]
    """
    draws = np.random.PCG64(SPLIT_SEED).random_raw(count)
    return torch.from_numpy(np.argsort(draws, kind="stable"))


def hold_out(dataset: ImageDataset, *, count: int) -> tuple[ImageDataset, ImageDataset]:
    """Split in two: what is left, and `count` images held out, both in order; :class:`ConfigError` if one is empty."""
    if not 1 <= count < len(dataset):
        raise ConfigError(
            f"validation count: {count} cannot be held out of {len(dataset)} images; choose a number from 1 to "
            f"{len(dataset) - 1}."
        )
    order = fixed_permutation(len(dataset))
    return dataset.take(order[count:].sort().values), dataset.take(order[:count].sort().values)
