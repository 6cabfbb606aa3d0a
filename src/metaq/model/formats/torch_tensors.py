"""Tensors of PyTorch files as stored ones: which are tied, which lie in the file as they are, which are gathered."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from metaq.container.carried import BESIDE
from metaq.errors import FormatError
from metaq.model.formats.torch_objects import AnyTensor, StridedTensor, unstorable
from metaq.model.formats.torch_zip import damaged
from metaq.model.stored import Elements, FileRange, StoredTensor

MOST_GATHERED_BYTES = 1 << 28
MOST_GATHERED_RATIO = 2
"""Of what tensors take that do not lie in the file as they are to its size, beyond the former."""


NOT_CONTIGUOUS, NOT_THERE = "not contiguous", "not in the file as it is"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Stored tensors, other names of theirs, and what could not be taken and why.

    Tensors that lie in the file in the order of other dimensions are `reordered`, see :class:`WeightFile`; `renamed`
    has all of their names, and those that they have among `tensors` and `ties`.
    """

    tensors: tuple[StoredTensor, ...]
    ties: Mapping[str, str]
    reordered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def placed(path: Path, named: Mapping[str, AnyTensor], *, gathers: bool) -> Placed:
    """Tensors of a file by their names; those of the same elements once, by the first name in the order of UTF-8.

    If it `gathers`, tensors that do not lie in the file as they are are read, and all are there; else they are left
    out, and of those that overlap the smaller ones; but those that are only permuted are taken in the order in which
    they lie there.

    Raises :class:`FormatError` if a tensor goes beyond its storage, its name is no text, it is one that no ``.metaq``
    file can hold, or those that are read take too much.
    """
    left_out = {}
    strided: dict[str, StridedTensor] = {}
    for name, tensor in named.items():
        _check_name(path, name)
        if isinstance(tensor, StridedTensor):
            _check_bounds(path, name, tensor)
            strided[name] = tensor
        elif gathers:
            raise unstorable(path, name, tensor)
        else:
            left_out[name] = f"is {tensor.label}"
    return _gathered(path, strided) if gathers else _lying(path, strided, left_out)


def _gathered(path: Path, named: Mapping[str, StridedTensor]) -> Placed:
    ties = _ties(named)
    gatherer = _Gatherer(path)
    stored = [
        StoredTensor(name=name, dtype=t.dtype, shape=t.shape, place=gatherer.place(name, t))
        for name, t in ((first, named[first]) for first in dict.fromkeys(ties.values()))
    ]
    return Placed(tensors=tuple(stored), ties=_others(ties))


def _lying(path: Path, named: Mapping[str, StridedTensor], left_out: Mapping[str, str]) -> Placed:
    moved = {
        name: tensor.reordered
        for name, tensor in named.items()
        if _reason_against(tensor) == NOT_CONTIGUOUS and not _reason_against(tensor.reordered)
    }
    renamed = _renamed(moved, named)
    known = {renamed.get(name, name): name for name in named}
    ties = _ties({new: moved.get(name, named[name]) for new, name in known.items()})
    strided = {first: moved.get(known[first], named[known[first]]) for first in dict.fromkeys(ties.values())}
    reasons = {name: reason for name, tensor in strided.items() if (reason := _reason_against(tensor))}
    reasons |= _overlapping({name: t for name, t in strided.items() if name not in reasons}, set(renamed.values()))
    stored = [
        StoredTensor(name=name, dtype=tensor.dtype, shape=tensor.shape, place=FileRange(path, _start(tensor)))
        for name, tensor in strided.items()
        if name not in reasons
    ]
    taken = {name: first for name, first in ties.items() if first not in reasons}
    return Placed(
        tensors=tuple(stored),
        ties=_others(taken),
        reordered={new: named[name].order for name, new in renamed.items() if new in taken},
        renamed={name: new for name, new in renamed.items() if new in taken},
        left_out={**left_out, **{known[name]: reasons[first] for name, first in ties.items() if first in reasons}},
    )


def _ties(named: Mapping[str, StridedTensor]) -> dict[str, str]:
    """For every name the first of those of the same elements."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in named.items():
        strides = None if tensor.is_contiguous else tensor.strides
        how = (tensor.is_swapped, tensor.is_conjugate, tensor.is_negative, tensor.shape, strides)
        groups.setdefault((id(tensor.storage), tensor.start, tensor.dtype, *how), []).append(name)
    return {name: first for names in groups.values() for first in [min(names, key=_order)] for name in names}


def _others(ties: Mapping[str, str]) -> dict[str, str]:
    return {name: first for name, first in ties.items() if name != first}


def _renamed(names: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Names that say that these tensors are not what the model calls so, each one that is not taken."""
    found = {}
    for name in names:
        found[name] = name if name.startswith(BESIDE) else BESIDE + name
        while found[name] != name and found[name] in taken:
            found[name] += "'"
    return found


