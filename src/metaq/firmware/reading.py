"""In which order a network reads the tensors of its file, and where in memory everything lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from metaq.config import require
from metaq.container import Contents
from metaq.firmware.network import Network
from metaq.tensors.quantized import Dtype

FLOATS = frozenset({Dtype.float32, Dtype.float16, Dtype.bfloat16, Dtype.float8_e4m3fn, Dtype.float8_e5m2})
"""Types that the decoder gives as float."""

ALWAYS = -1
"""In place of a step: when the file is opened."""

Place = tuple[int, int]
"""Chunk of a file, and piece of it."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A small tensor, such as a bias, that is read before the step `at`, used by the step `use`, and kept until then.

    `tensor` is its number in the file.
    """

    tensor: int
    name: str
    elements: int
    at: int
    use: int


@dataclass(frozen=True, kw_only=True)
class Order:
    """How the file is read.

    Attributes
    ----------
    reads
        Small tensors, in order.
    packed
        Names of those that the decoder cannot read, so that they are put beside the file.
    passes
        How often a run begins with the same chunk at most.
    back
        Weights to which it has to go back.
    """

    reads: tuple[Read, ...]
    packed: tuple[str, ...]
    passes: int
    back: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Numbers that lie in memory from one step to another, both included."""

    size: int
    first: int
    last: int


def order_of(network: Network, contents: Contents, packed: Collection[int]) -> Order:
    """The order in which one run goes over the file the fewest times.

    Weights have to come in the order of the network, as none of them is kept. A small tensor is read where a run comes
    past it before it is used, or when the file is opened if it comes past it too late. The decoder cannot read chunks
    whose numbers are in `packed`; raises :class:`metaq.errors.ConfigError` if weights are in one of them.
    """
    numbers = {entry.name: number for number, entry in enumerate(contents.entries)}
    places = _places(contents)
    wanted = [
        (step, name) for step, each in enumerate(network.steps) if each.does != "weigh" for name in each.tensors if name
    ]
    # Where each tensor can be had for nothing: the steps before which a run passes it.
    passed: dict[int, list[int]] = {}
    at: Place | None = None
    starts: Counter[int] = Counter()
    back: list[str] = []
    for step, each in enumerate(network.steps):
        if each.does != "weigh":
            continue
        name = each.tensors[0]
        assert name is not None
        number = _holder(contents, numbers[name])
        to = places.get(number)
        if to is None:
            continue
        require(
            to[0] not in packed,
            f"{name}: is packed by Zstandard, which the decoder in C lacks; quantise it, as metaq compress does.",
        )
        is_ahead = at is not None and at[0] == to[0] and at[1] <= to[1]
        if not is_ahead:
            if starts[to[0]]:
                back.append(name)
            starts[to[0]] += 1
        first = at[1] if is_ahead and at is not None else 0
        for other in _between(contents, to[0], first, to[1]):
            passed.setdefault(other, []).append(step)
        at = _behind(contents, number, to)
        for other in _small_ones_behind(contents, at, network):
            passed.setdefault(other, []).append(step + 1)
    reads, beside = [], []
    for use, name in wanted:
        number = _holder(contents, numbers[name])
        if number in places and places[number][0] in packed:
            beside.append(name)
            continue
        entry = contents.entries[number]
        times = [step for step in passed.get(number, ()) if step <= use]
        when = use if number not in places else max(times, default=ALWAYS)
        reads.append(Read(tensor=number, name=name, elements=entry.count, at=when, use=use))
    reads.sort(key=lambda read: (read.at, places.get(read.tensor, (ALWAYS, read.tensor))))
    unique = tuple(dict.fromkeys(beside))
    return Order(reads=tuple(reads), packed=unique, passes=max(starts.values(), default=1), back=tuple(back))


