"""Constants of the format, and the rules that the writer keeps and the reader checks."""

from __future__ import annotations

from math import prod

import numpy as np

from metaq.grid import BucketGrid
from metaq.tensors import Dtype

MAGIC = b"\x8fMTQ"
"""First bytes of every file; the first one is neither ASCII nor the start of UTF-8."""

MAJOR_VERSION = 1
MINOR_VERSION = 0

PREAMBLE_BYTES = len(MAGIC) + 3
CHECKSUM_BYTES = 4
MIN_FILE_BYTES = PREAMBLE_BYTES + 1 + CHECKSUM_BYTES

FLAG_DEFLATED_HEADER = 1
PLAIN_HEADER_BYTES = 512
"""Headers up to this size are never deflated, so that small files do not depend on the version of zlib."""

ENDINGS = (b"", b".weight", b".bias", b".running_mean", b".running_var", b".num_batches_tracked")
"""Last parts of names that are written as a number."""

ENDING_BITS = 3
DTYPE_BITS = 5
MANY_DIMENSIONS = 7
"""Written in place of this many dimensions or more; their number follows."""

EXACT, NEW_GRID, SAME_GRID, EARLIER_GRID = 0, 1, 2, 3
"""How a tensor is stored: exactly, or as bucket indices on a grid that follows, the last one, or one by number."""

STORAGE_BITS = 2

EXACT_RAW = 0
EXACT_ZSTD = 1
EXACT_NAMES = ("raw", "zstd")

FLOAT_CODES = 11
FLOAT64_BYTES = 8
FLOAT16_CODE = 9
FLOAT32_CODE = 10
SAME_COUNT = 128

METADATA_STRING, METADATA_INTEGER, METADATA_FLOAT = 0, 1, 2

MAX_DIMENSIONS = 32
MAX_ELEMENTS = 1 << 33
"""Elements of all tensors of a file together."""

MAX_HEADER_BYTES = 1 << 28
DEFLATE_RATIO = 1032
"""DEFLATE never expands a byte to more than this many."""

LARGEST = {
    Dtype.float16: 65504.0,
    Dtype.bfloat16: float.fromhex("0x1.fep127"),
    Dtype.float32: float.fromhex("0x1.fffffep127"),
    Dtype.float64: float.fromhex("0x1.fffffffffffffp1023"),
}
"""Largest finite value by quantisable type."""


def row_length(shape: tuple[int, ...]) -> int:
    """Elements that belong to one index of the first dimension; 0 where there is only one dimension, or none."""
    return prod(shape[1:]) if len(shape) > 1 else 0


def grid_fits(grid: BucketGrid, dtype: Dtype) -> bool:
    """Whether every reference value is finite in `dtype`."""
    ends = np.abs(grid.values_of(np.array([0, grid.count - 1])))
    return float(ends.max()) <= LARGEST[dtype]
