"""From decoded pieces to tensors, in place: no more than a block of temporary values at a time."""

from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from metaq.container import layout
from metaq.container.contents import Entry
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import combined, combined_unit, stored, trellis_row_length
from metaq.tensors.trellis import continued_numerators

BLOCK = 1 << 16
"""Elements that are restored at once."""

COMBINED_BLOCK = 1 << 18
"""Elements of the rows that are combined at once, or one row: every time the whole basis is passed over."""


class Restoration:
    """A tensor that is restored piece by piece.

    `values` are the elements, as ``dtype.storage``, in the shape of the tensor; complete once all pieces were added.
    """

    def __init__(self, entry: Entry) -> None:
        # The only piece of a tensor kept exactly comes as it is.
        self.values: NDArray[np.generic] = np.zeros(
            entry.shape if entry.grid is not None else (0,), dtype=entry.dtype.storage
        )
        self._entry = entry
        self._row_length = trellis_row_length(entry.shape, entry.scan)
        self._position = 0
        self._state = 0

    def add(self, piece: NDArray[np.generic]) -> None:
        """Take the next symbols in the order of the scan, int of shape (n,), or elements of a tensor kept exactly."""
        if self._entry.grid is None:
            self._keep(piece)
            return
        symbols = cast(NDArray[np.integer], piece)
        for start in range(0, symbols.size, BLOCK):
            block = symbols[start : start + BLOCK]
            numerators, self._state = continued_numerators(
                block,
                self.grid.count,
                self._entry.trellis_bits,
                row_length=self._row_length,
                start=self._position,
                state=self._state,
            )
            self._take(numerators.astype(np.float64))
            self._position += block.size

    @property
    def grid(self) -> BucketGrid:
        """Grid of a tensor that is not exact."""
        assert self._entry.grid is not None
        return self._entry.grid

    def _keep(self, elements: NDArray[np.generic]) -> None:
        if elements.size == self._entry.count:
            self.values = elements.reshape(self._entry.shape)
            return
        if self._position == 0:
            self.values = np.zeros(self._entry.shape, dtype=self._entry.dtype.storage)
        place(self.values, False, self._position, elements)
        self._position += elements.size

    def _take(self, numerators: NDArray[np.float64]) -> None:
        # The formula of QuantizedTensor.values, in the same order, so that both give the same bits.
        grid = self.grid
        values: NDArray[np.float64] = grid.center + grid.radius * numerators / grid.count
        is_by_columns = self._entry.scan == "columns"
        if self._entry.scales is not None:
            stop = self._position + values.size
            values *= self._entry.scales.of(self._entry.shape, self._position, stop, by_columns=is_by_columns)
        place(self.values, is_by_columns, self._position, stored(values, self._entry.dtype))


class BasisRestoration(Restoration):
    """A basis, of which not the values are restored but the integers that combinations are made of."""

    @property
    def numerators(self) -> NDArray[np.float64]:
        """The rows in units of radius / count of the grid, integers as float64 of shape (size, size)."""
        return cast(NDArray[np.float64], self.values)

    @cached_property
    def column_sum(self) -> float:
        """Its :func:`metaq.container.layout.largest_column_sum`, once all pieces were added."""
        return layout.largest_column_sum(len(self.numerators), self.numerators.__getitem__)

    def _take(self, numerators: NDArray[np.float64]) -> None:
        place(self.values, False, self._position, numerators)


class CombinedRestoration(Restoration):
    """A tensor whose rows are combinations of those of `basis`; pieces may end within a row."""

    def __init__(self, entry: Entry, basis: BasisRestoration) -> None:
        super().__init__(entry)
        rows, columns = entry.shape
        self._basis = basis
        self._coefficients = np.zeros((min(max(COMBINED_BLOCK // columns, 1), rows), columns))
        self._filled = 0
        self._rows_done = 0

    def _take(self, numerators: NDArray[np.float64]) -> None:
        waiting, columns = self._coefficients.reshape(-1), self._coefficients.shape[1]
        while numerators.size:
            taken = numerators[: waiting.size - self._filled]
            waiting[self._filled : self._filled + taken.size] = taken
            self._filled += taken.size
            numerators = numerators[taken.size :]
            if self._filled == waiting.size or self._rows_done * columns + self._filled == self.values.size:
                self._combine()

    def _combine(self) -> None:
        rows = self._filled // self._coefficients.shape[1]
        unit = combined_unit(self.grid, self._basis.grid)
        values = combined(self._coefficients[:rows], self._basis.numerators, unit)
        start, self._rows_done = self._rows_done, self._rows_done + rows
        if self._entry.scales is not None:
            values *= self._entry.scales.of_rows(start, self._rows_done)
        self.values[start : self._rows_done] = stored(values, self._entry.dtype)
        self._filled = 0


def place(target: NDArray[np.generic], is_by_columns: bool, start: int, values: NDArray[np.generic]) -> None:
    """Write `values` of shape (n,) into the C-contiguous `target` from number `start` of its scan on."""
    if not is_by_columns or target.ndim < 2:
        target.reshape(-1)[start : start + values.size] = values
        return
    rows = target.shape[0]
    columns = target.reshape(rows, -1).T
    column, row = divmod(start, rows)
    if row:
        head = min(rows - row, values.size)
        columns[column, row : row + head] = values[:head]
        values, column = values[head:], column + 1
    whole = values.size // rows
    columns[column : column + whole] = values[: whole * rows].reshape(whole, rows)
    rest = values[whole * rows :]
    if rest.size:
        columns[column + whole, : rest.size] = rest