def _order(name: str) -> bytes:
    return name.encode()


def _check_name(path: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{path}: the name {name!r} of a tensor is not valid text; rename it.") from error


def _check_bounds(path: Path, name: str, tensor: StridedTensor) -> None:
    storage = tensor.storage
    if tensor.stop > storage.size_bytes:
        raise damaged(path, f"{name!r} goes beyond its storage of {storage.size_bytes} bytes")
    if storage.start is None and storage.content is None and tensor.size_bytes:
        raise damaged(path, f"the storage of {name!r} is missing")


def _start(tensor: StridedTensor) -> int:
    """Where the elements lie in the file; that of an empty tensor is anywhere."""
    return (tensor.storage.start or 0) + tensor.start


def _reason_against(tensor: StridedTensor) -> str:
    """Why a tensor does not lie in the file as it is, or nothing."""
    if not tensor.is_contiguous:
        return NOT_CONTIGUOUS
    if tensor.is_swapped:
        return "big-endian"
    if tensor.is_conjugate or tensor.is_negative:
        return "a conjugate or negative view"
    return NOT_THERE if tensor.storage.start is None and tensor.size_bytes else ""


def _overlapping(tensors: Mapping[str, StridedTensor], moved: Collection[str]) -> dict[str, str]:
    """Those of which a part belongs to larger ones too, and why they are left out; of two as large, one in `moved`."""
    reasons = {}
    starts: list[int] = []
    held: list[tuple[int, str]] = []
    for name in sorted(tensors, key=lambda n: (-tensors[n].size_bytes, n in moved, _start(tensors[n]), n)):
        start, size = _start(tensors[name]), tensors[name].size_bytes
        at = bisect_left(starts, start)
        before = held[at - 1] if at and held[at - 1][0] > start else None
        after = held[at] if at < len(held) and starts[at] < start + size else None
        if size and (found := before or after):
            reasons[name] = f"overlaps {found[1]!r}"
        elif size:
            starts.insert(at, start)
            held.insert(at, (start + size, name))
    return reasons


class _Gatherer:
    """Reads tensors that do not lie in a file as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.budget = MOST_GATHERED_BYTES + MOST_GATHERED_RATIO * path.stat().st_size
        self.content: NDArray[np.uint8] | None = None

    def place(self, name: str, tensor: StridedTensor) -> Elements | FileRange:
        """Where a tensor lies, or its elements."""
        if not tensor.size_bytes:
            return np.empty(0, dtype=tensor.dtype.storage)
        if not _reason_against(tensor):
            return FileRange(self.path, _start(tensor))
        content = tensor.storage.content
        is_marked = tensor.is_swapped or tensor.is_conjugate or tensor.is_negative
        if content is not None and tensor.is_contiguous and not is_marked:
            return np.frombuffer(content, np.uint8)[tensor.start : tensor.stop].view(tensor.dtype.storage)
        self.budget -= tensor.size_bytes
        if self.budget < 0:
            raise FormatError(
                f"{self.path}: {name!r} and other views take far more bytes than the file; save their clone()."
            )
        span = self._bytes(tensor).view(tensor.dtype.storage.newbyteorder(">" if tensor.is_swapped else "<"))
        strides = [
            stride * tensor.dtype.itemsize if length > 1 else 0
            for length, stride in zip(tensor.shape, tensor.strides, strict=True)
        ]
        view = as_strided(span, tensor.shape, strides, writeable=False)
        values: NDArray[Any] = view.conj() if tensor.is_conjugate else view
        values = -values if tensor.is_negative else values
        return np.ascontiguousarray(values, dtype=tensor.dtype.storage).reshape(-1)

    def _bytes(self, tensor: StridedTensor) -> NDArray[np.uint8]:
        """The bytes from the first element to the last."""
        content = tensor.storage.content
        if content is not None:
            return np.frombuffer(content, np.uint8)[tensor.start : tensor.stop]
        if self.content is None:
            # Memory of what is touched only; elements of a view may be far apart.
            self.content = np.memmap(self.path, np.uint8, "r")
        start = tensor.storage.start or 0
        return self.content[start + tensor.start : start + tensor.stop]
