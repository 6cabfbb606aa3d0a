"""Bytes to tensors. Files may come from anyone: everything is checked before memory is asked for."""

import dataclasses
import difflib
import io
import os
import zlib
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from metaq.container import layout
from metaq.container.chunking import symbols_per_element
from metaq.container.contents import Chunk, Contents, Entry, File
from metaq.container.exact import as_elements, decode_planes, whole
from metaq.container.frame import open_checked_frame, open_frame
from metaq.container.restoring import BasisRestoration, CombinedRestoration, Restoration, place
from metaq.container.source import FileLike, Source, open_source
from metaq.container.updates import Elements, added, beside, decode_symbols, require_base
from metaq.errors import CodecError, ConfigError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, ExactTensor, QuantizedTensor, Tensor, TiedTensor

DEFAULT_MAX_BYTES = 16 << 30
"""Memory that restoring a file may take unless the caller says otherwise."""

IN_FLIGHT_BYTES = 48 << 20
"""Memory for chunks that are decoded ahead; one is decoded whatever it takes."""

SYMBOL_BYTES = 16
"""Memory that decoding a symbol takes, with what the coders need themselves."""

Streams = list[NDArray[np.generic]]
"""What a chunk holds: symbols of its pieces, or the elements of an exact tensor."""


def read(path: FileLike, *, base: Elements | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> File:
    """Read a ``.metaq`` file.

    Parameters
    ----------
    path
        The file: its path, its bytes, or an open binary file that can seek, which is left open.
    base
        Of an update, the tensors of the model that it is to be applied to; the file then has those that differ from
        them. Whether they are the right ones is not looked at.
    max_bytes
        Memory that its tensors may take; a small file can honestly hold very large constant tensors.

    Raises
    ------
    ConfigError
        If `path` is none of these.
    FormatError
        If the file is missing, foreign, damaged, of a newer version, takes more than `max_bytes`, or is an update
        without a base.
    """
    with open_source(path) as source:
        return _read_all(source, max_bytes, base)


def decode(
    data: bytes, *, base: Elements | None = None, max_bytes: int = DEFAULT_MAX_BYTES, source: str = "data"
) -> File:
    """Invert :func:`metaq.container.encode`.

    Parameters
    ----------
    data
        Bytes of a file.
    base, max_bytes
        See :func:`read`.
    source
        What to call the data in messages.

    Raises
    ------
    FormatError
        As for :func:`read`.
    """
    return _read_all(Source(io.BytesIO(data), source), max_bytes, base)


def describe(path: FileLike) -> Contents:
    """What a ``.metaq`` file holds, without decoding any tensor; errors as for :func:`read`.

    Of a file of several chunks only the header is read and checked, of any other all bytes are checked.
    """
    with open_source(path) as source:
        return open_frame(source)[0]


def stream(
    path: FileLike,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    names: Iterable[str] | None = None,
    is_writable: bool = True,
) -> Iterator[tuple[Entry, Tensor]]:
    """Tensors of a ``.metaq`` file one by one, restored, in order of their names but for tied ones.

    Quantised tensors come as the values they stand for, in an :class:`ExactTensor`: pieces of large tensors are
    decoded and restored into place one after the other, so that memory is that of one tensor as restored and 64 MiB,
    beside what the caller keeps, and 8 bytes an element of the bases that are needed. A tied tensor follows the one
    whose elements it shares and is the same array, so that none is kept or decoded twice. Only the chunks of these
    tensors and bases are read and checked, where there are several.

    Parameters
    ----------
    path
        As for :func:`read`; it is opened when the first tensor is asked for, and errors come no sooner.
    max_bytes
        Memory that a single tensor may take, with all bases that are needed.
    names
        The tensors to restore; all by default.
    is_writable
        Whether the caller may write to all arrays. If not, tensors kept exactly are not held twice for a moment.

    Raises
    ------
    ConfigError
        If the file has no tensor of one of the `names`.
    FormatError
        As for :func:`read`.
    """
    with open_source(path) as source:
        contents, inline = open_frame(source)
        yield from streamed(source, contents, inline, max_bytes=max_bytes, names=names, is_writable=is_writable)


def streamed(
    source: Source,
    contents: Contents,
    inline: Mapping[int, bytes],
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    names: Iterable[str] | None = None,
    is_writable: bool = True,
) -> Iterator[tuple[Entry, Tensor]]:
    """As :func:`stream`, of an open file and what :func:`open_frame` says of it."""
    require_base(source.name, contents, None)
    wanted = _wanted(contents, source, names)
    largest = max((contents.entries[number].restored_bytes for number in wanted), default=0)
    bases = contents.bases_of(contents.entries[number].name for number in wanted)
    require_memory(source.name, largest + sum(contents.bases[number].restored_bytes for number in bases), max_bytes)
    sharing: dict[str, list[Entry]] = {}
    holders = set()
    for number in wanted:
        entry = contents.entries[number]
        holders.add(number if entry.tied_to is None else entry.tied_to)
        sharing.setdefault(contents.holder_of(entry).name, []).append(entry)
    parts = [*bases, *(len(contents.bases) + number for number in sorted(holders))]
    for holder, tensor in _restored(source, contents, inline, parts):
        tensor = _writable(tensor) if is_writable else tensor
        for entry in sharing[holder.name]:
            yield entry, dataclasses.replace(tensor, name=entry.name)
        # The caller may be done with it.
        del tensor


def _read_all(source: Source, max_bytes: int, base: Elements | None) -> File:
    contents, elements = open_checked_frame(source)
    require_base(source.name, contents, base)
    require_memory(source.name, sum(entry.memory_bytes for entry in contents.parts), max_bytes)
    inline = {number: _exact(source, contents.parts[number], raw) for number, raw in elements.items()}
    exact = {number: _writable(tensor) for number, tensor in inline.items()}
    restored: dict[int, Restoration] = {}
    indices: dict[int, NDArray[np.int64]] = {}
    for chunk, streams in decoded(source, contents, contents.chunks, base):
        for piece, symbols in zip(chunk.pieces, streams, strict=True):
            entry = contents.parts[piece.tensor]
            if entry.grid is None:
                restored.setdefault(piece.tensor, Restoration(entry)).add(symbols)
                continue
            if piece.tensor not in indices:
                indices[piece.tensor] = np.zeros(entry.shape, dtype=np.int64)
            place(indices[piece.tensor], entry.scan == "columns", piece.start, symbols)
    for number, target in restored.items():
        entry = contents.parts[number]
        exact[number] = _writable(ExactTensor(name=entry.name, values=target.values, dtype=entry.dtype))
    grids = [entry.grid for entry in contents.bases if entry.grid is not None]
    bases = [Basis(indices=indices[number], grid=grid) for number, grid in enumerate(grids)]
    sums = [layout.largest_column_sum(basis.size, basis.numerators) for basis in bases]
    held: dict[int, QuantizedTensor | ExactTensor] = {}
    for number, entry in enumerate(contents.entries):
        part = len(bases) + number
        if entry.basis is not None:
            _require_combinations_fit(source.name, entry, bases[entry.basis].grid, sums[entry.basis])
        if entry.tied_to is None:
            held[number] = exact[part] if part in exact else _quantized(entry, indices.get(part), bases)
        if entry.relation == "added":
            assert base is not None
            held[number] = added(held[number], base[entry.name].values)
    tensors = tuple(
        held[number] if entry.tied_to is None else TiedTensor(name=entry.name, first=held[entry.tied_to])
        for number, entry in enumerate(contents.entries)
    )
    facts = {each.name: getattr(contents, each.name) for each in dataclasses.fields(Contents)}
    return File(**facts, tensors=tensors)


def _quantized(entry: Entry, indices: NDArray[np.int64] | None, bases: Sequence[Basis]) -> QuantizedTensor:
    assert entry.grid is not None
    return QuantizedTensor(
        name=entry.name,
        indices=np.zeros(entry.shape, dtype=np.int64) if indices is None else indices,
        grid=entry.grid,
        dtype=entry.dtype,
        scan=entry.scan,
        trellis_bits=entry.trellis_bits,
        basis=None if entry.basis is None else bases[entry.basis],
        scales=entry.scales,
    )


def _require_combinations_fit(name: str, entry: Entry, basis_grid: BucketGrid, column_sum: float) -> None:
    assert entry.grid is not None
    if not layout.combinations_fit(entry.grid, basis_grid, column_sum, entry.dtype, entry.scales):
        raise FormatError(
            f"{name}: chunk of tensor {entry.name!r}, byte {entry.offset_bytes}: combinations of its basis reach "
            f"beyond the largest {entry.dtype.name}; the file was not made by metaq. Get it again or make it again."
        )


def _wanted(contents: Contents, source: Source, names: Iterable[str] | None) -> list[int]:
    numbers = {entry.name: number for number, entry in enumerate(contents.entries)}
    if names is None:
        return list(numbers.values())
    chosen = set()
    for name in names:
        if name not in numbers:
            near = difflib.get_close_matches(name, numbers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "metaq inspect lists them all."
            raise ConfigError(f"{source.name}: there is no tensor {name!r}; {hint}")
        chosen.add(numbers[name])
    return sorted(chosen)


def require_memory(name: str, needed: int, max_bytes: int) -> None:
    """Refuse to restore the file `name` if that takes more than `max_bytes`."""
    if needed > max_bytes:
        raise FormatError(
            f"{name}: header: restoring takes {needed} bytes of memory, more than the limit of {max_bytes}; "
            "raise max_bytes if you trust the file."
        )


def _restored(
    source: Source, contents: Contents, inline: Mapping[int, bytes], wanted: Sequence[int]
) -> Iterator[tuple[Entry, ExactTensor]]:
    """Those tensors of the `wanted` parts, in order and with their bases, each as soon as its last piece is there."""
    chosen = set(wanted)
    chunks = [chunk for chunk in contents.chunks if any(piece.tensor in chosen for piece in chunk.pieces)]
    missing = Counter(piece.tensor for chunk in chunks for piece in chunk.pieces if piece.tensor in chosen)
    held: dict[int, list[NDArray[np.generic]]] = {}
    bases: dict[int, BasisRestoration] = {}
    with closing(decoded(source, contents, chunks)) as found:
        for number in wanted:
            entry = contents.parts[number]
            if number in inline:
                yield entry, _exact(source, entry, inline[number])
                continue
            is_basis = number < len(contents.bases)
            target = BasisRestoration(entry) if is_basis else restoration(source.name, entry, bases)
            while missing[number] or held.get(number):
                if held.get(number):
                    target.add(held[number].pop(0))
                    continue
                chunk, streams = next(found)
                for piece, symbols in zip(chunk.pieces, streams, strict=True):
                    if piece.tensor in missing:
                        missing[piece.tensor] -= 1
                        held.setdefault(piece.tensor, []).append(symbols)
                # Nothing but the list may hold the pieces, so that they are freed one by one.
                del streams, symbols
            held.pop(number, None)
            if isinstance(target, BasisRestoration):
                bases[number] = target
                continue
            values = target.values
            del target
            yield entry, ExactTensor(name=entry.name, values=values, dtype=entry.dtype)
            # The caller may be done with them.
            del values


def restoration(name: str, entry: Entry, bases: Mapping[int, BasisRestoration]) -> Restoration:
    if entry.basis is None:
        return Restoration(entry)
    basis = bases[entry.basis]
    _require_combinations_fit(name, entry, basis.grid, basis.column_sum)
    return CombinedRestoration(entry, basis)


def decoded(
    source: Source, contents: Contents, chunks: Iterable[Chunk], base: Elements | None = None
) -> Generator[tuple[Chunk, Streams], None, None]:
    """Chunks in order with what they hold, decoded ahead on all cores as far as memory allows; those of an update with
    the tensors of its `base`.
    """
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    waiting: deque[tuple[Chunk, int, Future[Streams]]] = deque()
    held = 0
    with ThreadPoolExecutor(max_workers=cores or 1) as pool:
        try:
            for chunk in chunks:
                symbols = (
                    symbols_per_element(contents.parts[piece.tensor]) * piece.shape.count for piece in chunk.pieces
                )
                cost = chunk.size_bytes + SYMBOL_BYTES * sum(symbols)
                while waiting and (held + cost > IN_FLIGHT_BYTES or len(waiting) > 2 * (cores or 1)):
                    held -= waiting[0][1]
                    yield _finished(waiting)
                payload = source.take(chunk.offset_bytes, chunk.size_bytes)
                waiting.append((chunk, cost, pool.submit(_decoded_chunk, source.name, contents, chunk, payload, base)))
                held += cost
                del payload
            while waiting:
                yield _finished(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(waiting: deque[tuple[Chunk, int, Future[Streams]]]) -> tuple[Chunk, Streams]:
    """The first of the waiting chunks, held by nobody but the caller."""
    chunk, _, future = waiting.popleft()
    return chunk, future.result()


def _decoded_chunk(name: str, contents: Contents, chunk: Chunk, payload: bytes, base: Elements | None) -> Streams:
    entry = contents.parts[chunk.pieces[0].tensor]
    if len(payload) != chunk.size_bytes or (chunk.checksum is not None and zlib.crc32(payload) != chunk.checksum):
        raise _chunk_error(name, chunk, entry, "its checksum does not match; the file is damaged.")
    try:
        if chunk.coder == layout.PLANES:
            return decode_planes(payload, [contents.parts[piece.tensor] for piece in chunk.pieces], chunk.pieces)
        if entry.grid is None:
            return [whole(payload, entry)]
        return decode_symbols(chunk.coder, payload, [beside(contents.parts, piece, base) for piece in chunk.pieces])
    except MemoryError as error:
        raise _chunk_error(name, chunk, entry, f"there is no memory for {entry.memory_bytes} bytes.") from error
    except CodecError as error:
        raise _chunk_error(name, chunk, entry, str(error)) from error


def _chunk_error(name: str, chunk: Chunk, entry: Entry, reason: str) -> FormatError:
    others = f" and {len(chunk.pieces) - 1} more" if len(chunk.pieces) > 1 else ""
    return FormatError(
        f"{name}: chunk of tensor {entry.name!r}{others}, byte {chunk.offset_bytes}: {reason} "
        "Get the file again or make it again."
    )


def _exact(source: Source, entry: Entry, raw: bytes) -> ExactTensor:
    try:
        return ExactTensor(name=entry.name, values=as_elements(raw, entry), dtype=entry.dtype)
    except CodecError as error:
        raise FormatError(
            f"{source.name}: unpacked header, tensor {entry.name!r}: {error} Get the file again or make it again."
        ) from error


def _writable(tensor: ExactTensor) -> ExactTensor:
    """The tensor with elements of its own, which the caller may write to."""
    return tensor if tensor.values.flags.writeable else dataclasses.replace(tensor, values=tensor.values.copy())
