"""What changes during training for one group of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.cells import bucket_indices
from metaq.config import BucketConfig
from metaq.errors import SolverError
from metaq.grid import BucketGrid
from metaq.oscillation import OscillationFreezer
from metaq.step_size import StepLearner
from metaq.weights import WeightGroup


class GroupState:
    """Grid, latent weights, freezers, multipliers and slopes of one group.

    Attributes
    ----------
    grid
        None until the term sets in.
    latent
        Weights the optimiser works on, by tensor name; empty where the model itself holds them.
    freezers
        One for every latent tensor.
    xi
        Multipliers of the last dual solution, float64 of shape (C,), or None.
    slopes
        β on every cell, float64 of shape (C - 1,), or None.
    step_learner
        Adam's state for the logarithm of the step size.
    """

    def __init__(self, group: WeightGroup) -> None:
        self.group = group
        self.grid: BucketGrid | None = None
        self.latent: dict[str, torch.Tensor] = {}
        self.freezers: dict[str, OscillationFreezer] = {}
        self.xi: NDArray[np.float64] | None = None
        self.slopes: torch.Tensor | None = None
        self.step_learner = StepLearner()

    def weights(self) -> dict[str, torch.Tensor]:
        """Latent weights where they are kept apart, else the model's own."""
        return self.latent or {name: p.detach() for name, p in self.group.parameters.items()}

    def make_grid(self, buckets: BucketConfig) -> BucketGrid:
        """The grid the configuration asks for, from the present weights."""
        if buckets.rule == "fixed":
            return BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
        squares = sum(float(w.double().square().sum()) for w in self.weights().values())
        root_mean_square = math.sqrt(squares / self.group.count)
        if not math.isfinite(root_mean_square):
            raise SolverError(
                f"{self.group.name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
            )
        step_size = buckets.step_scale * (root_mean_square or 1.0)
        return BucketGrid(center=0.0, radius=_short(step_size * buckets.count / 2), count=buckets.count)

    def keep_latent(self) -> None:
        """Copy the model's weights into latent ones and begin to watch their buckets."""
        for name, parameter in self.group.parameters.items():
            self.latent[name] = parameter.detach().clone()
            self.freezers[name] = OscillationFreezer(bucket_indices(parameter.detach(), self.known_grid()))

    def rescale(self, factor: float) -> None:
        """Multiply step size and latent weights alike: every weight keeps its place between the buckets."""
        grid = self.known_grid()
        self.grid = BucketGrid(center=0.0, radius=_short(grid.radius * factor), count=grid.count)
        for latent in self.latent.values():
            latent.mul_(factor)
        if self.slopes is not None:
            self.slopes = self.slopes / factor

    def known_grid(self) -> BucketGrid:
        """The grid, once the term has set in."""
        if self.grid is None:
            raise SolverError(f"{self.group.name}: the entropy term has not set in yet.")
        return self.grid

    def known_slopes(self) -> torch.Tensor:
        """The slopes, once they have been computed."""
        if self.slopes is None:
            raise SolverError(f"{self.group.name}: the entropy term has not set in yet.")
        return self.slopes

    def half_cell_slopes(self, hysteresis: float) -> torch.Tensor:
        """β on both halves of every cell, float64 of shape (2 (C - 1),).

        On the half nearer the attractor it is ``1 + hysteresis`` times as steep, on the other ``1 - hysteresis`` times.
        """
        slopes = self.known_slopes()
        factors = torch.tensor([1 + hysteresis, 1 - hysteresis], device=slopes.device)
        lower = torch.where(slopes > 0, factors[0], factors[1])
        upper = torch.where(slopes > 0, factors[1], factors[0])
        return (slopes[:, None] * torch.stack([lower, upper], dim=1)).reshape(-1)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings that restore this state."""
        grid = self.grid
        return {
            "grid": None if grid is None else {"center": grid.center, "radius": grid.radius, "count": grid.count},
            "latent": dict(self.latent),
            "freezers": {name: freezer.state_dict() for name, freezer in self.freezers.items()},
            "xi": None if self.xi is None else torch.from_numpy(self.xi),
            "slopes": self.slopes,
            "step_learner": self.step_learner.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        grid = state_dict["grid"]
        self.grid = None if grid is None else BucketGrid(**grid)
        self.latent, self.freezers = {}, {}
        for name, latent in state_dict["latent"].items():
            parameter = self.group.parameters[name]
            self.latent[name] = latent.clone().to(parameter.device)
            self.freezers[name] = OscillationFreezer(bucket_indices(self.latent[name], self.known_grid()))
            self.freezers[name].load_state_dict(state_dict["freezers"][name])
        self.xi = None if state_dict["xi"] is None else state_dict["xi"].cpu().numpy().copy()
        self.step_learner.load_state_dict(state_dict["step_learner"])
        slopes = state_dict["slopes"]
        self.slopes = None if slopes is None else slopes.clone()


def _short(radius: float) -> float:
    """`radius` rounded to float32, which takes half the bytes in a file."""
    return float(np.float32(radius))
