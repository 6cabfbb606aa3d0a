"""What the passes do, weight by weight, by another rule than theirs."""

from __future__ import annotations

import torch

from metaq.tensors.grid import BucketGrid


def cell_positions(weights: torch.Tensor, grid: BucketGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell of every weight, and its place in the cell in steps, from 0 to 1; beyond the range, the nearer end."""
    v = torch.from_numpy(grid.reference_values())
    clamped = weights.double().clamp(v[0], v[-1])
    cells = torch.bucketize(clamped, v[1:-1], right=True)
    return cells, (clamped - v[cells]) / grid.step_size
