"""Tensors to bytes. The same tensors give the same bytes, whatever order they come in."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from metaq.coding import CODERS, encode_smallest, zero_order_entropy_bits
from metaq.coding.header_bytes import encode_header_bytes
from metaq.coding.varint import encode_varint
from metaq.container import chunking, layout
from metaq.container.coders import checked_name, encode_chunk, is_chunk_coder
from metaq.container.contents import Entry, Metadata, Piece, TensorReport, WriteReport, coverage_of_entries
from metaq.container.exact import exact_payload
from metaq.container.fields import header_fields, utf8, version_byte
from metaq.container.header import basis_entry, with_places
from metaq.errors import CodecError, ConfigError
from metaq.files import write_bytes
from metaq.tensors.coverage import Described
from metaq.tensors.quantized import Basis, ExactTensor, QuantizedTensor, Tensor, TiedTensor

Result = TypeVar("Result")

DEFAULT_CODER = "small"
AUTO = "auto"
AUTO_MAX_SYMBOLS = 1 << 16
"""Up to this many symbols a tensor is coded by every coder to find the smallest."""


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A tensor or a basis to be written: its entry, and symbols in the order of the scan, or the bytes of a tensor kept
    exactly; neither for a tied one.
    """

    entry: Entry
    symbols: NDArray[np.int64]
    raw: bytes = b""


@dataclass(frozen=True, kw_only=True)
class _Built:
    data: bytes
    report: WriteReport


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
        Name of a coder for the bucket indices, or ``"auto"`` to try all of them on small tensors and keep the smallest.
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
    built = _build(tensors, metadata or {}, coder, coders or {}, chunk_bits)
    write_bytes(path, built.data)
    return built.report


def encode(
    tensors: Sequence[Tensor],
    *,
    metadata: Metadata | None = None,
    coder: str = DEFAULT_CODER,
    coders: Mapping[str, str] | None = None,
    chunk_bits: int = layout.DEFAULT_CHUNK_BITS,
) -> bytes:
    """Bytes of the file that :func:`write` would make; arguments and errors as there."""
    return _build(tensors, metadata or {}, coder, coders or {}, chunk_bits).data


def _build(
    tensors: Sequence[Tensor], metadata: Metadata, coder: str, coders: Mapping[str, str], chunk_bits: int
) -> _Built:
    if not 0 <= chunk_bits <= layout.MAX_CHUNK_BITS:
        raise ConfigError(f"chunk_bits: {chunk_bits} is not between 0 and {layout.MAX_CHUNK_BITS}.")
    for name in {coder, *coders.values()} - {AUTO}:
        checked_name(name)
    ordered = sorted(tensors, key=lambda tensor: utf8(tensor.name))
    check_tensors(ordered)
    for name in set(coders) - {tensor.name for tensor in ordered}:
        raise ConfigError(f"coders: there is no tensor {name!r}; give names of tensors that are written.")
    held, ties = _untied(ordered)
    for name in set(coders) & ties.keys():
        raise ConfigError(f"coders: {name!r} is tied to {ordered[ties[name]].name!r}; give that one the coder.")
    bases, numbers = _numbered_bases([tensor for tensor in held if tensor.name not in ties])
    check_elements([*(tensor.shape for tensor in ordered), *(basis.indices.shape for basis in bases)])
    items = [
        _tied_item(tensor, ties[tensor.name])
        if tensor.name in ties
        else _item(tensor, coders.get(tensor.name, coder), numbers.get(tensor.name))
        for tensor in held
    ]
    if coder != AUTO:
        return _file(items, bases, metadata, coder, chunk_bits)
    return _smallest_file(items, bases, metadata, chunk_bits)


def _smallest_file(items: Sequence[_Item], bases: Sequence[Basis], metadata: Metadata, chunk_bits: int) -> _Built:
    """The smaller of two files: all tensors by the default coder; small ones by the best coder of single tensors."""
    usual = DEFAULT_CODER if is_chunk_coder(DEFAULT_CODER) else ""
    chosen = [_with_best_coder(item, usual) for item in items]
    names = [item.entry.coder for item in chosen if item.entry.grid is not None]
    most_common = max(sorted(set(names)), key=names.count, default=usual or next(iter(CODERS)))
    # Bases have the coder of the file, and what suits most tensors may not be able to hold them.
    file_coder = usual or most_common if bases else most_common
    candidates = [_file(chosen, bases, metadata, file_coder, chunk_bits)]
    if usual and set(names) != {usual}:
        together = [_with_coder(item, usual) for item in items]
        candidates.insert(0, _file(together, bases, metadata, usual, chunk_bits))
    return min(candidates, key=lambda built: len(built.data))


