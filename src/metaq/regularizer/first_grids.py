"""The grids that weights take when the term sets in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metaq.entropy import passes
from metaq.entropy.passes import GridSet, TensorPairs
from metaq.errors import NonFiniteError
from metaq.regularizer.config import BucketConfig
from metaq.regularizer.participants import Participants
from metaq.tensors.grid import BucketGrid


def first_grids(buckets: BucketConfig, participants: Participants, weights: Sequence[torch.Tensor]) -> GridSet:
    """Fixed grids as they are given, relative ones by the root mean square of all weights of a group; O(n).

    Raises
    ------
    NonFiniteError
        If a weight is NaN or infinite; only checked where sums are on the CPU.
    """
    group_count, device = len(participants.groups), participants.device
    if buckets.rule == "fixed":
        grid = BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
        return GridSet.of([grid] * group_count, device)
    counted, groups = participants.counted(weights)
    local = passes.inner_products(TensorPairs(counted, counted, groups), group_count, device)
    (squares,) = participants.shards.total(local)
    if participants.are_on_host:
        _require_finite(participants.groups, squares)
    root_mean_squares = (squares / participants.counts).sqrt()
    step_sizes = torch.where(root_mean_squares == 0, 1.0, root_mean_squares) * buckets.step_scale
    unit = GridSet.of([BucketGrid(center=0.0, radius=1.0, count=buckets.count)] * group_count, device)
    return unit.rescaled(step_sizes * buckets.count / 2)


def _require_finite(names: Sequence[str], squares: torch.Tensor) -> None:
    for name, is_finite in zip(names, torch.isfinite(squares).tolist(), strict=True):
        if not is_finite:
            raise NonFiniteError(
                f"{name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
            )
