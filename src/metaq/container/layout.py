"""Constants of the format, and the rules that the writer keeps and the reader checks."""

from collections.abc import Callable
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor, Scan, combined_unit
from metaq.tensors.scales import Scales
from metaq.tensors.trellis import PARITY_CHECKS

Relation = Literal["alone", "given", "added"]
"""Whether a tensor of an update stands alone, is told by what the base leads to expect, or is added to the base."""

MAGIC = b"\x8fMTQ"
"""First bytes of every file; the first one is neither ASCII nor the start of UTF-8."""

UPDATE_MAGIC = b"\x8fMTD"
"""First bytes of an update, a file that tells a model by another one; no single wrong bit makes it of the other."""

VERSION = 1

IDENTITY_BYTES, RESULT_BYTES = 8, 4
"""Of the base of an update, and of what it gives."""

PREAMBLE_BYTES = len(MAGIC) + 1
"""Of a file that is no update."""

CHECKSUM_BYTES = 4
MIN_FILE_BYTES = PREAMBLE_BYTES + 2 + CHECKSUM_BYTES
MAX_VARINT_BYTES = 9

ENDINGS = (b"", b".weight", b".bias", b".running_mean", b".running_var", b".num_batches_tracked")
"""Last parts of names that are written as a number."""

ENDING_BITS = 3
DTYPE_BITS = 5
MANY_DIMENSIONS = 7
"""Written in place of this many dimensions or more; their number follows."""

EXACT, NEW_GRID, SAME_GRID, EARLIER_GRID = 0, 1, 2, 3
"""How a tensor is stored: exactly, or as bucket indices on a new grid, the last one, or one by number."""

KIND_BITS = 2
COLUMNS_FLAG = 1 << 2
TRELLIS_SHIFT = 3
TRELLIS_CODES = (0, 8, 2, 3, 4, 5, 6, 7)
"""Binary logarithms of the number of states by the three bits that name them; a trellis of two states is none."""

TRELLISES = PARITY_CHECKS.keys() & set(TRELLIS_CODES)
OWN_CODER_FLAG = 1 << 6
MORE_FLAG = 1 << 7
"""A number follows: one less than ``SCALES_FLAG``, if there are scales, and twice the number of a basis and 1."""

SCALES_FLAG = 1
RELATIONS: tuple[Relation, ...] = ("alone", "given", "added")
"""How a tensor of an update is told by the base: the number is a part of the one that follows."""

EXACT_RAW, EXACT_ZSTD, EXACT_INLINE, EXACT_TIED, EXACT_PLANES, EXACT_DIFFERENCE = 0, 1, 2, 3, 4, 5
EXACT_NAMES = ("raw", "zstd", "inline", "tied", "planes")
PLANES = EXACT_NAMES[EXACT_PLANES]
INLINE_BYTES = 64
"""Exact tensors up to this size stand in the header: a chunk of their own would cost its size and a checksum."""

FLOAT64_BYTES = 8
FLOAT16_CODE, FLOAT32_CODE, DECIMAL_CODE = 9, 10, 11
"""How a float is written; codes 0 to 8 are so many bytes of the float64."""

STEP_CODES = {12: FLOAT16_CODE, 13: FLOAT32_CODE, 14: DECIMAL_CODE}
"""Codes in place of the radius that give the step size, and how it is written."""

MAX_DECIMAL_PLACES = 22
"""Powers of ten up to this one are float64 numbers, so that a division by them is rounded once."""

MAX_DECIMAL_DIGITS = 1 << 53

METADATA_STRING, METADATA_INTEGER, METADATA_FLOAT = 0, 1, 2

CHUNK_BITS_WIDTH = 5
DEFAULT_CHUNK_BITS = 20
MAX_CHUNK_BITS = 22
"""Binary logarithm of the most symbols of a chunk of several tensors, or of a piece of a tensor."""

MAX_DIMENSIONS = 32
MAX_ELEMENTS = 1 << 33
"""Elements of all tensors of a file together."""

MAX_HEADER_BYTES = 1 << 28
MAX_TENSORS = 1 << 18
MAX_BASIS_SIZE = 1 << 14
MAX_NAME_BYTES = 1 << 24
"""Of all names together: a few bytes of header can make long names again and again."""