def _with_best_coder(item: _Item, usual: str) -> _Item:
    if item.entry.coder != AUTO or (usual and not 0 < item.symbols.size <= AUTO_MAX_SYMBOLS):
        return _with_coder(item, usual)
    shape = chunking.stream_shape(item.entry)
    best, _ = named_errors(
        item.entry.name,
        lambda: encode_smallest(item.symbols, shape.alphabet_size, row_length=shape.row_length),
    )
    return _with_coder(item, best.name)


def _with_coder(item: _Item, coder: str) -> _Item:
    """`item` with the coder if it is to be chosen, else as it is."""
    return replace(item, entry=replace(item.entry, coder=coder)) if item.entry.coder == AUTO else item


def check_tensors(ordered: Sequence[Described]) -> None:
    """Raise :class:`ConfigError` where tensors in the order of their names are too many, or have names or dimensions
    that a file cannot hold.
    """
    for tensor, following in pairwise(ordered):
        if tensor.name == following.name:
            raise ConfigError(f"{tensor.name}: two tensors have this name; give each its own.")
    for tensor in ordered:
        if len(tensor.shape) > layout.MAX_DIMENSIONS:
            raise ConfigError(f"{tensor.name}: {len(tensor.shape)} dimensions are more than {layout.MAX_DIMENSIONS}.")
    if len(ordered) > layout.MAX_TENSORS or sum(len(utf8(tensor.name)) for tensor in ordered) > layout.MAX_NAME_BYTES:
        raise ConfigError(
            f"tensors: more than {layout.MAX_TENSORS}, or {layout.MAX_NAME_BYTES} bytes of names; "
            "split the model into several files."
        )


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


