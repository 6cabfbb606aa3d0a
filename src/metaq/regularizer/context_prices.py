"""What the context coder would charge for every single weight, beside what the histogram of its tensor says.

A weight of a row and a column full of zeros costs more bits than the same weight among others, and the file that is
written knows it: :mod:`metaq.coding.context`. Here its own model, on its way through the present bucket indices, tells
how likely it takes every weight to leave the attractor.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.coding.context.small import flag_probabilities
from metaq.entropy.cells import bucket_indices
from metaq.entropy.objective import LEAST_FIRST_BITS
from metaq.entropy.passes.dispatch import TensorPairs
from metaq.entropy.passes.grids import GridSet

REFRESH_STEPS = 25
"""Steps between two refreshes, each of which takes about as long as encoding all weights."""


class ContextPrices:
    """Bits by which leaving the attractor costs a weight more than its histogram tells, kept between refreshes.

    `names` and `tensors` are all that take part; a file holds them in the order of their names. `are_known` tells
    whether :meth:`refresh` was called.
    """

    def __init__(self, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
        self._order = sorted(range(len(names)), key=lambda position: names[position].encode())
        self._surplus = [torch.zeros_like(tensor) for tensor in tensors]
        self.are_known = False

    def refresh(self, weights: Sequence[torch.Tensor], grids: GridSet) -> None:
        """Ask the coder's model anew about the latent weights, one tensor a group; zero is the attractor; O(n)."""
        central = grids.count // 2
        symbols, shapes = [], []
        for position in self._order:
            weight = weights[position]
            symbols.append(bucket_indices(weight, grids[position]).cpu().numpy().astype(np.int32).reshape(-1))
            row_length = weight.numel() // len(weight) if weight.ndim > 1 else 0
            shapes.append(StreamShape(count=weight.numel(), alphabet_size=grids.count, row_length=row_length))
        found = zip(self._order, flag_probabilities(symbols, shapes), symbols, strict=True)
        for position, probability, stream in found:
            weight, seldom = weights[position], 0.5 / stream.size
            share = np.clip((stream != central).mean(), seldom, 1 - seldom)
            bits = torch.from_numpy(_price(probability) - _price(share))
            self._surplus[position] = bits.to(device=weight.device, dtype=weight.dtype).view_as(weight)
        self.are_known = True

    def add_slopes(
        self, pairs: TensorPairs, grids: GridSet, slopes: torch.Tensor, *, hysteresis: float, strength: float
    ) -> None:
        """Add to the gradients of the weights beside the attractor what their slopes lack.

        `slopes` are β by cell from :func:`metaq.entropy.objective.magnitude_slopes`, float64 of shape (G, C - 1);
        `hysteresis` and `strength` are as in :func:`metaq.entropy.objective.half_cell_slopes`.
        """
        central = grids.count // 2
        least = LEAST_FIRST_BITS - slopes[:, central] * grids.step_size
        for weight, gradient, group in zip(pairs.weights, pairs.gradients, pairs.groups, strict=True):
            step_size = float(grids.step_size[group])
            place = (weight - float(grids.center[group])) / step_size
            distance = place.abs()
            steepness = 1 + hysteresis * (1 - 2 * (distance > 0.5))
            bits = self._surplus[group].clamp(min=float(least[group]))
            gradient.add_(bits * steepness * place.sign() * (distance < 1), alpha=strength / step_size)

    def state_dict(self) -> dict[str, Any]:
        """Tensors that :meth:`load_state_dict` takes over."""
        return {"are_known": self.are_known, "surplus": [bits.clone() for bits in self._surplus]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.are_known = bool(state_dict["are_known"])
        self._surplus = [bits.clone() for bits in state_dict["surplus"]]


def _price(probability: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Bits that leaving the attractor takes more than staying there."""
    return np.log2((1 - probability) / np.asarray(probability))
