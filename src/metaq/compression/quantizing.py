"""Bucket indices of one stored tensor after the other, in pieces of the file's chunks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metaq.compression.planning import Plan
from metaq.compression.survey import Axes, Facts, Survey, blocks_of, is_matrix, sampled_rows
from metaq.config import require
from metaq.container.layout import LARGEST, grid_fits
from metaq.container.writer import basis_key
from metaq.model.stored import Reader, StoredTensor
from metaq.quantize.allocation import SEARCHED_ELEMENTS, Target, allocate_one
from metaq.quantize.blocks import Fineness, as_rows, learn, levels_of, margins_of
from metaq.quantize.rates import scale_classes
from metaq.quantize.rdo import Importance, central_value
from metaq.quantize.rotation import symmetric_grid
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, matrix_shape
from metaq.tensors.scales import Scales

Floats = NDArray[np.float64]
Symbols = NDArray[np.int32]

MOST_LOST = 0.75
"""Share of what it costs to lose a tensor that its errors may cost: beyond, little is left of it for few bytes."""

LEARNED_WEIGHTS = 1 << 19
"""Weights from which the code lengths of a tensor are learned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SymbolSource:
    """A quantised tensor that gives its bucket indices piece by piece, in the order of the tensor.

    `symbols` are int32 of shape (n,), from a first number to one after the last; pieces are asked for in order.
    """

    grid: BucketGrid
    trellis_bits: int = 0
    symbols: Callable[[int, int], Symbols]


class Quantizer:
    """Knows how every tensor is kept: by a plan, on a given grid, or exactly; grids and plans by name of the tensor.

    `bases` are the different ones that are used by their keys, in the order in which tensors first need them; `scales`
    are those that the reader divides by, by name of the tensor.
    """

    def __init__(
        self,
        reader: Reader,
        grids: Mapping[str, BucketGrid],
        plans: Mapping[str, Plan] | None = None,
        survey: Survey | None = None,
        scales: Mapping[str, Scales] | None = None,
    ) -> None:
        self._reader = reader
        self._grids = grids
        self._plans = plans or {}
        self.scales = scales or {}
        self._survey = survey or Survey(facts={}, axes=())
        self.bases: dict[bytes, Basis] = {}
        self._numbers: dict[int, int] = {}
        for number in dict.fromkeys(plan.axes for plan in self._plans.values() if plan.axes is not None):
            basis = self._survey.axes[number].basis
            self.bases.setdefault(basis_key(basis), basis)
            self._numbers[number] = list(self.bases).index(basis_key(basis))

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
            return _on_grid(self._reader, tensor, self._grids[tensor.name])
        plan = self._plans[tensor.name]
        axes = None if plan.axes is None else self._survey.axes[plan.axes]
        if tensor.count <= SEARCHED_ELEMENTS:
            found = _at_once(self._reader, tensor, plan, axes)
            if found is not None:
                return found
        if is_matrix(tensor):
            matrix = _Matrix(self._reader, tensor, plan, axes)
            return SymbolSource(grid=matrix.grid, trellis_bits=plan.trellis_bits, symbols=matrix.symbols)
        return _flat(self._reader, tensor, plan, self._survey.facts[tensor.name])


def _at_once(reader: Reader, tensor: StoredTensor, plan: Plan, axes: Axes | None) -> SymbolSource | None:
    """A tensor that is quantised at once; several steps are tried. None if its grid would leave its type."""
    values = reader.values(tensor, 0, tensor.count).reshape(tensor.shape)
    matrix = values.reshape(matrix_shape(tensor.shape))
    target = Target(
        name=tensor.name,
        values=values,
        dtype=tensor.dtype,
        importance=Importance.even(matrix.shape, plan.importance),
        center=0.0 if plan.is_centered else central_value(matrix),
    )
    choice = allocate_one(target, plan.multiplier, None if axes is None else axes.basis, most_lost=MOST_LOST)
    if choice is None:
        return None
    found = choice.tensor
    indices = found.scanned().astype(np.int32)
    return SymbolSource(
        grid=found.grid, trellis_bits=found.trellis_bits, symbols=lambda start, stop: indices[start:stop]
    )


class _Matrix:
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


def _flat(reader: Reader, tensor: StoredTensor, plan: Plan, facts: Facts) -> SymbolSource:
    """A large tensor without rows worth the name; every piece is quantised by itself."""
    samples = [rows for _, rows in sampled_rows(reader, tensor, LEARNED_WEIGHTS)]
    center = _center(np.concatenate(samples), tensor, plan)
    fineness = _fitting(center, plan.fineness(facts.largest + abs(center)), tensor)
    grid = symmetric_grid(center, fineness.step_size, fineness.limit)
    blocks = [rows - center for rows in samples]
    costs, _ = learn([(block, scale_classes(block, fineness.step_size)) for block in blocks], fineness)

    def symbols(start: int, stop: int) -> Symbols:
        block = as_rows(reader.values(tensor, start, stop) - center)
        levels = levels_of(block, scale_classes(block, fineness.step_size), costs, fineness)
        return levels.reshape(-1)[: stop - start] + (grid.count - 1) // 2

    return SymbolSource(grid=grid, symbols=symbols)


def _on_grid(reader: Reader, tensor: StoredTensor, grid: BucketGrid) -> SymbolSource:
    """A tensor on a grid that is given."""

    def symbols(start: int, stop: int) -> Symbols:
        values = reader.values(tensor, start, stop)
        finite = bool(np.isfinite(values).all())
        require(finite, f"{tensor.name}: holds NaN or infinity, which no grid has; repair the weights first.")
        return grid.assign(values).astype(np.int32)

    return SymbolSource(grid=grid, symbols=symbols)


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
