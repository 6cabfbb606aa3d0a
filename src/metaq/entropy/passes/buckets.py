"""The bucket rule of :class:`metaq.tensors.grid.BucketGrid` in PyTorch, for weights of one grid or of a grid each."""

from __future__ import annotations

import torch

Number = torch.Tensor | float
"""Of one grid, or float64 of the shape of the weights."""


def bucket_indices(weights: torch.Tensor, *, lower: Number, step_size: Number, count: int) -> torch.Tensor:
    """Bucket of every weight, int64; 0 for NaN."""
    positions = weights.double().sub(lower).div_(step_size)
    return positions.nan_to_num_(nan=0.0).clamp_(0, count - 1).long()


def bucket_values(indices: torch.Tensor, *, center: Number, radius: Number, count: int) -> torch.Tensor:
    """Reference values in the order of operations of `BucketGrid.values_of`: float64."""
    return (2 * indices + (1 - count)).double().mul_(radius).div_(count).add_(center)
