"""Rate-distortion quantisation of tensors too large to be held: levels block by block; numpy only.

The same search as in :mod:`metaq.quantize.rdo`, with one importance for all weights of a tensor. Code lengths are
learned from a sample of its blocks, so that every block is searched once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.quantize.rates import magnitude_classes
from metaq.quantize.rdo import MAX_MAGNITUDE, learned_levels, predecessors, search_all

Floats = NDArray[np.float64]
Classes = NDArray[np.uint8]

LEAST_MEAN = 1e-12
FLAT_ROW = 1024
"""Weights that have no rows worth the name are searched in rows of so many."""


@dataclass(frozen=True, kw_only=True)
class Fineness:
    """How a tensor is quantised.

    `weight` is what a squared step of error is worth in bits, `trellis_bits` 0 or the binary logarithm of the number of
    trellis states, `limit` the largest magnitude of a level.
    """

    step_size: float
    weight: float
    trellis_bits: int
    limit: int = MAX_MAGNITUDE


@dataclass(frozen=True, kw_only=True, eq=False)
class Margins:
    """Mean magnitudes of rows and columns of a matrix, in its own unit, and the largest one."""

    rows: Floats
    columns: Floats
    largest: float

    def classes(self, block: Floats, start: int, step_size: float, above: Floats | None = None) -> Classes:
        """Classes of the rows from number `start` on, in the unit of the matrix; `above` is the row before."""
        return magnitude_classes(
            np.abs(block) / step_size,
            self.rows[start : start + len(block)] / step_size,
            self.columns / step_size,
            max(float(self.columns.mean()) / step_size, LEAST_MEAN),
            None if above is None else np.abs(above) / step_size,
        )


def margins_of(rows: int, blocks: Iterable[tuple[int, Floats]]) -> Margins:
    """Margins of a matrix of so many rows from its blocks in any order, each with the number of its first row."""
    row_means, column_sums, largest = np.zeros(rows), np.zeros(1), 0.0
    for start, block in blocks:
        sizes = np.abs(block)
        row_means[start : start + len(block)] = sizes.mean(axis=1)
        column_sums = column_sums + sizes.sum(axis=0)
        largest = max(largest, float(sizes.max()))
    return Margins(rows=row_means, columns=column_sums / rows, largest=largest)


def as_rows(values: Floats) -> Floats:
    """`values` of shape (n,) as rows of ``FLAT_ROW``, the last one filled up with zeros."""
    rows = -(-values.size // FLAT_ROW)
    padded = np.zeros(rows * FLAT_ROW)
    padded[: values.size] = values
    return padded.reshape(rows, FLAT_ROW)


def learn(blocks: Sequence[tuple[Floats, Classes]], fineness: Fineness) -> tuple[Floats, float]:
    """Code lengths from blocks of weights and their classes, (rows, columns) each, and what a weight takes by them."""
    _, costs, bits = learned_levels(
        [classes for _, classes in blocks],
        lambda costs: [levels_of(block, classes, costs, fineness) for block, classes in blocks],
        fineness.trellis_bits,
    )
    return costs, bits / max(sum(block.size for block, _ in blocks), 1)


def levels_of(block: Floats, classes: Classes, costs: Floats, fineness: Fineness) -> NDArray[np.int32]:
    """Levels of a block of whole rows, int32 of its shape (rows, columns); `block` is weights less the centre, float64.

    For classes and costs see :mod:`metaq.quantize.rates`.
    """
    ways = predecessors(fineness.trellis_bits)
    return search_all(block / fineness.step_size, fineness.weight, classes, costs, fineness.limit, ways)
