"""What is in a file, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from metaq.grid import BucketGrid
from metaq.tensors import Dtype, Tensor

Metadata = Mapping[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor as the header describes it.

    Attributes
    ----------
    name, shape, dtype
        As in the model.
    coder
        Coder of the bucket indices; ``"raw"`` or ``"zstd"`` for a tensor kept exactly.
    grid
        Reference values, or None for a tensor kept exactly.
    coded_bytes
        Size of its payload.
    offset_bytes
        Where the payload starts in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    coder: str
    grid: BucketGrid | None
    coded_bytes: int
    offset_bytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def memory_bytes(self) -> int:
        """Memory that restoring takes: the elements, and the bucket indices as int64 if there are any."""
        return self.count * (self.dtype.itemsize + (8 if self.grid is not None else 0))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A file without its tensors' elements.

    Attributes
    ----------
    version
        Major and minor version of the format.
    entries
        Tensors in order of their names.
    metadata
        Free facts by key.
    file_bytes, header_bytes
        Size of the file, and of all in it that is not payload.
    """

    version: tuple[int, int]
    entries: tuple[Entry, ...]
    metadata: Metadata
    file_bytes: int
    header_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class File(Contents):
    """A file with its tensors, one an entry, in the same order."""

    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """How one tensor was written.

    Attributes
    ----------
    name
        Its name.
    coder
        See :class:`Entry`.
    coded_bytes
        Size of its payload.
    table_bytes
        Bytes of the payload that describe the coder's model.
    ideal_bits
        Zero-order entropy of the bucket indices in bits, or None for a tensor kept exactly.
    """

    name: str
    coder: str
    coded_bytes: int
    table_bytes: int
    ideal_bits: float | None


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """Where the bytes of a file went.

    Attributes
    ----------
    file_bytes
        Size of the file.
    header_bytes
        All that is not payload: magic, version, header and checksum.
    tensors
        In the order of the file.
    """

    file_bytes: int
    header_bytes: int
    tensors: tuple[TensorReport, ...]
