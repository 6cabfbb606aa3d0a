"""Bucket indices of one stored tensor after the other, in pieces of the file's chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metaq.compression.planning import Plan
from metaq.compression.sampling import is_matrix, sampled_rows
from metaq.compression.survey import Axes, Facts, Survey, blocks_of
from metaq.container.layout import LARGEST, grid_fits
from metaq.errors import ConfigError
from metaq.model.stored import Reader, StoredTensor
from metaq.quantize.allocation import SEARCHED_ELEMENTS, Target, allocate_one
from metaq.quantize.blocks import Fineness, as_rows, learn, levels_of, margins_of
from metaq.quantize.rates import scale_classes
from metaq.quantize.rdo import Importance, central_value, matrix_shape
from metaq.quantize.rotation import symmetric_grid
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis

Floats = NDArray[np.float64]
Symbols = NDArray[np.int32]

LEARNED_WEIGHTS = 1 << 19
"""Weights from which the code lengths of a tensor are learned."""


class SymbolSource(Protocol):
    """A quantised tensor that gives its bucket indices piece by piece, in the order of the tensor."""

    @property
    def grid(self) -> BucketGrid:
        """Its reference values."""

    @property
    def trellis_bits(self) -> int:
        """See :class:`metaq.tensors.quantized.QuantizedTensor`."""

    def symbols(self, start: int, stop: int) -> Symbols:
        """Bucket indices `start` to `stop`, int32 of shape (n,); pieces are asked for in order."""


class Quantizer:
    """Knows how every tensor is kept: by a plan, on a given grid, or exactly; grids and plans by name of the tensor.

    `bases` are those that are used, in the order in which tensors first need them.
    """

    def __init__(
        self,
        reader: Reader,
        grids: Mapping[str, BucketGrid],
        plans: Mapping[str, Plan] | None = None,
        survey: Survey | None = None,
    ) -> None:
        self._reader = reader
        self._grids = grids
        self._plans = plans or {}
        self._survey = survey or Survey(facts={}, axes=())
        self.bases: list[Basis] = []
        self._numbers: dict[int, int] = {}
        for plan in self._plans.values():
            if plan.axes is not None and plan.axes not in self._numbers:
                self._numbers[plan.axes] = self._numbered(self._survey.axes[plan.axes].basis)

    def is_exact(self, tensor: StoredTensor) -> bool:
        """Whether a tensor is kept exactly."""
        return tensor.name not in self._plans and tensor.name not in self._grids

    def basis_of(self, tensor: StoredTensor) -> int | None:
        """Number of the basis of a quantised tensor among `bases`, or None."""
        axes = self._plans[tensor.name].axes if tensor.name in self._plans else None
        return None if axes is None else self._numbers[axes]

    def source(self, tensor: StoredTensor) -> SymbolSource:
        """Bucket indices of a tensor that is quantised."""
        if tensor.name in self._grids:
            return GridSource(self._reader, tensor, self._grids[tensor.name])
        plan = self._plans[tensor.name]
        axes = None if plan.axes is None else self._survey.axes[plan.axes]
        if tensor.count <= SEARCHED_ELEMENTS:
            found = WholeSource.of(self._reader, tensor, plan, axes)
            if axes is not None or grid_fits(found.grid, tensor.dtype):
                return found
        if is_matrix(tensor):
            return MatrixSource(self._reader, tensor, plan, axes)
        return FlatSource(self._reader, tensor, plan, self._survey.facts[tensor.name])

    def _numbered(self, basis: Basis) -> int:
        """Number of a basis; a file holds equal ones once."""
        for number, other in enumerate(self.bases):
            if other.grid == basis.grid and np.array_equal(other.indices, basis.indices):
                return number
        self.bases.append(basis)
        return len(self.bases) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeSource:
    """A tensor that is quantised at once; several steps are tried."""

    indices: Symbols
    grid: BucketGrid
    trellis_bits: int

    @classmethod
    def of(cls, reader: Reader, tensor: StoredTensor, plan: Plan, axes: Axes | None) -> WholeSource:
        """Quantise `tensor`."""
        values = reader.values(tensor, 0, tensor.count).reshape(tensor.shape)
        matrix = values.reshape(matrix_shape(tensor.shape))
        target = Target(
            name=tensor.name,
            values=values,
            dtype=tensor.dtype,
            importance=Importance(elements=np.full(matrix.shape, plan.importance)),
            center=0.0 if plan.is_centered else central_value(matrix),
        )
        found = allocate_one(target, plan.multiplier, None if axes is None else axes.basis).tensor
        indices = found.scanned().astype(np.int32)
        return cls(indices=indices, grid=found.grid, trellis_bits=found.trellis_bits)

    def symbols(self, start: int, stop: int) -> Symbols:
        return self.indices[start:stop]


class MatrixSource:
    """A large matrix, quantised some rows at a time."""

    def __init__(self, reader: Reader, tensor: StoredTensor, plan: Plan, axes: Axes | None) -> None:
        self._reader = reader
        self._tensor = tensor
        self._inverse = None if axes is None else axes.inverse
        self._columns = tensor.row_length
        samples = sampled_rows(reader, tensor, LEARNED_WEIGHTS)
        self._center = 0.0
        if axes is None:
            self._center = _center(np.concatenate([rows for _, rows in samples]), tensor, plan)
        measured = blocks_of(tensor, self._columns)
        self._margins = margins_of(
            tensor.shape[0], ((start // self._columns, self._block(start, stop)) for start, stop in measured)
        )
        self._fineness = plan.fineness(self._margins.largest)
        if axes is None:
            self._fineness = _fitting(self._center, self._fineness, tensor)
        self.trellis_bits = plan.trellis_bits
        self.grid = symmetric_grid(self._center, self._fineness.step_size, self._fineness.limit)
        self._above: tuple[int, Floats] | None = None
        blocks = [(first, self._coordinates(rows)) for first, rows in samples]
        step = self._fineness.step_size
        self._costs, _ = learn(
            [(block, self._margins.classes(block, first, step)) for first, block in blocks], self._fineness
        )

    def symbols(self, start: int, stop: int) -> Symbols:
        """Pieces are whole rows."""
        first = start // self._columns
        block = self._block(start, stop)
        above = None if first == 0 else self._row_before(first)
        classes = self._margins.classes(block, first, self._fineness.step_size, above)
        levels = levels_of(block, classes, self._costs, self._fineness)
        self._above = (first + len(block), block[-1].copy())
        return (levels + (self.grid.count - 1) // 2).reshape(-1)

    def _row_before(self, row: int) -> Floats:
        """The row before number `row`: kept from the last piece, or read again where a run goes on."""
        if self._above is not None and self._above[0] == row:
            return self._above[1]
        before: Floats = self._block((row - 1) * self._columns, row * self._columns)[0]
        return before

    def _block(self, start: int, stop: int) -> Floats:
        return self._coordinates(self._reader.values(self._tensor, start, stop).reshape(-1, self._columns))

    def _coordinates(self, rows: Floats) -> Floats:
        """Rows in the unit of the grid: coefficients of the basis, or weights less the centre."""
        return rows @ self._inverse if self._inverse is not None else rows - self._center


class FlatSource:
    """A large tensor without rows worth the name; every piece is quantised by itself."""

    trellis_bits = 0

    def __init__(self, reader: Reader, tensor: StoredTensor, plan: Plan, facts: Facts) -> None:
        self._reader = reader
        self._tensor = tensor
        samples = [rows for _, rows in sampled_rows(reader, tensor, LEARNED_WEIGHTS)]
        self._center = _center(np.concatenate(samples), tensor, plan)
        self._fineness = _fitting(self._center, plan.fineness(facts.largest + abs(self._center)), tensor)
        self.grid = symmetric_grid(self._center, self._fineness.step_size, self._fineness.limit)
        blocks = [rows - self._center for rows in samples]
        step = self._fineness.step_size
        self._costs, _ = learn([(block, scale_classes(block, step)) for block in blocks], self._fineness)

    def symbols(self, start: int, stop: int) -> Symbols:
        block = as_rows(self._reader.values(self._tensor, start, stop) - self._center)
        classes = scale_classes(block, self._fineness.step_size)
        levels = levels_of(block, classes, self._costs, self._fineness).reshape(-1)[: stop - start]
        return levels + (self.grid.count - 1) // 2


class GridSource:
    """A tensor on a grid that is given."""

    trellis_bits = 0

    def __init__(self, reader: Reader, tensor: StoredTensor, grid: BucketGrid) -> None:
        self._reader = reader
        self._tensor = tensor
        self.grid = grid

    def symbols(self, start: int, stop: int) -> Symbols:
        values = self._reader.values(self._tensor, start, stop)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"{self._tensor.name}: holds NaN or infinity, which no grid has; repair the weights first."
            )
        return self.grid.assign(values).astype(np.int32)


def _center(sample: Floats, tensor: StoredTensor, plan: Plan) -> float:
    """The central value of a tensor, by some rows of it; 0 where the grid would leave the type beside it."""
    center = 0.0 if plan.is_centered else central_value(sample)
    return center if abs(center) + plan.step_size <= LARGEST[tensor.dtype] else 0.0


def _fitting(center: float, fineness: Fineness, tensor: StoredTensor) -> Fineness:
    """`fineness` with as many levels as have finite values in the type."""
    bound = int(min((LARGEST[tensor.dtype] - abs(center)) / fineness.step_size, fineness.limit))
    fineness = replace(fineness, limit=max(bound, 1))
    # The last bit of the outermost value may still be one too many.
    fits = fineness.limit == 1 or grid_fits(symmetric_grid(center, fineness.step_size, fineness.limit), tensor.dtype)
    return fineness if fits else replace(fineness, limit=fineness.limit - 1)
