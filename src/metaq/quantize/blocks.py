"""Rate-distortion quantisation of tensors too large to be held: levels block by block; numpy only.

The same search as in :mod:`metaq.quantize.rdo`, with one importance for all weights of a tensor. Code lengths are
learned from a sample of its blocks, so that every block is searched once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

import numpy as np
from numpy.typing import NDArray

from metaq.quantize.rates import initial_costs, learned_costs, magnitude_classes, scale_classes
from metaq.quantize.rdo import MAX_MAGNITUDE, PASSES, ROWS_AT_ONCE, predecessors
from metaq.quantize.search import count_rows, search_rows
from metaq.tensors.trellis import transitions

Floats = NDArray[np.float64]
Classes = NDArray[np.uint8]

LEAST_MEAN = 1e-12
FLAT_ROW = 1024
"""Weights that have no rows worth the name are searched in rows of so many."""


@dataclass(frozen=True, kw_only=True)
class Fineness:
    """How a tensor is quantised.

    Attributes
    ----------
    step_size
        Distance of reference values.
    weight
        What a squared step of error is worth in bits.
    trellis_bits
        0, or the binary logarithm of the number of trellis states.
    limit
        Largest magnitude of a level.
    """

    step_size: float
    weight: float
    trellis_bits: int
    limit: int = MAX_MAGNITUDE


@dataclass(frozen=True, kw_only=True, eq=False)
class Margins:
    """Mean magnitudes of a matrix, in its own unit.

    Attributes
    ----------
    rows, columns
        float64 of shape (rows,) and (columns,).
    largest
        The largest magnitude.
    """

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


class MarginSums:
    """Margins of a matrix of `rows` rows, gathered from its blocks in any order."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows = np.zeros(rows)
        self._columns = np.zeros(columns)
        self._largest = 0.0

    def add(self, start: int, block: Floats) -> None:
        """Take the rows from number `start` on, float64 of shape (n, columns)."""
        sizes = np.abs(block)
        self._rows[start : start + len(block)] = sizes.mean(axis=1)
        self._columns += sizes.sum(axis=0)
        self._largest = max(self._largest, float(sizes.max()))

    def finished(self) -> Margins:
        """The margins, once all blocks were added."""
        return Margins(rows=self._rows, columns=self._columns / len(self._rows), largest=self._largest)


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """Code lengths found on a sample.

    Attributes
    ----------
    costs
        See :mod:`metaq.quantize.rates`.
    bits_per_weight
        What the weights of the sample take on average by these costs.
    """

    costs: Floats
    bits_per_weight: float


def as_rows(values: Floats) -> Floats:
    """`values` of shape (n,) as rows of ``FLAT_ROW``, the last one filled up with zeros."""
    rows = -(-values.size // FLAT_ROW)
    padded = np.zeros(rows * FLAT_ROW)
    padded[: values.size] = values
    return padded.reshape(rows, FLAT_ROW)


def own_classes(block: Floats, step_size: float) -> Classes:
    """Classes of a block by itself."""
    return scale_classes(block, step_size)


def learn(blocks: Sequence[tuple[Floats, Classes]], fineness: Fineness) -> Learned:
    """Code lengths from blocks of weights and their classes, each of shape (rows, columns)."""
    costs = initial_costs()
    counts = np.zeros(costs.shape, dtype=np.int64)
    trellis = _trellis(fineness)
    bits = 0.0
    for _ in range(PASSES):
        found = [(levels_of(block, classes, costs, fineness), classes) for block, classes in blocks]
        counts[:] = 0
        for levels, classes in found:
            count_rows(levels, classes, trellis, counts)
        costs = learned_costs(counts)
        bits = float((counts * costs).sum())
    return Learned(costs=costs, bits_per_weight=bits / max(sum(block.size for block, _ in blocks), 1))


def levels_of(block: Floats, classes: Classes, costs: Floats, fineness: Fineness) -> NDArray[np.int32]:
    """Levels of a block of whole rows, int32 of its shape (rows, columns).

    Parameters
    ----------
    block
        Weights less the centre, float64.
    classes, costs
        See :mod:`metaq.quantize.rates`.
    fineness
        How to quantise.
    """
    targets = block / fineness.step_size
    levels = np.zeros(targets.shape, dtype=np.int32)
    ways = predecessors(fineness.trellis_bits) if fineness.trellis_bits else np.zeros(0, dtype=np.int32)

    def search(start: int) -> None:
        rows = slice(start, start + ROWS_AT_ONCE)
        weights = np.full(targets[rows].shape, fineness.weight)
        search_rows(targets[rows], weights, classes[rows], costs, fineness.limit, ways, levels[rows])

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(search, range(0, len(levels), ROWS_AT_ONCE)))
    return levels


def _trellis(fineness: Fineness) -> NDArray[np.int32]:
    return transitions(fineness.trellis_bits) if fineness.trellis_bits else np.zeros(0, dtype=np.int32)
