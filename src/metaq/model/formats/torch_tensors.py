"""Tensors of PyTorch files as stored ones: which are tied, which lie in the file as they are, which are gathered."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from metaq.errors import FormatError
from metaq.model.formats.torch_objects import AnyTensor, OtherTensor, StridedTensor, unstorable
from metaq.model.formats.torch_zip import damaged
from metaq.model.stored import Elements, FileRange, StoredTensor

MOST_GATHERED_BYTES = 1 << 28
MOST_GATHERED_RATIO = 2
"""Of what tensors take that do not lie in the file as they are to its size, beyond the former."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Stored tensors, other names of theirs, and what could not be taken and why."""

    tensors: tuple[StoredTensor, ...]
    ties: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)


def placed(path: Path, named: Mapping[str, AnyTensor], *, gathers: bool) -> Placed:
    """Tensors of a file by their names; those of the same elements once, by the first name in the order of UTF-8.

    If it `gathers`, tensors that do not lie in the file as they are are read, and all are there; else they are left
    out, and of those that overlap the smaller ones.

    Raises :class:`FormatError` if a tensor goes beyond its storage, its name is no text, it is one that no ``.metaq``
    file can hold, or those that are read take too much.
    """
    left_out = {}
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in named.items():
        _check_name(path, name)
        if isinstance(tensor, OtherTensor):
            if gathers:
                raise unstorable(path, name, tensor)
            left_out[name] = f"is {tensor.label}"
            continue
        _check_bounds(path, name, tensor)
        strides = None if tensor.is_contiguous else tensor.strides
        how = (tensor.is_swapped, tensor.is_conjugate, tensor.is_negative, tensor.shape, strides)
        identity = (id(tensor.storage), tensor.start, tensor.dtype, *how)
        groups.setdefault(identity, []).append(name)
    ties = {name: first for names in groups.values() for first in [min(names, key=_order)] for name in names}
    strided = {
        first: tensor for first in dict.fromkeys(ties.values()) if isinstance(tensor := named[first], StridedTensor)
    }
    if gathers:
        gatherer = _Gatherer(path)
        stored = [
            StoredTensor(name=n, dtype=t.dtype, shape=t.shape, place=gatherer.place(n, t)) for n, t in strided.items()
        ]
    else:
        reasons = {name: reason for name, tensor in strided.items() if (reason := _reason_against(tensor))}
        reasons |= _overlapping({name: tensor for name, tensor in strided.items() if name not in reasons})
        left_out |= {name: reasons[first] for name, first in ties.items() if first in reasons}
        stored = [
            StoredTensor(name=name, dtype=tensor.dtype, shape=tensor.shape, place=FileRange(path, _start(tensor)))
            for name, tensor in strided.items()
            if name not in reasons
        ]
    others = {name: first for name, first in ties.items() if name != first and name not in left_out}
    return Placed(tensors=tuple(stored), ties=others, left_out=left_out)


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
        return "not contiguous"
    if tensor.is_swapped:
        return "big-endian"
    if tensor.is_conjugate or tensor.is_negative:
        return "a conjugate or negative view"
    return "not in the file as it is" if tensor.storage.start is None and tensor.size_bytes else ""


def _overlapping(tensors: Mapping[str, StridedTensor]) -> dict[str, str]:
    """Those of which a part belongs to larger ones too, and why they are left out."""
    reasons = {}
    starts: list[int] = []
    held: list[tuple[int, str]] = []
    for name in sorted(tensors, key=lambda name: (-tensors[name].size_bytes, _start(tensors[name]), name)):
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
