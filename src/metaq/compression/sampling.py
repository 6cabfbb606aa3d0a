"""A few rows of every tensor, from which rates are estimated before anything is coded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.model.stored import Reader, StoredTensor
from metaq.quantize.allocation import MIN_TRELLIS_ROW
from metaq.quantize.blocks import FLAT_ROW, as_rows

Floats = NDArray[np.float64]

RUNS = 8
"""Places of a tensor from which rows are taken."""

TOTAL = 1 << 20
"""About how many weights are taken of all tensors together."""

LEAST = 1 << 8
"""Fewest weights that are taken of a tensor, if there are not too many tensors."""


MAX_TRELLIS_ROW = 1 << 18
"""The search along a row takes 144 bytes a weight."""


def is_matrix(tensor: StoredTensor) -> bool:
    """Whether its rows are long enough for a trellis, and short enough for one that is searched row by row."""
    return MIN_TRELLIS_ROW <= tensor.row_length <= MAX_TRELLIS_ROW


def quota(tensor: StoredTensor, tensors: Sequence[StoredTensor]) -> int:
    """How many weights are taken of a tensor of a model."""
    share = TOTAL * tensor.count // max(sum(each.count for each in tensors), 1)
    return min(max(share, min(LEAST, TOTAL // len(tensors))), tensor.count)


def sampled_rows(reader: Reader, tensor: StoredTensor, weights: int) -> list[tuple[int, Floats]]:
    """Runs of whole rows, about `weights` weights in all, each with the number of its first row.

    A tensor without rows worth the name is cut into rows, see :func:`metaq.quantize.blocks.as_rows`.
    """
    length = tensor.row_length if is_matrix(tensor) else FLAT_ROW
    rows = -(-tensor.count // length)
    taken = min(max(-(-weights // length), 1), rows)
    runs = min(RUNS, taken)
    found = []
    for run in range(runs):
        first = run * rows // runs
        last = min(first + -(-taken // runs), (run + 1) * rows // runs)
        values = reader.values(tensor, first * length, min(last * length, tensor.count))
        found.append((first, values.reshape(-1, length) if is_matrix(tensor) else as_rows(values)))
    return found
