"""What becomes of the tensors that were chosen, by their values: weights, masks and tables, statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.compression.sampling import quota, sampled_rows
from metaq.compression.survey import Facts
from metaq.model.norms import ENDINGS, TOLERANCE, rounded_norms
from metaq.model.opened import OpenedModel
from metaq.model.selection import RUNNING_STATISTICS
from metaq.model.stored import Reader, StoredTensor
from metaq.quantize.lossless import lossless_grid
from metaq.tensors.grid import BucketGrid

Floats = NDArray[np.float64]

HUGE = 1e5
"""From so many times the median of the others, a number is no weight, but stands for infinity in a mask."""

NOT_FINITE = "holds NaN, infinity or numbers near it"
REPEATED = 64
"""Values that lie on no grid make a table if each is taken so many times; weights may share some too."""

FEW_VALUES = "takes few values, as masks do"
MONOTONE = "rises or falls all along, as tables do"
HOLDS_HUGE = "holds numbers far beyond its weights, as masks do"

NORM_SHARE, LEAST_NORM_TOLERANCE = 0.1, 1e-4
"""By how much statistics of batch normalisation may falsify outputs, over what the weights do; and at least."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SortedOut:
    """Chosen tensors by what becomes of them.

    `weights` are quantised as λ asks for, with `samples` of their rows, float64 (n, columns), by name. Tensors of few
    values lie exactly on `grids`. The others are kept exactly for `reasons`.
    """

    weights: tuple[StoredTensor, ...]
    samples: dict[str, Floats]
    grids: dict[str, BucketGrid]
    reasons: dict[str, str]


def sorted_out(reader: Reader, tensors: Sequence[StoredTensor], facts: Mapping[str, Facts]) -> SortedOut:
    """Tell weights from masks and tables by `facts` of them."""
    grids: dict[str, BucketGrid] = {}
    reasons: dict[str, str] = {}
    for tensor in tensors:
        values = facts[tensor.name].values
        grid = lossless_grid(values, tensor.dtype) if values else None
        if grid is not None:
            grids[tensor.name] = grid
        elif not facts[tensor.name].is_finite:
            reasons[tensor.name] = NOT_FINITE
        elif facts[tensor.name].is_monotone:
            reasons[tensor.name] = MONOTONE
        elif values and tensor.count >= REPEATED * len(values):
            reasons[tensor.name] = FEW_VALUES
    left = [tensor for tensor in tensors if tensor.name not in grids and tensor.name not in reasons]
    samples = {
        tensor.name: np.concatenate([rows for _, rows in sampled_rows(reader, tensor, quota(tensor, left))])
        for tensor in left
    }
    for tensor in left:
        median = median_magnitude(samples[tensor.name])
        if median and facts[tensor.name].largest > HUGE * median:
            reasons[tensor.name] = HOLDS_HUGE
    weights = tuple(tensor for tensor in left if tensor.name not in reasons)
    return SortedOut(weights=weights, samples=samples, grids=grids, reasons=reasons)


def median_magnitude(sample: Floats) -> float:
    """Median of the magnitudes other than zero; 0 if there are none."""
    sizes = np.abs(sample[sample != 0])
    return float(np.median(sizes)) if sizes.size else 0.0


def statistics_grids(
    model: OpenedModel, reader: Reader, quantized: Iterable[str], relative_error: float
) -> dict[str, BucketGrid]:
    """Grids for running statistics of batch normalisation, as fine as weights with this relative error deserve.

    `quantized` are names of the tensors that have grids, `relative_error` the root mean square error of the weights
    over their root mean square.
    """
    stems = {name.removesuffix(ENDINGS["mean"]) for name in model.holders if name.endswith(ENDINGS["mean"])}
    names = [stem + ending for stem in sorted(stems) for ending in ENDINGS.values()]
    vectors = {}
    for name in (name for name in names if name in model.holders):
        tensor = model.tensor(name)
        if tensor.dtype.is_quantizable and tensor.count:
            vectors[name] = torch.from_numpy(reader.values(tensor, 0, tensor.count).copy())
    free = {name for name in vectors if name.rpartition(".")[2] in RUNNING_STATISTICS} - set(quantized)
    rounded = rounded_norms(vectors, taken=vectors.keys() - free, tolerance=norm_tolerance(relative_error))
    return {model.holders[name]: grid for name, grid in rounded.grids.items()}


def norm_tolerance(relative_error: float) -> float:
    """By how much rounded statistics may falsify outputs where weights have this error."""
    return min(TOLERANCE, max(LEAST_NORM_TOLERANCE, NORM_SHARE * relative_error))
