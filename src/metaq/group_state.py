"""What changes during training for one group of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import BucketConfig
from metaq.errors import SolverError
from metaq.grid import BucketGrid
from metaq.step_size import StepLearner
from metaq.weights import WeightGroup


class GroupState:
    """Grid and multipliers of one group.

    Attributes
    ----------
    grid
        None until the term sets in.
    xi
        Multipliers of the last dual solution, float64 of shape (C,), or None.
    step_learner
        Adam's state for the logarithm of the step size.
    """

    def __init__(self, group: WeightGroup) -> None:
        self.group = group
        self.grid: BucketGrid | None = None
        self.xi: NDArray[np.float64] | None = None
        self.step_learner = StepLearner()

    def make_grid(self, buckets: BucketConfig, sum_of_squares: float) -> BucketGrid:
        """The grid the configuration asks for, from the sum of squares of the present weights."""
        if buckets.rule == "fixed":
            return BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
        root_mean_square = math.sqrt(sum_of_squares / self.group.count)
        if not math.isfinite(root_mean_square):
            raise SolverError(
                f"{self.group.name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
            )
        step_size = buckets.step_scale * (root_mean_square or 1.0)
        return BucketGrid(center=0.0, radius=_short(step_size * buckets.count / 2), count=buckets.count)

    def rescale(self, factor: float) -> None:
        """Multiply the step size by `factor`."""
        grid = self.known_grid()
        self.grid = BucketGrid(center=0.0, radius=_short(grid.radius * factor), count=grid.count)

    def known_grid(self) -> BucketGrid:
        """The grid, once the term has set in."""
        if self.grid is None:
            raise SolverError(f"{self.group.name}: the entropy term has not set in yet.")
        return self.grid

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings that restore this state."""
        grid = self.grid
        return {
            "grid": None if grid is None else {"center": grid.center, "radius": grid.radius, "count": grid.count},
            "xi": None if self.xi is None else torch.from_numpy(self.xi),
            "step_learner": self.step_learner.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        grid = state_dict["grid"]
        self.grid = None if grid is None else BucketGrid(**grid)
        self.xi = None if state_dict["xi"] is None else state_dict["xi"].cpu().numpy().copy()
        self.step_learner.load_state_dict(state_dict["step_learner"])


def half_cell_slopes(slopes: NDArray[np.float64], hysteresis: float) -> NDArray[np.float64]:
    """β on both halves of every cell: float64 of shape (..., 2 (C - 1)), from `slopes` of shape (..., C - 1).

    On the half nearer the attractor it is ``1 + hysteresis`` times as steep, on the other ``1 - hysteresis`` times.
    """
    steep, gentle = (1 + hysteresis) * slopes, (1 - hysteresis) * slopes
    outward = slopes > 0
    halves = np.stack([np.where(outward, steep, gentle), np.where(outward, gentle, steep)], axis=-1)
    return halves.reshape(*slopes.shape[:-1], -1)


def _short(radius: float) -> float:
    """`radius` rounded to float32, which takes half the bytes in a file."""
    return float(np.float32(radius))