def require_readable(network: Network, contents: Contents, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a network that needs other tensors than the file has, or elements that C does not read as float.

    `shapes` are those of the network's tensors by their names.
    """
    known = {entry.name: entry for entry in contents.entries}
    for step in network.steps:
        for name in step.tensors:
            if name is None:
                continue
            require(name in known, f"{name}: is a tensor of the network but not of the file.")
            dtype, shape = known[name].dtype, known[name].shape
            require(
                shape == shapes[name],
                f"{name}: has the shape {shape} in the file and {shapes[name]} in the network; give the network of "
                "the file.",
            )
            require(
                dtype in FLOATS,
                f"{name}: is {dtype.name}; C reads float32 and narrower floats. Compress the model in float32.",
            )


def offsets_of(groups: Sequence[Sequence[Interval]]) -> tuple[list[int], int]:
    """Where each group begins, and how much memory there is in all.

    The intervals of a group begin at the same place, as what is computed in place does. Groups share memory where no
    two of their intervals need it at the same time.

    Examples
    --------
    >>> offsets_of([[Interval(size=4, first=0, last=1)], [Interval(size=2, first=1, last=2)]])
    ([0, 4], 6)
    """
    placed: list[tuple[int, Interval]] = []
    found = [0] * len(groups)
    for number in sorted(range(len(groups)), key=lambda number: -max(each.size for each in groups[number])):
        rivals = [
            (offset, other, own)
            for own in groups[number]
            for offset, other in placed
            if own.first <= other.last and other.first <= own.last
        ]
        candidates = sorted({0, *(offset + other.size for offset, other, _ in rivals)})
        found[number] = next(
            start
            for start in candidates
            if all(start + own.size <= offset or offset + other.size <= start for offset, other, own in rivals)
        )
        placed += [(found[number], own) for own in groups[number]]
    return found, max((offset + each.size for offset, each in placed), default=0)


def activations_of(network: Network) -> tuple[list[int | None], int]:
    """Where every activation lies, None for the input, which is given; and how many numbers there are in all."""
    last_use = {network.output: len(network.steps)}
    for number, step in enumerate(network.steps):
        for value in step.inputs:
            last_use[value] = max(last_use.get(value, 0), number)
    group_of: dict[int, int] = {}
    groups: list[list[Interval]] = []
    for number, step in enumerate(network.steps):
        # Where it may, a step writes where it reads.
        shared = next(
            (value for value in step.inputs if step.may_overwrite and value in group_of and last_use[value] == number),
            None,
        )
        if shared is None:
            groups.append([])
        group_of[step.output] = len(groups) - 1 if shared is None else group_of[shared]
        last = last_use.get(step.output, number)
        groups[group_of[step.output]].append(Interval(size=network.sizes[step.output], first=number, last=last))
    offsets, total = offsets_of(groups)
    places = [offsets[group_of[value]] if value in group_of else None for value in range(len(network.sizes))]
    return places, total


def held_of(order: Order, steps: int) -> tuple[list[int], int]:
    """Where every small tensor is kept, and how many numbers there are in all."""
    intervals = [
        [Interval(size=read.elements, first=read.at, last=steps if read.at == ALWAYS else read.use)]
        for read in order.reads
    ]
    return offsets_of(intervals)


def _places(contents: Contents) -> dict[int, Place]:
    """Where every tensor that is not in the header begins, by its number."""
    found: dict[int, Place] = {}
    for chunk, each in enumerate(contents.chunks):
        for place, piece in enumerate(each.pieces):
            found.setdefault(piece.tensor - len(contents.bases), (chunk, place))
    return found


def _holder(contents: Contents, number: int) -> int:
    tied_to = contents.entries[number].tied_to
    return number if tied_to is None else tied_to


def _between(contents: Contents, chunk: int, first: int, end: int) -> list[int]:
    """Numbers of the tensors of some pieces."""
    return [piece.tensor - len(contents.bases) for piece in contents.chunks[chunk].pieces[first:end]]


def _behind(contents: Contents, number: int, begin: Place) -> Place:
    """Where a reader is that has read a whole tensor."""
    last = max(
        chunk
        for chunk, each in enumerate(contents.chunks)
        if any(piece.tensor - len(contents.bases) == number for piece in each.pieces)
    )
    return last, (begin[1] if last == begin[0] else 0) + 1


def _small_ones_behind(contents: Contents, at: Place, network: Network) -> list[int]:
    """Tensors that follow before the next weights: to read them takes little."""
    weights = {step.tensors[0] for step in network.steps if step.does == "weigh"}
    small = {name for step in network.steps if step.does != "weigh" for name in step.tensors}
    found = []
    for number in _between(contents, at[0], at[1], len(contents.chunks[at[0]].pieces)):
        name = contents.entries[number].name if number >= 0 else None
        if name in weights or name not in small:
            break
        found.append(number)
    return found
