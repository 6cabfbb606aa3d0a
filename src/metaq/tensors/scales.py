"""Factors of the rows and columns of a tensor: quarter powers of two, so that a step suits weights of every size."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

QUARTERS = (1.0, 1.1875, 1.40625, 1.6875)
"""What stands for 2^0, 2^(1/4), 2^(1/2) and 2^(3/4): numbers of so few bits that products of two factors are exact."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scales:
    """Exponents k of the factors 2^(k/4), about, by which the values of a grid are multiplied.

    `rows` belong to the indices of the first dimension, `columns` to those of the second, int8 of shapes (shape[0],)
    and (shape[1],).
    """

    rows: NDArray[np.int8]
    columns: NDArray[np.int8]

    @property
    def raw(self) -> bytes:
        """The exponents as they stand in a file, a byte each: k + 128."""
        return (np.concatenate([self.rows, self.columns]).astype(np.int16) + 128).astype(np.uint8).tobytes()

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest factor of an element."""
        rows, columns = factors(self.rows), factors(self.columns)
        return float(rows.min() * columns.min()), float(rows.max() * columns.max())

    def suit(self, largest: float, limit: float) -> bool:
        """Whether values of at most the magnitude `largest` are far from `limit`, divided by factors and multiplied."""
        smallest_factor, largest_factor = self.range
        return 4 * largest * largest_factor / smallest_factor <= limit

    def of_rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """Factors of some rows of a matrix, float64 of shape (stop - start, columns)."""
        return np.outer(factors(self.rows[start:stop]), factors(self.columns))

    def of(self, shape: tuple[int, ...], start: int, stop: int, *, by_columns: bool = False) -> NDArray[np.float64]:
        """Factors of the elements `start` to `stop` of a tensor, in the order of its scan, float64 of shape (n,)."""
        numbers = np.arange(start, stop)
        rows, length = shape[0], prod(shape[1:])
        row, place = divmod(numbers, rows)[::-1] if by_columns else divmod(numbers, length)
        found: NDArray[np.float64] = factors(self.rows)[row] * factors(self.columns)[place // (length // shape[1])]
        return found


def factors(exponents: NDArray[np.int8]) -> NDArray[np.float64]:
    """Factors with these exponents, float64 of the same shape."""
    wide = exponents.astype(np.int64)
    found: NDArray[np.float64] = np.ldexp(np.array(QUARTERS)[wide & 3], wide >> 2)
    return found


def exponents_of(scales: NDArray[np.float64]) -> NDArray[np.int8]:
    """Exponents of the factors nearest to positive `scales`, int8 of the same shape."""
    exponents: NDArray[np.int8] = np.clip(np.rint(4 * np.log2(scales)), -127, 127).astype(np.int8)
    return exponents


def scales_of(raw: bytes, rows: int) -> Scales:
    """Invert :attr:`Scales.raw`, where there are so many rows."""
    exponents = (np.frombuffer(raw, dtype=np.uint8).astype(np.int16) - 128).astype(np.int8)
    return Scales(rows=exponents[:rows], columns=exponents[rows:])


def has_scales(shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape can have them."""
    return len(shape) > 1 and prod(shape) > 0
