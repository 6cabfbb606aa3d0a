"""Batch normalisation in few bytes: its vectors on grids that are just fine enough.

In evaluation a channel of batch normalisation gives ``γ (x - μ) / √(v + ε) + β``, where x has about the mean μ and the
variance v of training. With rounded vectors the output is wrong by ``(â - a) (x - μ) + β̂ - β + â (μ - μ̂)``, where
``a = γ / √(v + ε)``. Its mean square over channels says how fine the grids must be. Where γ and β may be rounded too,
they make up for what rounding v and μ has changed, so that these need few buckets.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq.config import require
from metaq.tensors.grid import BucketGrid

TOLERANCE = 0.01
"""Root mean square error of the outputs of a layer, over their root mean square."""

ROUGH_TOLERANCE = 0.1
"""The same for rounding the statistics alone, where γ and β make up for it; it bounds what changes in training mode."""

EPSILON = 1e-5
"""What PyTorch adds to variances unless told otherwise."""

ENDINGS = {"variance": "running_var", "mean": "running_mean", "scale": "weight", "shift": "bias"}
"""Last parts of the names of the vectors, in the order in which they are rounded."""

MADE_UP_BY = {"variance": "scale", "mean": "shift"}

HALVINGS = 40
LARGEST_COUNT = (1 << 16) - 1

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundedNorms:
    """Rounded vectors of batch normalisations, by name in the state dict, same shapes and dtypes; and the grids they
    lie on.
    """

    values: dict[str, torch.Tensor]
    grids: dict[str, BucketGrid]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Norm:
    """One layer: vectors of its channels."""

    mean: Vector
    variance: Vector
    scale: Vector
    shift: Vector

    @property
    def slope(self) -> Vector:
        """What inputs are multiplied with in evaluation."""
        slope: Vector = self.scale / np.sqrt(self.variance + EPSILON)
        return slope

    @property
    def power(self) -> float:
        """Sum over channels of the mean square of the output."""
        return float((self.slope**2 * self.variance + self.shift**2).sum())

    def error(self, other: _Norm) -> float:
        """Sum over channels of the mean square by which the outputs of `other` differ."""
        spread = (other.slope - self.slope) ** 2 * self.variance
        offset = other.shift - self.shift + other.slope * (self.mean - other.mean)
        return float((spread + offset**2).sum())


def rounded_norms(
    state_dict: Mapping[str, torch.Tensor], *, taken: Collection[str] = (), tolerance: float = TOLERANCE
) -> RoundedNorms:
    """Round the vectors of every batch normalisation in `state_dict` to grids of as few buckets as they bear.

    Layers are known by their ``running_mean`` and ``running_var``. Vectors that are not finite, or would need very fine
    grids, are left out, and those in `taken`: names of tensors that are on grids already, or must stay as they are for
    another reason. `tolerance` is the largest root mean square error of a layer's outputs over their root mean square;
    raises :class:`ConfigError` if it is not positive.
    """
    require(0 < tolerance < math.inf, f"tolerance: {tolerance} is not a positive number.")
    values: dict[str, torch.Tensor] = {}
    grids: dict[str, BucketGrid] = {}
    for name in state_dict:
        prefix = name.removesuffix(ENDINGS["mean"])
        if name.rpartition(".")[2] != ENDINGS["mean"] or prefix + ENDINGS["variance"] not in state_dict:
            continue
        tensors = {field: state_dict[prefix + end] for field, end in ENDINGS.items() if prefix + end in state_dict}
        exact = _norm_of(tensors)
        if exact is None or not exact.power:
            continue
        rounded, own = _rounded(exact, [field for field in tensors if prefix + ENDINGS[field] not in taken], tolerance)
        for field, grid in own.items():
            values[prefix + ENDINGS[field]] = torch.from_numpy(getattr(rounded, field)).to(tensors[field])
            grids[prefix + ENDINGS[field]] = grid
    return RoundedNorms(values=values, grids=grids)


@contextmanager
def holding(model: nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let the tensors of `model` called as those in `values` hold them inside the ``with`` block."""
    held = model.state_dict(keep_vars=True)
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for name, tensor in values.items():
            before.append((held[name], held[name].data))
            # Both sets of values are there anyway; a copy would be a third.
            held[name].data = tensor.detach().to(held[name].data)
        yield
    finally:
        for holder, own in reversed(before):
            holder.data = own


def _norm_of(tensors: Mapping[str, torch.Tensor]) -> _Norm | None:
    """The layer with these vectors; None if they do not make one, or are not finite."""
    vectors = {field: tensor.detach().double().cpu().numpy() for field, tensor in tensors.items()}
    shape = vectors["mean"].shape
    is_usable = all(vector.shape == shape and np.isfinite(vector).all() for vector in vectors.values())
    if not is_usable or (vectors["variance"] < 0).any():
        return None
    return _Norm(**{"scale": np.ones(shape), "shift": np.zeros(shape), **vectors})


def _rounded(exact: _Norm, free: Collection[str], tolerance: float) -> tuple[_Norm, dict[str, BucketGrid]]:
    """The layer with its `free` vectors on grids: statistics first, then what makes up for them."""
    last = [field for field in free if MADE_UP_BY.get(field) not in free]
    rounded, grids = exact, {}
    for field in (field for field in ENDINGS if field in free):
        share = (last.index(field) + 1) / len(last) * tolerance**2 if field in last else ROUGH_TOLERANCE**2
        grid = _coarsest(exact, rounded, field, limit=share * exact.power)
        if grid is not None:
            grids[field] = grid
            rounded = replace(rounded, **{field: _values_on(grid, getattr(rounded, field))})
        if field == "variance" and "scale" in free:
            rounded = replace(rounded, scale=exact.slope * np.sqrt(rounded.variance + EPSILON))
        if field != "shift" and "shift" in free:
            rounded = replace(rounded, shift=exact.shift - rounded.slope * (exact.mean - rounded.mean))
    return rounded, grids


def _coarsest(exact: _Norm, rounded: _Norm, field: str, *, limit: float) -> BucketGrid | None:
    """The widest buckets for one vector with which the layer is wrong by no more than `limit`; None if there are none.

    Step sizes are powers of two, and counts of buckets one less, so that layers share grids and a header names few.
    """
    values: Vector = getattr(rounded, field)
    largest = float(np.abs(values).max())
    step = 2.0 ** math.ceil(math.log2(largest)) if largest else 1.0
    for _ in range(HALVINGS):
        count = (2 << max(1, math.ceil(largest / step)).bit_length()) - 1
        if count > LARGEST_COUNT:
            return None
        grid = BucketGrid(center=0.0, radius=step * count / 2, count=count)
        if exact.error(replace(rounded, **{field: _values_on(grid, values)})) <= limit:
            return grid
        step /= 2
    return None


def _values_on(grid: BucketGrid, values: Vector) -> Vector:
    return grid.values_of(grid.assign(values))
