"""What is in a file, as plain records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from metaq.coding.chunks import StreamShape
from metaq.container import layout
from metaq.container.carried import is_carried
from metaq.tensors.coverage import Coverage, measured
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, Scan, Tensor
from metaq.tensors.scales import Scales

Metadata = Mapping[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor, or one basis, as the header describes it.

    A basis counts as a square float64 matrix by the name of "basis" and its number.

    Attributes
    ----------
    name, shape, dtype
        As in the model.
    coder
        Coder of the bucket indices; ``"planes"``, ``"raw"``, ``"zstd"`` or, in the header, ``"inline"`` for a tensor
        kept exactly; ``"tied"`` for one that has no elements of its own.
    grid
        Reference values, or None for a tensor kept exactly or tied.
    scan, trellis_bits
        See :class:`metaq.tensors.quantized.QuantizedTensor`.
    relation
        In an update, how the base tells about it.
    basis, scales
        Number of the basis whose rows are combined, or None; factors of rows and columns, or None.
    tied_to
        Number, in :attr:`Contents.entries`, of the earlier tensor whose elements these are; None unless it is tied.
    coded_bytes
        Size of the chunks that it has to itself; :mod:`metaq.container.accounts` shares out those of several tensors.
    offset_bytes
        Where its first chunk starts in the file; 0 if it has none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    coder: str
    grid: BucketGrid | None
    scan: Scan = "rows"
    trellis_bits: int = 0
    relation: layout.Relation = "alone"
    basis: int | None = None
    scales: Scales | None = None
    tied_to: int | None = None
    coded_bytes: int = 0
    offset_bytes: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def memory_bytes(self) -> int:
        """Memory that restoring takes: the elements, and the bucket indices as int64 if there are any."""
        return self.restored_bytes + (8 * self.count if self.grid is not None else 0)

    @property
    def restored_bytes(self) -> int:
        """Memory of the elements alone."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a chunk holds of one tensor: its number in :attr:`Contents.parts`, its first symbol here, counted in the
    order of the scan, and what the coder is told.
    """

    tensor: int
    start: int
    shape: StreamShape


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One payload: its coder, see :class:`Entry`, and the tensors and bases, or the piece of one, in it.

    `checksum` is the CRC-32 of the payload, or None if it is the only one of the file.
    """

    coder: str
    pieces: tuple[Piece, ...]
    size_bytes: int
    offset_bytes: int
    checksum: int | None


@dataclass(frozen=True, kw_only=True)
class UpdateFacts:
    """What a file tells of itself if it is an update.

    `base` is the identity of the model that it is to be applied to, `result` the last four bytes of that of the model
    that it gives; see :func:`metaq.container.updates.identity`. `removed` are numbers of tensors of the base, in the
    order of their names, that the model has no more, ascending.
    """

    base: bytes
    result: bytes
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A file without its tensors' elements.

    Attributes
    ----------
    version
        Version of the format.
    entries
        Tensors in order of their names.
    bases
        Matrices whose rows the rows of tensors are combined from, in the order in which tensors first need them.
    chunks
        Payloads in order.
    metadata
        Free facts by key.
    update
        Of an update, what it is an update of.
    file_bytes, header_bytes
        Size of the file, and of all in it that is not payload.
    """

    version: int
    entries: tuple[Entry, ...]
    bases: tuple[Entry, ...] = ()
    chunks: tuple[Chunk, ...]
    metadata: Metadata
    file_bytes: int
    header_bytes: int
    update: UpdateFacts | None = None

    @cached_property
    def parts(self) -> tuple[Entry, ...]:
        """All that chunks hold, in the order in which pieces number it: the bases, then the tensors."""
        return self.bases + self.entries

    def bases_of(self, names: Iterable[str]) -> tuple[int, ...]:
        """Numbers of the bases without which the tensors of these names cannot be restored, ascending."""
        chosen = set(names)
        holders = (self.holder_of(entry) for entry in self.entries if entry.name in chosen)
        return tuple(sorted({entry.basis for entry in holders if entry.basis is not None}))

    @property
    def coverage(self) -> Coverage:
        """How much is quantised; a file does not say why the rest is not."""
        return coverage_of_entries(entry for entry in self.entries if not is_carried(entry.name, self.metadata))

    @property
    def sizes(self) -> dict[str, float | int]:
        """Bytes of the file beside those of the tensors, tied ones once: ``bytes``, ``float_bytes``, ``ratio``, …"""
        holders = [each for each in self.entries if each.tied_to is None and not is_carried(each.name, self.metadata)]
        float_bytes, weights = sum(each.restored_bytes for each in holders), sum(each.count for each in holders)
        return sizes(self.file_bytes, float_bytes, weights)

    def holder_of(self, entry: Entry) -> Entry:
        """The tensor that holds the elements of `entry`: itself unless it is tied."""
        return entry if entry.tied_to is None else self.entries[entry.tied_to]


@dataclass(frozen=True, kw_only=True, eq=False)
class File(Contents):
    """A file with its tensors, one an entry, in the same order."""

    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """How large a file is, and what is in it.

    Attributes
    ----------
    file_bytes
        Size of the file.
    header_bytes
        All that is not payload: magic, version, header and checksums.
    coverage
        How much of the model is quantised, and what is not and why.
    """

    file_bytes: int
    header_bytes: int
    coverage: Coverage


def sizes(file_bytes: int, float_bytes: int, weights: int) -> dict[str, float | int]:
    """What is told of every file: its bytes beside those of the tensors, and its bits per element of theirs."""
    return {
        "bytes": file_bytes,
        "float_bytes": float_bytes,
        "ratio": float_bytes / file_bytes,
        "weights": weights,
        "bits_per_weight": 8 * file_bytes / max(weights, 1),
    }


def coverage_of_entries(entries: Iterable[Entry]) -> Coverage:
    """How much of the tensors is quantised."""
    return measured((entry, entry.grid is not None) for entry in entries if entry.tied_to is None)