def check_elements(shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise :class:`ConfigError` where tensors and bases of these shapes have too many elements for a file."""
    if sum(map(prod, shapes)) > layout.MAX_ELEMENTS:
        raise ConfigError(f"tensors: more than {layout.MAX_ELEMENTS} elements; split the model into several files.")


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
            number = by_content.setdefault(_basis_key(basis), len(bases))
            by_identity[id(basis)] = number
            if number == len(bases):
                bases.append(basis)
                sums.append(layout.largest_column_sum(basis.size, basis.numerators))
        numbers[tensor.name] = by_identity[id(basis)]
        _check_combinations(tensor, basis, sums[numbers[tensor.name]])
    return bases, numbers


def _basis_key(basis: Basis) -> bytes:
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
    if not basis.is_exact_for(tensor.grid):
        raise ConfigError(
            f"{tensor.name}: combinations of its basis are not exact; its grid and that of the basis need centre 0, an "
            "odd number of buckets, and fewer of them."
        )
    if not layout.combinations_fit(tensor.grid, basis.grid, column_sum, tensor.dtype):
        raise ConfigError(
            f"{tensor.name}: combinations of its basis reach beyond the largest {tensor.dtype.name}; use a wider type."
        )


def _item(tensor: QuantizedTensor | ExactTensor, coder: str, basis: int | None) -> _Item:
    return _exact_item(tensor) if isinstance(tensor, ExactTensor) else _quantized_item(tensor, coder, basis)


def _tied_item(tensor: QuantizedTensor | ExactTensor, first: int) -> _Item:
    coder = layout.EXACT_NAMES[layout.EXACT_TIED]
    entry = Entry(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, coder=coder, grid=None, tied_to=first)
    return _Item(entry=entry, symbols=np.zeros(0, dtype=np.int64))


def _basis_item(number: int, basis: Basis, coder: str) -> _Item:
    symbols = np.ascontiguousarray(basis.indices, dtype=np.int64).reshape(-1)
    return _Item(entry=basis_entry(number, basis.size, basis.grid, coder), symbols=symbols)


def _quantized_item(tensor: QuantizedTensor, coder: str, basis: int | None) -> _Item:
    if basis is None and not layout.grid_fits(tensor.grid, tensor.dtype):
        raise ConfigError(f"{tensor.name}: its buckets reach beyond the largest {tensor.dtype.name}; use a wider type.")
    if not layout.trellis_fits(tensor.grid, tensor.trellis_bits):
        raise ConfigError(
            f"{tensor.name}: a trellis of 2**{tensor.trellis_bits} states on {tensor.grid.count} buckets is not "
            "possible; use 2 to 8 trellis bits and an odd number of buckets."
        )
    entry = Entry(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        coder=coder,
        grid=tensor.grid,
        scan=tensor.scan,
        trellis_bits=tensor.trellis_bits,
        basis=basis,
    )
    return _Item(entry=entry, symbols=np.ascontiguousarray(tensor.scanned()).reshape(-1))


def _exact_item(tensor: ExactTensor) -> _Item:
    if tensor.values.dtype.newbyteorder("<") != tensor.dtype.storage:
        raise ConfigError(
            f"{tensor.name}: {tensor.values.dtype} values cannot stand for {tensor.dtype.name}; "
            f"give them as {tensor.dtype.storage.name}."
        )
    elements = tensor.values.astype(tensor.dtype.storage).tobytes()
    coder, raw = exact_payload(len(elements), lambda start, stop: elements[start:stop])
    entry = Entry(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, coder=coder, grid=None)
    return _Item(entry=entry, symbols=np.zeros(0, dtype=np.int64), raw=raw)


def _file(items: Sequence[_Item], bases: Sequence[Basis], metadata: Metadata, coder: str, chunk_bits: int) -> _Built:
    parts = [*(_basis_item(number, basis, coder) for number, basis in enumerate(bases)), *items]
    entries = [part.entry for part in parts]
    plans = chunking.plan_chunks(entries, chunk_bits)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        coded = list(pool.map(lambda plan: _payload(parts, *plan), plans))
    payloads = [payload for payload, _ in coded]
    sizes = [len(payload) for payload in payloads]
    inline = [item.raw for item in items if item.entry.coder == layout.EXACT_NAMES[layout.EXACT_INLINE]]
    hidden, visible = entries[: len(bases)], entries[len(bases) :]
    sums = [zlib.crc32(payload) for payload in payloads]
    head = head_bytes(visible, inline, sizes, sums, metadata, coder=coder, chunk_bits=chunk_bits, bases=hidden)
    body = b"".join([head, *payloads])
    tables = {plan[1][0].tensor: table_bytes for plan, (_, table_bytes) in zip(plans, coded, strict=True)}
    placed = with_places(entries, plans, sizes, len(head))
    reports = tuple(_report(entry, parts[n].symbols, tables.get(n, 0)) for n, entry in enumerate(placed))
    report = WriteReport(
        file_bytes=len(body) + layout.CHECKSUM_BYTES,
        header_bytes=len(head) + layout.CHECKSUM_BYTES,
        tensors=reports[len(bases) :],
        coverage=coverage_of_entries(visible),
        bases=reports[: len(bases)],
    )
    return _Built(data=body + packed_checksum(zlib.crc32(body)), report=report)


def head_bytes(
    entries: Sequence[Entry],
    inline: Sequence[bytes],
    chunk_sizes: Sequence[int],
    chunk_checksums: Sequence[int],
    metadata: Metadata,
    *,
    coder: str,
    chunk_bits: int,
    bases: Sequence[Entry],
) -> bytes:
    """All of a file before its chunks; for the other arguments see :func:`metaq.container.fields.header_fields`.

    Parameters
    ----------
    chunk_checksums
        CRC-32 of the chunks, in the order of the plan.

    Raises
    ------
    ConfigError
        If names and metadata are too long, or the format cannot hold the metadata.
    """
    fields = header_fields(entries, inline, chunk_sizes, metadata, coder=coder, chunk_bits=chunk_bits, bases=bases)
    if len(fields) > layout.MAX_HEADER_BYTES:
        raise ConfigError(f"metadata and names take more than {layout.MAX_HEADER_BYTES} bytes; shorten them.")
    stored = encode_varint(len(fields)) + encode_header_bytes(fields)
    head = layout.MAGIC + version_byte(entries) + encode_varint(len(stored)) + stored
    if len(chunk_sizes) > 1:
        head += b"".join(map(packed_checksum, chunk_checksums))
        head += packed_checksum(zlib.crc32(head))
    return head


def packed_checksum(value: int) -> bytes:
    """A CRC-32 as it stands in a file."""
    return struct.pack("<I", value)


def _report(entry: Entry, symbols: NDArray[np.int64], table_bytes: int) -> TensorReport:
    return TensorReport(
        name=entry.name,
        coder=entry.coder,
        coded_bytes=entry.coded_bytes,
        table_bytes=table_bytes,
        ideal_bits=None if entry.grid is None else zero_order_entropy_bits(symbols),
    )


def _payload(parts: Sequence[_Item], coder: str, pieces: Sequence[Piece]) -> tuple[bytes, int]:
    """Payload of a chunk, and the bytes of it that describe a coder's model."""
    first = parts[pieces[0].tensor]
    if first.entry.grid is None:
        return first.raw, 0
    streams = [parts[piece.tensor].symbols[piece.start : piece.start + piece.shape.count] for piece in pieces]
    return named_errors(first.entry.name, lambda: encode_chunk(coder, streams, [piece.shape for piece in pieces]))


def named_errors(name: str, code: Callable[[], Result]) -> Result:
    """What `code` gives; an error of the coder names the tensor."""
    try:
        return code()
    except CodecError as error:
        raise CodecError(f"{name}: {error}") from error
