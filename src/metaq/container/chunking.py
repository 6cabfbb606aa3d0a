"""Which symbols share a payload: a fixed rule, so that nothing of it is stored."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from metaq.coding.chunks import StreamShape
from metaq.container import layout
from metaq.container.contents import Entry, Piece

Plan = tuple[str, tuple[Piece, ...]]
"""Coder of a chunk, and what it holds."""


def plan_chunks(entries: Sequence[Entry], chunk_bits: int) -> list[Plan]:
    """Chunks of a file in order; a chunk stands where its first tensor stands.

    `entries` are the bases and then the tensors; where their payloads are is not looked at. A chunk of several tensors,
    or a piece of one, has at most ``2**chunk_bits`` symbols.
    """
    limit = 1 << chunk_bits
    plans: list[tuple[str, list[Piece]]] = []
    # By coder: the number of the chunk that may take more tensors, and the symbols in it.
    open_chunks: dict[str, tuple[int, int]] = {}
    for number, entry in enumerate(entries):
        if not has_chunk(entry):
            continue
        if entry.grid is None or entry.count > limit:
            plans += [(entry.coder, [piece]) for piece in _pieces(number, entry, limit)]
            open_chunks.pop(entry.coder, None)
            continue
        whole = Piece(tensor=number, start=0, shape=stream_shape(entry))
        place, held = open_chunks.get(entry.coder, (0, limit))
        if held + entry.count <= limit:
            plans[place][1].append(whole)
        else:
            place, held = len(plans), 0
            plans.append((entry.coder, [whole]))
        open_chunks[entry.coder] = (place, held + entry.count)
    return [(coder, tuple(pieces)) for coder, pieces in plans]


def fewest_chunks(entries: Sequence[Entry], chunk_bits: int) -> int:
    """Chunks that cut tensors alone take: known before a list of them is made. Entries are as in the plan."""
    limit = 1 << chunk_bits
    cut = [entry for entry in entries if entry.grid is not None and entry.count > limit]
    return sum(-(-entry.count // _piece_count(entry, limit)) for entry in cut)


def has_chunk(entry: Entry) -> bool:
    """Whether any byte outside the header belongs to the tensor."""
    without = (layout.EXACT_NAMES[layout.EXACT_INLINE], layout.EXACT_NAMES[layout.EXACT_TIED])
    return entry.count > 0 and entry.coder not in without


def stream_shape(entry: Entry) -> StreamShape:
    """What the coder of the whole tensor is told; an exact tensor has no alphabet."""
    return StreamShape(
        count=entry.count,
        alphabet_size=entry.grid.count if entry.grid is not None else 0,
        row_length=layout.row_length(entry.shape, entry.scan),
        trellis_bits=entry.trellis_bits,
    )


def _pieces(number: int, entry: Entry, limit: int) -> Iterator[Piece]:
    if entry.grid is None:
        yield Piece(tensor=number, start=0, shape=stream_shape(entry))
        return
    whole, most = stream_shape(entry), _piece_count(entry, limit)
    row_length = whole.row_length if _is_cut_by_rows(entry, limit) else 0
    for start in range(0, whole.count, most):
        shape = replace(whole, count=min(most, whole.count - start), row_length=row_length)
        yield Piece(tensor=number, start=start, shape=shape)


def _piece_count(entry: Entry, limit: int) -> int:
    """Symbols of every piece but the last."""
    row_length = layout.row_length(entry.shape, entry.scan)
    return limit // row_length * row_length if _is_cut_by_rows(entry, limit) else limit


def _is_cut_by_rows(entry: Entry, limit: int) -> bool:
    return 0 < layout.row_length(entry.shape, entry.scan) <= limit
