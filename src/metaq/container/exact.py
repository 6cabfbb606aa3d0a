"""Chunks of tensors that are kept exactly: planes of bits, or elements as they are or packed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.coding.planes.chunk import code_lengths, decode_chunk, encode_chunk
from metaq.coding.planes.elements import ElementShape, element_shape
from metaq.container.contents import Entry, Piece
from metaq.errors import CodecError
from metaq.tensors.quantized import Dtype

Array = NDArray[np.generic]


def encode_planes(arrays: Sequence[Array], entries: Sequence[Entry], pieces: Sequence[Piece], coder: str) -> bytes:
    """A chunk of pieces of tensors, given by their elements as ``dtype.storage``, of shape (n,), and their entries.

    What is returned has been decoded and compared. `coder` is that of the file. Raises :class:`CodecError` if decoding
    does not restore a tensor.
    """
    # Imported late, so that a file is read without it.
    from metaq.coding.planes.choosing import coded

    shapes = _shapes(entries, pieces)
    elements = [
        np.ascontiguousarray(array).view(shape.storage).reshape(-1) for array, shape in zip(arrays, shapes, strict=True)
    ]
    payload = encode_chunk([*map(coded, elements, shapes)], shapes, is_small=coder == "small")
    for entry, given, restored in zip(entries, elements, decode_chunk(payload, shapes), strict=True):
        if not np.array_equal(given, restored):
            raise CodecError(f"{entry.name}: planes: decoding does not give the elements back; please report this.")
    return payload


def decode_planes(payload: bytes, entries: Sequence[Entry], pieces: Sequence[Piece]) -> list[Array]:
    """Invert :func:`encode_planes`; raises :class:`CodecError` if the payload is damaged."""
    found = decode_chunk(payload, _shapes(entries, pieces))
    return [checked(elements.view(entry.dtype.storage), entry) for elements, entry in zip(found, entries, strict=True)]


def planes_bits(payload: bytes, entries: Sequence[Entry], pieces: Sequence[Piece]) -> list[float]:
    """Bits that each piece takes; errors as for :func:`decode_planes`."""
    return code_lengths(payload, _shapes(entries, pieces))


def whole(payload: bytes, entry: Entry) -> Array:
    """All elements of a tensor that is a chunk by itself, shape of the tensor; raises :class:`CodecError`."""
    if entry.coder == "raw":
        return as_elements(payload, entry)
    # Imported late, because few small files have such tensors.
    from metaq.coding import zstd

    return as_elements(zstd.decompress(payload, entry.restored_bytes), entry)


def as_elements(raw: bytes, entry: Entry) -> Array:
    """The bytes of all elements as an array that cannot be written to; raises :class:`CodecError` if they are wrong."""
    if len(raw) != entry.restored_bytes:
        raise CodecError(f"{len(raw)} bytes were found where {entry.restored_bytes} are needed.")
    return checked(np.frombuffer(raw, dtype=entry.dtype.storage).reshape(entry.shape), entry)


def checked(elements: Array, entry: Entry) -> Array:
    """`elements`, if the type has them all; raises :class:`CodecError` otherwise."""
    if entry.dtype is Dtype.bool and elements.view(np.uint8).max(initial=0) > 1:
        raise CodecError("a truth value is neither 0 nor 1.")
    return elements


def _shapes(entries: Sequence[Entry], pieces: Sequence[Piece]) -> list[ElementShape]:
    return [
        element_shape(entry.dtype, entry.shape, piece.shape.count, piece.shape.row_length)
        for entry, piece in zip(entries, pieces, strict=True)
    ]
