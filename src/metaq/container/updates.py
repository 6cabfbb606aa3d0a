"""Updates: files that tell a model by another one, the base, which their readers have already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.coding.varint import encode_varint
from metaq.container import layout
from metaq.container.coders import CODERS
from metaq.container.contents import Contents, Entry, Piece
from metaq.errors import CodecError, FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Scan, matrix_shape, stored, values_of

Array = NDArray[np.generic]

Elements = Mapping[str, ExactTensor]
"""Tensors of the base by name."""

LARGEST_HINT = 32
"""Hints are from minus this number to one less."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Against:
    """What a tensor of an update is told by: elements of the base's tensor, as ``dtype.storage``, in its shape.

    With `is_sum`, a quantised tensor is what is to be added to them, rather than what takes their place.
    """

    elements: Array
    is_sum: bool = False


def identity(tensors: Iterable[ExactTensor]) -> bytes:
    """Eight bytes that two models have in common if they have the same tensors, bit for bit, and hardly otherwise.

    They are the first ones of the SHA-256 of all tensors in the order of their names as UTF-8, each as size and bytes
    of its name, element type, number of dimensions, sizes, and elements; docs/format.md has the details.
    """
    found = sha256()
    for tensor in sorted(tensors, key=lambda tensor: tensor.name.encode()):
        name = tensor.name.encode()
        found.update(encode_varint(len(name)) + name + bytes([tensor.dtype.value, len(tensor.shape)]))
        found.update(b"".join(map(encode_varint, tensor.shape)))
        found.update(np.ascontiguousarray(tensor.values).reshape(-1).view(np.uint8).data)
    return found.digest()[: layout.IDENTITY_BYTES]


def require_base(source: str, contents: Contents, base: Elements | None) -> None:
    """Raise :class:`FormatError` where a file is an update and there is no `base`, or not one that its tensors fit."""
    update = contents.update
    if base is None and update is not None:
        raise FormatError(
            f"{source}: is an update of the model {update.base.hex()}, no model itself; apply it to that one with "
            "metaq apply BASE UPDATE -o NEW, or metaq.load(update, base=base)."
        )
    if base is not None and update is None:
        raise FormatError(f"{source}: is no update but a model, and needs no base; load it without.")
    for entry in contents.entries if base is not None else ():
        held = base.get(entry.name) if base is not None else None
        if entry.relation != "alone" and (held is None or (held.dtype, held.shape) != (entry.dtype, entry.shape)):
            raise FormatError(
                f"{source}: the base has no tensor {entry.name!r} of {entry.dtype.name} and shape {entry.shape}; "
                "give the base that the update was made of."
            )


