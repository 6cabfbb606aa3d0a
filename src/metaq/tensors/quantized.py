"""Tensors on their way to a file and back: numpy arrays with the dtype and shape the user's model had."""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.narrow_floats import bfloat16_bits, bfloat16_values, float8_bits, float8_values
from metaq.tensors.scales import Scales
from metaq.tensors.trellis import continued_numerators

Scan = Literal["rows", "columns"]
EXACT_INTEGERS = 1 << 53


class Dtype(Enum):
    """Element types a tensor may have; the value is the number written into files and never changes."""

    float32 = 0
    float16 = 1
    bfloat16 = 2
    float64 = 3
    int8 = 4
    uint8 = 5
    int16 = 6
    int32 = 7
    int64 = 8
    bool = 9
    uint16 = 10
    uint32 = 11
    uint64 = 12
    complex64 = 13
    complex128 = 14
    float8_e4m3fn = 15
    float8_e5m2 = 16

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.storage.itemsize

    @property
    def is_quantizable(self) -> builtins.bool:
        """Whether elements of this type can be restored from bucket indices."""
        return self in (Dtype.float32, Dtype.float16, Dtype.bfloat16, Dtype.float64) or self.is_float8

    @property
    def is_float8(self) -> builtins.bool:
        """Whether it is one of the two floating types of eight bits."""
        return self in (Dtype.float8_e4m3fn, Dtype.float8_e5m2)

    @property
    def kind(self) -> str:
        """What the elements are, in a word: ``"float"``, ``"integer"``, ``"boolean"``, ``"complex"``, or the float8
        type.
        """
        if self.is_float8:
            return self.name
        if self.is_quantizable:
            return "float"
        return {"b": "boolean", "c": "complex"}.get(self.storage.kind, "integer")

    @property
    def storage(self) -> np.dtype[np.generic]:
        """Little-endian numpy type that holds the bits: types numpy lacks are held as unsigned integers."""
        name = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}.get(self.name, self.name)
        return np.dtype(name).newbyteorder("<")


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """Rows that the rows of other tensors are combinations of.

    `indices` are int64 bucket indices in ``[0, grid.count)``, shape (size, size); the grid has centre 0 and an odd
    count.
    """

    indices: NDArray[np.int64]
    grid: BucketGrid

    @property
    def size(self) -> int:
        """Number of rows and of columns."""
        return len(self.indices)

    def numerators(self, rows: slice = slice(None)) -> NDArray[np.float64]:
        """All or some rows in units of radius / count: integers as float64, shape (n, size)."""
        return (2 * self.indices[rows] + (1 - self.grid.count)).astype(np.float64)

    def values(self) -> NDArray[np.float64]:
        """The basis, float64 of shape (size, size)."""
        return self.grid.values_of(self.indices)


def is_combination_exact(grid: BucketGrid, basis_grid: BucketGrid, size: int) -> bool:
    """Whether both grids are symmetric about a bucket at 0, and no sum can leave the integers that float64 holds."""
    symmetric = all(each.center == 0 and each.count % 2 == 1 for each in (grid, basis_grid))
    return symmetric and grid.count * basis_grid.count * size < EXACT_INTEGERS


def combined_unit(grid: BucketGrid, basis_grid: BucketGrid) -> float:
    """What the products of numerators on the two grids are multiples of; infinite if float64 cannot hold it."""
    return grid.radius * basis_grid.radius / (grid.count * basis_grid.count)


