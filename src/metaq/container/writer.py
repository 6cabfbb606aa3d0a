"""Tensors to bytes. The same tensors give the same bytes, whatever order they come in."""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from math import prod
from typing import IO

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.container import chunking, layout
from metaq.container.coders import check_name, encode_chunk
from metaq.container.contents import Entry, Metadata, Piece, UpdateFacts, WriteReport, coverage_of_entries
from metaq.container.exact import encode_planes
from metaq.container.fields import Parts, StoredChunk, check_elements, check_tensors, packed_checksum, utf8
from metaq.container.header import basis_entry
from metaq.container.updates import Against, Beside, differences
from metaq.errors import ConfigError
from metaq.files import write_atomically, write_bytes
from metaq.tensors.quantized import Basis, Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor, is_combination_exact
from metaq.tensors.scales import has_scales

DEFAULT_CODER = "small"
CONSTANT = "constant"
"""Coder of large tensors of a single bucket index, which takes no time for them."""

THOROUGH_BYTES = 1 << 24
"""Up to this size a tensor is packed at the highest level, which beyond it takes minutes and a gigabyte of memory."""

BLOCK_BYTES = 1 << 20

SAMPLE = 1 << 18
"""Elements of a tensor that tell about what it takes."""

Read = Callable[[int, int], bytes]
"""From a first byte and the byte after the last to the bytes between them."""


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A tensor or a basis to be written: its entry, and symbols in the order of the scan, or elements in planes, or the
    bytes of a tensor kept exactly otherwise; none for a tied one. `against` is what it is told by in an update.
    """

    entry: Entry
    symbols: NDArray[np.generic] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    raw: bytes = b""
    against: Against | None = None


def write(
    path: str | os.PathLike[str],
    tensors: Sequence[Tensor],
    *,
    metadata: Metadata | None = None,
    coder: str = DEFAULT_CODER,
    coders: Mapping[str, str] | None = None,
    chunk_bits: int = layout.DEFAULT_CHUNK_BITS,
) -> WriteReport:
    """Write a ``.metaq`` file atomically: a reader sees the old file or the new one.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    tensors
        Tensors with different names, in any order. Of those that are tied together, the first in the order of the file
        holds the elements, whichever of them it is here.
    metadata
        Small free facts to keep in the file.
    coder
        Name of the coder of the bucket indices: ``"small"`` or ``"fast"``. Tensors of a single bucket index that fill
        chunks of their own are coded as ``"constant"``.
    coders
        Other coders for single tensors, by name of the tensor.
    chunk_bits
        Binary logarithm of the most symbols that are decoded at once, 0 to 22: coders of chunks take small tensors
        together up to this many symbols, and larger ones in pieces. A trellis whose rows are longer than that loses
        some of what the coder gains by it, as coders cannot follow it from piece to piece.

    Returns
    -------
    WriteReport
        Bytes of the file and where they went, and how much of the model is quantised.

    Raises
    ------
    ConfigError
        If a name, a tensor or the metadata cannot be held by the format, or there is no such coder.
    CodecError
        If the named coder cannot hold a tensor.
    OutputError
        If the file cannot be written.
    """
    data, report = _build(tensors, metadata or {}, coder, coders or {}, chunk_bits)
    write_bytes(path, data)
    return report


def encode(
    tensors: Sequence[Tensor],
    *,
    metadata: Metadata | None = None,
    coder: str = DEFAULT_CODER,
    coders: Mapping[str, str] | None = None,
    chunk_bits: int = layout.DEFAULT_CHUNK_BITS,
    update: UpdateFacts | None = None,
    against: Mapping[str, Against] | None = None,
) -> bytes:
    """Bytes of the file that :func:`write` would make; arguments and errors as there.

    With `update`, the file is one. Tensors whose names are in `against` are then told by those of the base.
    """
    return _build(tensors, metadata or {}, coder, coders or {}, chunk_bits, update, against)[0]


def _build(
    tensors: Sequence[Tensor],
    metadata: Metadata,
    coder: str,
    coders: Mapping[str, str],
    chunk_bits: int,
    update: UpdateFacts | None = None,
    against: Mapping[str, Against] | None = None,
) -> tuple[bytes, WriteReport]:
    if not 0 <= chunk_bits <= layout.MAX_CHUNK_BITS:
        raise ConfigError(f"chunk_bits: {chunk_bits} is not between 0 and {layout.MAX_CHUNK_BITS}.")
    for name in (coder, *coders.values()):
        check_name(name)
    ordered = sorted(tensors, key=lambda tensor: utf8(tensor.name))
    check_tensors(ordered)
    for name in set(coders) - {tensor.name for tensor in ordered}:
        raise ConfigError(f"coders: there is no tensor {name!r}; give names of tensors that are written.")
    held, ties = _untied(ordered)
    for name in set(coders) & ties.keys():
        raise ConfigError(f"coders: {name!r} is tied to {ordered[ties[name]].name!r}; give that one the coder.")
    for tensor in held:
        _check_scales(tensor)
    bases, numbers = _numbered_bases([tensor for tensor in held if tensor.name not in ties])
    check_elements([*(tensor.shape for tensor in ordered), *(basis.indices.shape for basis in bases)])
    items = [
        _item(
            tensor,
            coders.get(tensor.name) or _usual_coder(tensor, coder, chunk_bits, is_told=tensor.name in (against or {})),
            basis=numbers.get(tensor.name),
            first=ties.get(tensor.name),
            against=(against or {}).get(tensor.name),
        )
        for tensor in held
    ]
    basis_items = [
        _Item(
            entry=basis_entry(number, basis.size, basis.grid, coder),
            symbols=np.ascontiguousarray(basis.indices, dtype=np.int64).reshape(-1),
        )
        for number, basis in enumerate(bases)
    ]
    inline = layout.EXACT_NAMES[layout.EXACT_INLINE]
    parts = Parts(
        bases=tuple(item.entry for item in basis_items),
        entries=tuple(item.entry for item in items),
        inline=tuple(item.raw for item in items if item.entry.coder == inline),
        metadata=metadata,
        coder=coder,
        chunk_bits=chunk_bits,
        update=update,
    )
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        payloads = list(pool.map(lambda plan: _payload([*basis_items, *items], coder, *plan), parts.plans()))
    head = parts.head([StoredChunk(size_bytes=len(each), checksum=zlib.crc32(each)) for each in payloads])
    body = b"".join([head, *payloads])
    report = WriteReport(
        file_bytes=len(body) + layout.CHECKSUM_BYTES,
        header_bytes=len(head) + layout.CHECKSUM_BYTES,
        coverage=coverage_of_entries(parts.entries),
    )
    return body + packed_checksum(zlib.crc32(body)), report


def _usual_coder(tensor: QuantizedTensor | ExactTensor, coder: str, chunk_bits: int, *, is_told: bool) -> str:
    """Coder of a tensor for which none is given, and which is told by a base or not."""
    if isinstance(tensor, ExactTensor) or tensor.indices.size <= 1 << chunk_bits or is_told:
        return coder
    return CONSTANT if tensor.indices.min() == tensor.indices.max() else coder


def _untied(ordered: Sequence[Tensor]) -> tuple[list[QuantizedTensor | ExactTensor], dict[str, int]]:
    """The tensors as if none was tied, and by name the number of the first one with the same elements."""
    held = []
    ties = {}
    firsts: dict[int, int] = {}
    for number, tensor in enumerate(ordered):
        holder = tensor.first if isinstance(tensor, TiedTensor) else tensor
        first = firsts.setdefault(id(holder), number)
        if first != number:
            ties[tensor.name] = first
        held.append(replace(holder, name=tensor.name))
    return held, ties


def _numbered_bases(ordered: Sequence[QuantizedTensor | ExactTensor]) -> tuple[list[Basis], dict[str, int]]:
    """The different bases in the order in which tensors first need them, and their numbers by name of the tensor."""
    bases: list[Basis] = []
    sums: list[float] = []
    by_content: dict[bytes, int] = {}
    by_identity: dict[int, int] = {}
    numbers = {}
    for tensor in ordered:
        if isinstance(tensor, ExactTensor) or tensor.basis is None:
            continue
        basis = tensor.basis
        if id(basis) not in by_identity:
            _check_basis(tensor.name, basis)
            number = by_content.setdefault(basis_key(basis), len(bases))
            by_identity[id(basis)] = number
            if number == len(bases):
                bases.append(basis)
                sums.append(layout.largest_column_sum(basis.size, basis.numerators))
        numbers[tensor.name] = by_identity[id(basis)]
        _check_combinations(tensor, basis, sums[numbers[tensor.name]])
    return bases, numbers


def basis_key(basis: Basis) -> bytes:
    """Bytes that two bases have in common only if they are the same bit for bit."""
    grid = struct.pack(">ddI", basis.grid.center, basis.grid.radius, basis.grid.count)
    return sha256(grid + np.ascontiguousarray(basis.indices, dtype=np.int64).tobytes()).digest()


def _check_basis(name: str, basis: Basis) -> None:
    shape = basis.indices.shape
    if len(shape) != 2 or shape[0] != shape[1] or not 1 <= shape[0] <= layout.MAX_BASIS_SIZE:
        raise ConfigError(
            f"{name}: its basis has shape {shape}; a basis is a square matrix of at most {layout.MAX_BASIS_SIZE} rows."
        )


def _check_combinations(tensor: QuantizedTensor, basis: Basis, column_sum: float) -> None:
    if len(tensor.shape) != 2 or tensor.shape[1] != basis.size or tensor.scan != "rows":
        raise ConfigError(
            f"{tensor.name}: its basis of {basis.size} rows is for matrices of as many columns, scanned by rows."
        )
    if not is_combination_exact(tensor.grid, basis.grid, basis.size):
        raise ConfigError(
            f"{tensor.name}: combinations of its basis are not exact; its grid and that of the basis need centre 0, an "
            "odd number of buckets, and fewer of them."
        )
    if not layout.combinations_fit(tensor.grid, basis.grid, column_sum, tensor.dtype, tensor.scales):
        raise ConfigError(
            f"{tensor.name}: combinations of its basis reach beyond the largest {tensor.dtype.name}; use a wider type."
        )


def _item(
    tensor: QuantizedTensor | ExactTensor, coder: str, *, basis: int | None, first: int | None, against: Against | None
) -> _Item:
    """A tensor as it is written: tied to tensor `first`, with the `basis` of this number, or `against` the base."""
    entry = Entry(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, coder=coder, grid=None)
    if first is not None:
        return _Item(entry=replace(entry, coder=layout.EXACT_NAMES[layout.EXACT_TIED], tied_to=first))
    if isinstance(tensor, ExactTensor):
        if tensor.values.dtype.newbyteorder("<") != tensor.dtype.storage:
            raise ConfigError(
                f"{tensor.name}: {tensor.values.dtype} values cannot stand for {tensor.dtype.name}; "
                f"give them as {tensor.dtype.storage.name}."
            )
        elements = np.ascontiguousarray(tensor.values, dtype=tensor.dtype.storage).reshape(-1)
        if against is not None and elements.size and layout.has_differences(tensor.dtype):
            own = differences(elements, np.ascontiguousarray(against.elements).reshape(-1)).view(elements.dtype)
            return _Item(entry=replace(entry, coder=layout.PLANES, relation="added"), symbols=own)
        if layout.exact_way(tensor.dtype, tensor.shape) == layout.EXACT_PLANES:
            return _Item(entry=replace(entry, coder=layout.PLANES), symbols=elements)
        size = tensor.dtype.itemsize
        way, raw = whole_payload(elements.nbytes, lambda start, stop: elements[start // size : stop // size].tobytes())
        return _Item(entry=replace(entry, coder=way), raw=raw)
    if basis is None and not layout.grid_fits(tensor.grid, tensor.dtype, tensor.scales):
        raise ConfigError(f"{tensor.name}: its buckets reach beyond the largest {tensor.dtype.name}; use a wider type.")
    if not layout.trellis_fits(tensor.grid, tensor.trellis_bits):
        raise ConfigError(
            f"{tensor.name}: a trellis of 2**{tensor.trellis_bits} states on {tensor.grid.count} buckets is not "
            "possible; use 2 to 8 trellis bits and an odd number of buckets."
        )
    entry = replace(entry, grid=tensor.grid, scan=tensor.scan, trellis_bits=tensor.trellis_bits)
    entry = replace(entry, basis=basis, scales=tensor.scales)
    if against is not None and (against.is_sum or basis is None):
        entry = replace(entry, relation="added" if against.is_sum else "given")
    return _Item(entry=entry, symbols=np.ascontiguousarray(tensor.scanned()), against=against)


def _check_scales(tensor: QuantizedTensor | ExactTensor) -> None:
    scales = tensor.scales if isinstance(tensor, QuantizedTensor) else None
    if scales is None:
        return
    if not has_scales(tensor.shape) or (scales.rows.size, scales.columns.size) != tensor.shape[:2]:
        raise ConfigError(f"{tensor.name}: its scales are not one a row and one a column of shape {tensor.shape}.")


def _payload(parts: Sequence[_Item], file_coder: str, coder: str, pieces: Sequence[Piece]) -> bytes:
    held = [parts[piece.tensor] for piece in pieces]
    entries = [item.entry for item in held]
    if chunking.is_whole(entries[0]):
        return held[0].raw
    streams = [
        item.symbols[piece.start : piece.start + piece.shape.count] for item, piece in zip(held, pieces, strict=True)
    ]
    if coder == layout.PLANES:
        return encode_planes(streams, entries, pieces, file_coder)
    sides = [
        Beside(item.entry, piece.shape, piece.start, None if item.against is None else item.against.elements)
        for item, piece in zip(held, pieces, strict=True)
    ]
    symbols = [side.symbols(stream.astype(np.int64, copy=False)) for side, stream in zip(sides, streams, strict=True)]
    return encode_chunk(coder, symbols, [side.shape for side in sides], entries[0].name)


def whole_payload(size_bytes: int, read: Read) -> tuple[str, bytes]:
    """Name of the way in which a tensor kept exactly but not in planes is stored, see
    :attr:`metaq.container.Entry.coder`, and its bytes.

    `read` gives elements, little-endian in C order. Memory is that of the result and, up to ``THOROUGH_BYTES``, of the
    elements.
    """
    if size_bytes <= layout.INLINE_BYTES:
        return layout.EXACT_NAMES[layout.EXACT_INLINE], read(0, size_bytes)
    # Imported late, so that reading a file does not need zstandard.
    from metaq.coding import zstd

    if size_bytes <= THOROUGH_BYTES:
        packed = zstd.compress(read(0, size_bytes))
    else:
        starts = range(0, size_bytes, BLOCK_BYTES)
        blocks = (read(start, min(start + BLOCK_BYTES, size_bytes)) for start in starts)
        packed = zstd.compress_blocks(blocks, size_bytes)
    if len(packed) < size_bytes:
        return layout.EXACT_NAMES[layout.EXACT_ZSTD], packed
    del packed
    return layout.EXACT_NAMES[layout.EXACT_RAW], read(0, size_bytes)


def expected_exact_bytes(dtype: Dtype, shape: tuple[int, ...], read: Callable[[int, int], NDArray[np.generic]]) -> int:
    """About what a tensor takes that is kept exactly: some of it is coded. `read` gives elements, as
    ``dtype.storage``, from a first number to one after the last.
    """
    count = prod(shape)
    way = layout.exact_way(dtype, shape)
    if way == layout.EXACT_INLINE:
        return count * dtype.itemsize
    entry = Entry(name="", shape=shape, dtype=dtype, coder=layout.EXACT_NAMES[way], grid=None)
    row_length = layout.row_length(shape)
    some = min(max(SAMPLE // max(row_length, 1), 1) * max(row_length, 1), SAMPLE, count)
    start = (count - some) // 2 // max(row_length, 1) * max(row_length, 1)
    elements = read(start, start + some)
    if way == layout.EXACT_RAW:
        payload = whole_payload(elements.nbytes, lambda first, last: elements[first:last].tobytes())[1]
    else:
        told = StreamShape(count=some, alphabet_size=0, row_length=row_length if some >= row_length else 0)
        payload = encode_planes([elements], [entry], [Piece(tensor=0, start=start, shape=told)], "fast")
    return len(payload) * count // some


def assemble(path: str | os.PathLike[str], head: bytes, payloads: Iterable[bytes]) -> int:
    """Write a file from chunks that were coded before, atomically: the same bytes as :func:`write` makes.

    `head` is that of :meth:`Parts.head`, `payloads` are those of the chunks in the order of the file. Returns the size
    of the file in bytes; errors as for :func:`write_atomically`.
    """

    def write(stream: IO[bytes]) -> None:
        checksum = 0
        for part in chain([head], payloads):
            stream.write(part)
            checksum = zlib.crc32(part, checksum)
        stream.write(packed_checksum(checksum))

    return write_atomically(path, write)
