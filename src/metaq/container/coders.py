"""The coders a file may name: those of chunks, and those that take one tensor each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.coding import CODERS, CODERS_BY_IDENTIFIER, coder_named, encode_smallest
from metaq.coding.chunks import ChunkCoder, StreamShape
from metaq.coding.context.fast import FastCoder
from metaq.coding.context.small import SmallCoder
from metaq.errors import CodecError

CHUNK_CODERS: dict[str, ChunkCoder] = {coder.name: coder for coder in (SmallCoder(), FastCoder())}
"""Coders of chunks by name."""


def is_chunk_coder(name: str) -> bool:
    """Whether the coder takes several streams at once, and pieces of streams."""
    return name in CHUNK_CODERS


def checked_name(name: str) -> str:
    """`name` itself; raises :class:`ConfigError` if no coder is called so."""
    return name if is_chunk_coder(name) else coder_named(name).name


def identifier_of(name: str) -> int:
    """Number of a coder in files."""
    return CHUNK_CODERS[name].identifier if is_chunk_coder(name) else CODERS[name].identifier


def name_of(identifier: int) -> str | None:
    """Name of the coder with this number, or None if there is none."""
    for coder in CHUNK_CODERS.values():
        if coder.identifier == identifier:
            return coder.name
    return CODERS_BY_IDENTIFIER[identifier].name if identifier in CODERS_BY_IDENTIFIER else None


def encode_chunk(name: str, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape]) -> tuple[bytes, int]:
    """Code `streams`, and say how many bytes of the payload describe the coder's model.

    What is returned has been decoded and compared.

    Raises
    ------
    CodecError
        If the coder cannot hold a stream, or does not restore it.
    """
    if not is_chunk_coder(name):
        (stream,), (shape,) = streams, shapes
        # int64, because the coders of single tensors check symbols before they narrow them.
        _, coded = encode_smallest(
            stream.astype(np.int64), shape.alphabet_size, row_length=shape.row_length, names=(name,)
        )
        return coded.payload, coded.table_bytes
    for stream, shape in zip(streams, shapes, strict=True):
        _check_range(name, stream, shape)
    narrow = [np.ascontiguousarray(stream, dtype=np.int32) for stream in streams]
    payload = CHUNK_CODERS[name].encode_chunk(narrow, shapes)
    restored = CHUNK_CODERS[name].decode_chunk(payload, shapes)
    if not all(np.array_equal(left, right) for left, right in zip(narrow, restored, strict=True)):
        raise CodecError(f"{name}: decoding does not give the symbols back; please report this.")
    return payload, 0


def decode_chunk(name: str, payload: bytes, shapes: Sequence[StreamShape]) -> list[NDArray[np.integer]]:
    """Invert :func:`encode_chunk`; every symbol is within its alphabet.

    Raises
    ------
    CodecError
        If the payload does not decode to streams of these shapes.
    """
    if not is_chunk_coder(name):
        (shape,) = shapes
        symbols = CODERS[name].decode(
            payload, count=shape.count, alphabet_size=shape.alphabet_size, row_length=shape.row_length
        )
        return [symbols]
    streams = CHUNK_CODERS[name].decode_chunk(payload, shapes)
    if [stream.shape for stream in streams] != [(shape.count,) for shape in shapes]:
        raise CodecError(f"{name}: the streams are not of the sizes promised.")
    for stream, shape in zip(streams, shapes, strict=True):
        _check_range(name, stream, shape)
    return list(streams)


def _check_range(name: str, stream: NDArray[np.integer], shape: StreamShape) -> None:
    lowest, highest = int(stream.min()), int(stream.max())
    if lowest < 0 or highest >= shape.alphabet_size:
        raise CodecError(f"{name}: symbols {lowest} to {highest} do not fit an alphabet of {shape.alphabet_size}.")
