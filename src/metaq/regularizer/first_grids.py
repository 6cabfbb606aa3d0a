"""The grids that weights take when the term sets in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.entropy import passes
from metaq.entropy.passes import GridSet, GroupArray, TensorPairs
from metaq.errors import NonFiniteError
from metaq.regularizer.config import BucketConfig
from metaq.regularizer.participants import Participants
from metaq.tensors.grid import BucketGrid


def first_grids(buckets: BucketConfig, participants: Participants, weights: Sequence[torch.Tensor]) -> GridSet:
    """Fixed grids as they are given, relative ones by the root mean square of all weights of a group; O(n).

    Raises
    ------
    NonFiniteError
        If a weight is NaN or infinite; where sums stay on a device, no-one looks.
    """
    group_count = len(participants.groups)
    if buckets.rule == "fixed":
        grid = BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
        return GridSet.of([grid] * group_count)
    counted, groups = participants.counted(weights)
    local = passes.inner_products(TensorPairs(counted, counted, groups), group_count, participants.device)
    (squares,) = participants.shards.total(local)
    unit = GridSet.of([BucketGrid(center=0.0, radius=1.0, count=buckets.count)] * group_count)
    if participants.device is not None:
        unit = unit.on(participants.device)
    else:
        _require_finite(participants.groups, squares)
    root_mean_squares = _or_one((squares / participants.placed(participants.counts)) ** 0.5)
    return unit.rescaled(buckets.step_scale * root_mean_squares * buckets.count / 2)


def _or_one(numbers: GroupArray) -> GroupArray:
    """1 in place of 0."""
    library: Any = torch if isinstance(numbers, torch.Tensor) else np
    return library.where(numbers == 0, 1.0, numbers)


def _require_finite(names: Sequence[str], squares: NDArray[np.float64]) -> None:
    for name, sum_of_squares in zip(names, squares, strict=True):
        if not math.isfinite(sum_of_squares):
            raise NonFiniteError(
                f"{name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
            )