class Beside:
    """A piece of a tensor of an update beside what the base has in its place: `count` elements from number `start` of
    the scan on, of the `elements` of the whole tensor. Without them, or kept exactly, the piece stands alone.
    """

    def __init__(self, entry: Entry, shape: StreamShape, start: int, elements: Array | None) -> None:
        self._entry = entry
        self._start = start
        self._elements = None
        if elements is not None and entry.grid is not None and entry.relation != "alone":
            self._elements = scanned(elements, entry.scan)[start : start + shape.count]
        self.shape = shape if self._elements is None else replace(shape, hints=self._hints)

    def symbols(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """What is coded for bucket indices, shape (n,)."""
        return indices - self._shift

    def indices(self, symbols: NDArray[np.int32]) -> NDArray[np.integer]:
        """Invert :meth:`symbols`; raises :class:`CodecError` if one is outside the grid."""
        if self._elements is None or self._entry.relation != "given":
            return symbols
        found = symbols + self._shift
        if found.min() < 0 or found.max() >= self._grid.count:
            raise CodecError(f"a symbol leads outside the {self._grid.count} buckets of {self._entry.name!r}.")
        return found

    @property
    def _grid(self) -> BucketGrid:
        assert self._entry.grid is not None
        return self._entry.grid

    @property
    def _shift(self) -> NDArray[np.int64] | int:
        is_given = self._elements is not None and self._entry.relation == "given"
        return self._nearest - (self._grid.count - 1) if is_given else 0

    @cached_property
    def _halves(self) -> NDArray[np.float64]:
        """The base in units of half a step, less the centre of the grid; what is no number is 0."""
        assert self._elements is not None
        entry, grid = self._entry, self._grid
        with np.errstate(over="ignore", invalid="ignore"):
            values = values_of(self._elements, entry.dtype)
            if entry.scales is not None:
                stop = self._start + values.size
                values = values / entry.scales.of(entry.shape, self._start, stop, by_columns=entry.scan == "columns")
            found: NDArray[np.float64] = (values - grid.center) * grid.count / grid.radius
        found[np.isnan(found)] = 0.0
        return found

    @cached_property
    def _nearest(self) -> NDArray[np.int64]:
        """Bucket indices nearest to the base."""
        count = self._grid.count
        return np.clip(np.floor((self._halves + count) / 2), 0, count - 1).astype(np.int64)

    @property
    def _hints(self) -> NDArray[np.int32]:
        """What a coder is told of every symbol."""
        if self._entry.relation == "given":
            steps = (self._nearest - (self._grid.count - 1) // 2).astype(np.float64)
        else:
            steps = np.floor((self._halves + 1) / 2)
        return np.clip(steps, -LARGEST_HINT, LARGEST_HINT - 1).astype(np.int32)


def beside(parts: Sequence[Entry], piece: Piece, base: Elements | None) -> Beside:
    """A piece of one of the `parts` of an update, beside the base."""
    entry = parts[piece.tensor]
    is_told = base is not None and entry.relation != "alone"
    return Beside(entry, piece.shape, piece.start, base[entry.name].values if base is not None and is_told else None)


def decode_symbols(coder: str, payload: bytes, pieces: Sequence[Beside]) -> list[Array]:
    """Bucket indices of pieces in one payload; raises :class:`CodecError` if that is damaged."""
    streams = CODERS[coder].decode_chunk(payload, [piece.shape for piece in pieces])
    return [piece.indices(symbols) for piece, symbols in zip(pieces, streams, strict=True)]


def scanned(elements: Array, scan: Scan) -> Array:
    """Elements of a tensor in the order of a scan, shape (n,)."""
    matrix = elements.reshape(matrix_shape(elements.shape))
    return np.ascontiguousarray(matrix if scan == "rows" else matrix.T).reshape(-1)


def added(tensor: QuantizedTensor | ExactTensor, elements: Array) -> ExactTensor:
    """What an update tells by its difference from `elements` of the base, in the same shape: values that are added, or
    :func:`differences`.
    """
    if isinstance(tensor, ExactTensor):
        return replace(tensor, values=with_differences(tensor.values, elements))
    with np.errstate(over="ignore", invalid="ignore"):
        total = values_of(elements, tensor.dtype) + values_of(tensor.restore(), tensor.dtype)
        return ExactTensor(name=tensor.name, values=stored(total, tensor.dtype), dtype=tensor.dtype)


def differences(elements: Array, base: Array) -> Array:
    """What is to be known of `elements` beside those of the base, of the same type and shape: of equal ones 0, of near
    ones small numbers, as unsigned integers of the same size.
    """
    kind = np.dtype(f"<u{elements.dtype.itemsize}")
    step = (elements.view(kind) - base.view(kind)).view(f"<i{kind.itemsize}")
    folded: Array = ((step << 1) ^ (step >> (8 * kind.itemsize - 1))).view(kind)
    return folded


def with_differences(found: Array, base: Array) -> Array:
    """Invert :func:`differences`; the result has the type of the base."""
    kind = np.dtype(f"<u{base.dtype.itemsize}")
    folded = np.ascontiguousarray(found).view(kind)
    one = np.array(1, dtype=kind)
    step = (folded >> one) ^ (np.array(0, dtype=kind) - (folded & one))
    elements: Array = (np.ascontiguousarray(base).view(kind) + step).view(base.dtype)
    return elements
