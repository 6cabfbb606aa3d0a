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
    or a piece of one, has at most ``2**chunk_bits`` symbols; see :func:`symbols_per_element`.
    """
    limit = 1 << chunk_bits
    plans: list[tuple[str, list[Piece]]] = []
    # By coder: the number of the chunk that may take more tensors, and the symbols in it.
    open_chunks: dict[str, tuple[int, int]] = {}
    for number, entry in enumerate(entries):
        if not has_chunk(entry):
            continue
        symbols = entry.count * symbols_per_element(entry)
        if is_whole(entry) or symbols > limit:
            plans += [(entry.coder, [piece]) for piece in _pieces(number, entry, limit)]
            open_chunks.pop(entry.coder, None)
            continue
        whole = Piece(tensor=number, start=0, shape=stream_shape(entry))
        place, held = open_chunks.get(entry.coder, (0, limit))
        if held + symbols <= limit:
            plans[place][1].append(whole)
        else:
            place, held = len(plans), 0
            plans.append((entry.coder, [whole]))
        open_chunks[entry.coder] = (place, held + symbols)
    return [(coder, tuple(pieces)) for coder, pieces in plans]


def fewest_chunks(entries: Sequence[Entry], chunk_bits: int) -> int:
    """Chunks that cut tensors alone take: known before a list of them is made. Entries are as in the plan."""
    limit = 1 << chunk_bits
    cut = [entry for entry in entries if has_chunk(entry) and not is_whole(entry)]
    return sum(-(-entry.count // _piece_count(entry, limit)) for entry in cut if entry.count > _most(entry, limit))


def has_chunk(entry: Entry) -> bool:
    """Whether any byte outside the header belongs to the tensor."""
    without = (layout.EXACT_NAMES[layout.EXACT_INLINE], layout.EXACT_NAMES[layout.EXACT_TIED])
    return entry.count > 0 and entry.coder not in without


def is_whole(entry: Entry) -> bool:
    """Whether the tensor is a chunk by itself, however large."""
    return entry.grid is None and entry.coder != layout.PLANES


def symbols_per_element(entry: Entry) -> int:
    """What an element counts in a chunk: 1, or, in planes, one for every two bytes of it."""
    return max(entry.dtype.itemsize // 2, 1) if entry.coder == layout.PLANES else 1


def stream_shape(entry: Entry) -> StreamShape:
    """What the coder of the whole tensor is told; an exact tensor has no alphabet."""
    count = entry.grid.count if entry.grid is not None else 0
    is_given = entry.relation == "given"
    return StreamShape(
        count=entry.count,
        alphabet_size=2 * count - 1 if is_given else count,
        row_length=layout.row_length(entry.shape, entry.scan),
        trellis_bits=0 if is_given else entry.trellis_bits,
    )


def _pieces(number: int, entry: Entry, limit: int) -> Iterator[Piece]:
    if is_whole(entry):
        yield Piece(tensor=number, start=0, shape=stream_shape(entry))
        return
    whole, most = stream_shape(entry), _piece_count(entry, limit)
    row_length = whole.row_length if _is_cut_by_rows(entry, limit) else 0
    for start in range(0, whole.count, most):
        shape = replace(whole, count=min(most, whole.count - start), row_length=row_length)
        yield Piece(tensor=number, start=start, shape=shape)


def _piece_count(entry: Entry, limit: int) -> int:
    """Symbols of every piece but the last."""
    row_length, most = layout.row_length(entry.shape, entry.scan), _most(entry, limit)
    return most // row_length * row_length if _is_cut_by_rows(entry, limit) else most


def _is_cut_by_rows(entry: Entry, limit: int) -> bool:
    return 0 < layout.row_length(entry.shape, entry.scan) <= _most(entry, limit)


def _most(entry: Entry, limit: int) -> int:
    """Most elements of a chunk of `limit` symbols."""
    return max(limit // symbols_per_element(entry), 1)