BASIS_ROWS = 16
"""Rows of a basis that are looked at together, so that little memory is taken."""

LARGEST = {
    Dtype.float16: 65504.0,
    Dtype.bfloat16: float.fromhex("0x1.fep127"),
    Dtype.float32: float.fromhex("0x1.fffffep127"),
    Dtype.float64: float.fromhex("0x1.fffffffffffffp1023"),
    Dtype.float8_e4m3fn: 448.0,
    Dtype.float8_e5m2: 57344.0,
}
"""Largest finite value by quantisable type."""


def relations(*, is_update: bool) -> int:
    """How many relations to a base a quantised tensor may have."""
    return len(RELATIONS) if is_update else 1


def preamble_bytes(*, is_update: bool) -> int:
    """Bytes before the size of the coded header."""
    return PREAMBLE_BYTES + (IDENTITY_BYTES + RESULT_BYTES if is_update else 0)


def row_length(shape: tuple[int, ...], scan: Scan = "rows") -> int:
    """Symbols of a row in the order of the scan; 0 where there is only one dimension, or none.

    Rows belong to an index of the first dimension, columns to an index of all others.
    """
    if scan == "columns":
        return shape[0] if shape else 0
    return prod(shape[1:]) if len(shape) > 1 else 0


def exact_way(dtype: Dtype, shape: tuple[int, ...]) -> int:
    """How the writer keeps a tensor exactly, as far as that is known before its elements: one of the numbers above.

    Vectors of bytes are files rather than numbers. What they repeat may lie anywhere, so that they are packed whole:
    ``EXACT_RAW`` or ``EXACT_ZSTD``, and here the former.
    """
    if prod(shape) * dtype.itemsize <= INLINE_BYTES:
        return EXACT_INLINE
    return EXACT_RAW if dtype is Dtype.uint8 and len(shape) == 1 else EXACT_PLANES


def has_differences(dtype: Dtype) -> bool:
    """Whether an update may tell exact elements of this type by their difference from the base."""
    return dtype.kind not in ("boolean", "complex")


def grid_fits(grid: BucketGrid, dtype: Dtype, scales: Scales | None = None) -> bool:
    """Whether every reference value is finite in `dtype`, by the largest of the `scales` too."""
    ends = np.abs(grid.values_of(np.array([0, grid.count - 1])))
    return float(ends.max()) * largest_factor(scales) <= LARGEST[dtype]


def largest_factor(scales: Scales | None) -> float:
    """Largest factor by which values are multiplied."""
    return 1.0 if scales is None else scales.range[1]


def largest_column_sum(size: int, numerators: Callable[[slice], NDArray[np.float64]]) -> float:
    """Largest sum of absolute values of a column of a basis: how far coefficients up to 1 can take a combination.

    `numerators` gives a run of the `size` rows of the basis, integers as float64 of shape (n, size).
    """
    sums = np.zeros(size)
    for start in range(0, size, BASIS_ROWS):
        sums += np.abs(numerators(slice(start, start + BASIS_ROWS))).sum(axis=0)
    return float(sums.max())


def combinations_fit(
    grid: BucketGrid, basis_grid: BucketGrid, column_sum: float, dtype: Dtype, scales: Scales | None = None
) -> bool:
    """Whether every combination of the basis is finite in `dtype`, given its :func:`largest_column_sum`, by the largest
    of the `scales` too.
    """
    # Comparison with what is not a number fails, as it should.
    largest = (grid.count - 1) * column_sum * combined_unit(grid, basis_grid)
    return largest * largest_factor(scales) <= LARGEST[dtype]


def fits(tensor: QuantizedTensor, dtype: Dtype) -> bool:
    """Whether all that the grid of a tensor, its basis and its scales can give is finite in `dtype`."""
    if tensor.basis is None:
        return grid_fits(tensor.grid, dtype, tensor.scales)
    column_sum = largest_column_sum(tensor.basis.size, tensor.basis.numerators)
    return combinations_fit(tensor.grid, tensor.basis.grid, column_sum, dtype, tensor.scales)


def trellis_fits(grid: BucketGrid, trellis_bits: int) -> bool:
    """Whether there is such a trellis, and the grid has the central bucket that it needs."""
    return trellis_bits == 0 or (trellis_bits in TRELLISES and grid.count % 2 == 1)