def combined(
    numerators: NDArray[np.float64], basis_numerators: NDArray[np.float64], unit: float
) -> NDArray[np.float64]:
    """Combinations of the rows of a basis, float64 of shape (n, size).

    Sums of products of integers below 2**53 are exact in float64, in whatever order they are taken, so that every
    machine finds the same values.

    Both numerators are integers, of shape (n, size) and (size, size); for `unit` see :func:`combined_unit`.
    """
    sums = numerators @ basis_numerators
    # Whether a sum of zeros is -0 depends on the order after all; this makes it 0.
    sums += 0.0
    return sums * unit


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedTensor:
    """Bucket indices with the grid that gives them values.

    `indices` are integers in ``[0, grid.count)``, in the shape of the tensor; `dtype` is the element type that
    :meth:`restore` returns. `scan` is the order in which the indices are coded and the trellis walks: that of memory,
    or column by column of the matrix (first dimension, all others). `trellis_bits` is 0, or the binary logarithm of the
    number of states of the trellis that moves the reference values (:mod:`metaq.tensors.trellis`). If a `basis` is
    given, the reference values are coefficients of its rows; for matrices with as many columns, scanned by rows. If
    `scales` are given, the values, as grid, trellis and basis give them, are multiplied by them.
    """

    name: str
    indices: NDArray[np.integer]
    grid: BucketGrid
    dtype: Dtype
    scan: Scan = "rows"
    trellis_bits: int = 0
    basis: Basis | None = None
    scales: Scales | None = None

    def __post_init__(self) -> None:
        if not self.dtype.is_quantizable:
            raise ConfigError(f"{self.name}: tensors of {self.dtype.name} are stored exactly, not quantised.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.indices.shape

    def scanned(self) -> NDArray[np.integer]:
        """Bucket indices in the order of the scan, shape (n,)."""
        matrix = self.indices.reshape(matrix_shape(self.shape))
        return (matrix if self.scan == "rows" else matrix.T).reshape(-1)

    def values(self) -> NDArray[np.float64]:
        """Quantised weights in float64, shape of the tensor."""
        if self.basis is not None:
            coefficients = self.numerators().reshape(-1, self.basis.size).astype(np.float64)
            unit = combined_unit(self.grid, self.basis.grid)
            values = combined(coefficients, self.basis.numerators(), unit)
            return values if self.scales is None else values * self.scales.of_rows(0, len(values))
        if not self.trellis_bits and self.scales is None:
            return self.grid.values_of(self.indices)
        values = self.grid.center + self.grid.radius * self.numerators().astype(np.float64) / self.grid.count
        if self.scales is not None:
            values *= self.scales.of(self.shape, 0, values.size, by_columns=self.scan == "columns")
        if self.scan == "rows":
            return values.reshape(self.shape)
        return np.ascontiguousarray(values.reshape(matrix_shape(self.shape)[::-1]).T).reshape(self.shape)

    def numerators(self) -> NDArray[np.int64]:
        """What `values` has in units of radius / count, less the centre: int64 of shape (n,) in the order of the scan.

        With a basis, the coefficients of its rows in that unit.
        """
        row_length = trellis_row_length(self.shape, self.scan)
        scanned = self.scanned().astype(np.int64, copy=False)
        return continued_numerators(
            scanned, self.grid.count, self.trellis_bits, row_length=row_length, start=0, state=0
        )[0]

    def restore(self) -> NDArray[np.generic]:
        """Quantised weights, as ``dtype.storage`` (types that numpy lacks as bit patterns)."""
        return stored(self.values(), self.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactTensor:
    """A tensor kept bit for bit: elements as ``dtype.storage`` for the element type in the user's model."""

    name: str
    values: NDArray[np.generic]
    dtype: Dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.values.shape

    def restore(self) -> NDArray[np.generic]:
        """The elements, as ``dtype.storage``."""
        return self.values

    def bits(self) -> NDArray[np.uint8]:
        """The bytes of every element, shape (n, itemsize)."""
        return np.ascontiguousarray(self.values).reshape(-1).view(np.uint8).reshape(-1, self.dtype.itemsize)


@dataclass(frozen=True, kw_only=True, eq=False)
class TiedTensor:
    """Another name for the elements of a tensor, the `first`: tied weights, which a file holds once."""

    name: str
    first: QuantizedTensor | ExactTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.first.shape

    @property
    def dtype(self) -> Dtype:
        """Element type in the user's model."""
        return self.first.dtype

    def restore(self) -> NDArray[np.generic]:
        """The elements, as ``dtype.storage``."""
        return self.first.restore()


Tensor = QuantizedTensor | ExactTensor | TiedTensor


def under_all_names(held: Mapping[str, QuantizedTensor | ExactTensor], holders: Mapping[str, str]) -> list[Tensor]:
    """The tensors that are `held`, and those tied to them; `holders` has for every name that of the tensor held."""
    return [
        held[name] if name == holder else TiedTensor(name=name, first=held[holder]) for name, holder in holders.items()
    ]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix (first dimension, all others); a vector is one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, prod(shape) // max(rows, 1)


def trellis_row_length(shape: tuple[int, ...], scan: Scan) -> int:
    """Symbols after which a trellis starts anew, at least 1: those of a row of the matrix that is scanned."""
    rows, columns = matrix_shape(shape)
    return max(columns if scan == "rows" else rows, 1)


def stored(values: NDArray[np.float64], dtype: Dtype) -> NDArray[np.generic]:
    """`values`, finite in the type, rounded to it, ties to even, as ``dtype.storage``; bfloat16 by way of float32."""
    if dtype is Dtype.bfloat16:
        return bfloat16_bits(values.astype(np.float32))
    if dtype.is_float8:
        return float8_bits(values, dtype.name)
    return values.astype(dtype.storage)


def values_of(elements: NDArray[np.generic], dtype: Dtype) -> NDArray[np.float64]:
    """Values in float64 of the `elements` of a type that can be quantised, given as ``dtype.storage``."""
    # NaN that would signal stays NaN without a word.
    with np.errstate(invalid="ignore"):
        if dtype is Dtype.bfloat16:
            return bfloat16_values(elements.view("<u2")).astype(np.float64)
        if dtype.is_float8:
            return float8_values(elements.view("u1"), dtype.name)
        return elements.astype(np.float64)
