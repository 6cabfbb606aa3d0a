"""Some rows of a tensor, for which no more than the chunks that hold them are decoded."""

import dataclasses
from math import prod

from metaq.container.chunking import has_chunk, is_whole
from metaq.container.contents import Contents, Entry, Piece
from metaq.container.frame import open_frame
from metaq.container.reader import DEFAULT_MAX_BYTES, decoded, require_memory, restoration, stream
from metaq.container.restoring import BasisRestoration
from metaq.container.source import FileLike, Source, open_source
from metaq.container.updates import require_base
from metaq.tensors.quantized import ExactTensor


def read_rows(path: FileLike, name: str, start: int, stop: int, *, max_bytes: int = DEFAULT_MAX_BYTES) -> ExactTensor:
    """The elements of a tensor whose first index is `start` to `stop`, as :func:`metaq.container.stream` restores them.

    Of a tensor that is coded row by row in several chunks, those of other rows are not decoded. Any other is restored
    in full first: one that is coded by columns or in one piece, or a vector with a trellis.

    Parameters
    ----------
    path, max_bytes
        As for :func:`metaq.container.read`; the memory is that of what is restored, with the basis that it needs.
    name
        Of a tensor that is there and has a dimension.
    start, stop
        Between 0 and its size, ascending.

    Raises
    ------
    FormatError
        As for :func:`metaq.container.read`.
    """
    with open_source(path) as source:
        contents = open_frame(source)[0]
        require_base(source.name, contents, None)
        holder = contents.holder_of(next(entry for entry in contents.entries if entry.name == name))
        if start < stop and _is_by_rows(holder):
            return dataclasses.replace(_rows(source, contents, holder, start, stop, max_bytes), name=name)
    (tensor,) = (tensor for _, tensor in stream(path, names=[name], max_bytes=max_bytes))
    return ExactTensor(name=name, values=tensor.restore()[start:stop], dtype=tensor.dtype)


def _is_by_rows(entry: Entry) -> bool:
    """Whether rows are restored from what chunks hold of them, one after the other."""
    if not has_chunk(entry) or is_whole(entry):
        return False
    return entry.grid is None or (entry.scan == "rows" if len(entry.shape) > 1 else not entry.trellis_bits)


def _rows(source: Source, contents: Contents, entry: Entry, start: int, stop: int, max_bytes: int) -> ExactTensor:
    # Neither a trellis nor a combination goes beyond a row, so that some rows are a tensor themselves.
    scales = entry.scales and dataclasses.replace(entry.scales, rows=entry.scales.rows[start:stop])
    part = dataclasses.replace(entry, shape=(stop - start, *entry.shape[1:]), scales=scales)
    needed = [part] if entry.basis is None else [part, contents.bases[entry.basis]]
    require_memory(source.name, sum(each.restored_bytes for each in needed), max_bytes)
    number = len(contents.bases) + contents.entries.index(entry)
    length = prod(entry.shape[1:])
    first, last = start * length, stop * length

    def is_needed(piece: Piece) -> bool:
        overlaps = piece.start < last and piece.start + piece.shape.count > first
        return piece.tensor == entry.basis if piece.tensor != number else overlaps

    chunks = [chunk for chunk in contents.chunks if any(map(is_needed, chunk.pieces))]
    bases = {} if entry.basis is None else {entry.basis: BasisRestoration(contents.bases[entry.basis])}
    target = None
    for chunk, streams in decoded(source, contents, chunks):
        for piece, symbols in zip(chunk.pieces, streams, strict=True):
            if piece.tensor == number and is_needed(piece):
                # All pieces of a basis come before those of the tensors that need it.
                target = target or restoration(source.name, part, bases)
                target.add(symbols[max(first - piece.start, 0) : last - piece.start])
            elif piece.tensor == entry.basis:
                bases[piece.tensor].add(symbols)
    assert target is not None
    return ExactTensor(name=entry.name, values=target.values, dtype=entry.dtype)
