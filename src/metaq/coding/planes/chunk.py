"""Pieces of exact tensors in, one payload out, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import ChunkCoder, StreamShape
from metaq.coding.context.fast import FastCoder
from metaq.coding.context.small import DEEP_SYMBOLS, SmallCoder
from metaq.coding.planes.elements import Elements, ElementShape, turned, turned_back
from metaq.coding.planes.form import Form, Kind, Way, read_form
from metaq.coding.planes.packing import pack, unpack
from metaq.errors import CodecError

SMALL, FAST = SmallCoder(), FastCoder()
CODERS: dict[int, ChunkCoder] = {coder.identifier: coder for coder in (SMALL, FAST)}

NO_CODER = 0
"""In place of the number of a coder where nothing is coded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """A piece in a form: what stands for it beside what is coded, and the symbols that are."""

    form: Form
    body: bytes
    symbols: Sequence[NDArray[np.int32]] = ()


def in_form(elements: Elements, shape: ElementShape, form: Form) -> Coded:
    """`elements`, of shape (n,), as planes or by a palette of all different ones in the order of their bits."""
    if form.by_columns:
        elements = np.ascontiguousarray(elements.reshape(-1, form.row_of(shape)).T).reshape(-1)
    if form.way is Way.raw:
        return Coded(form=form, body=elements.tobytes())
    if form.way is Way.palette:
        palette, numbers = np.unique(elements, return_inverse=True)
        return Coded(form=form, body=palette.tobytes(), symbols=[numbers.reshape(-1).astype(np.int32)])
    keys = turned(elements, form.turn)
    raw = np.zeros_like(keys)
    symbols: list[NDArray[np.int32]] = []
    shift = shape.bits
    for field in form.fields:
        shift -= field.width
        if field.kind is Kind.zero:
            continue
        part = (keys >> keys.dtype.type(shift)) & keys.dtype.type((1 << field.width) - 1)
        if field.kind is Kind.coded:
            symbols.append(part.astype(np.int32))
        else:
            raw = (raw << keys.dtype.type(field.width)) | part
    return Coded(form=form, body=pack(raw, form.raw_width) if form.raw_width else b"", symbols=symbols)


def encode_chunk(pieces: Sequence[Coded], shapes: Sequence[ElementShape], *, is_small: bool) -> bytes:
    """Payload of pieces with their shapes.

    What is coded is coded by ``fast``, or, if the file `is_small` and it is little, by ``small`` where that is smaller.
    On large tensors ``small`` finds no more in exponents, bytes and their halves, in many times as long.
    """
    head = b"".join(piece.form.to_bytes() for piece in pieces) + b"".join(piece.body for piece in pieces)
    symbols = [stream for piece in pieces for stream in piece.symbols]
    if not symbols:
        return bytes([NO_CODER]) + head
    streams = [stream for piece, shape in zip(pieces, shapes, strict=True) for stream in piece.form.streams(shape)]
    is_little = sum(stream.count for stream in streams) <= DEEP_SYMBOLS
    coders: list[ChunkCoder] = [FAST, SMALL] if is_small and is_little else [FAST]
    return min((bytes([each.identifier]) + head + each.encode_chunk(symbols, streams) for each in coders), key=len)


def decode_chunk(payload: bytes, shapes: Sequence[ElementShape]) -> list[Elements]:
    """Elements of every piece, of shape (n,) each. The payload may come from a stranger.

    Raises :class:`CodecError` if it is damaged.
    """
    parts = _Parts(payload, shapes)
    coded = parts.coder.decode_chunk(parts.code, parts.streams) if parts.coder else []
    symbols = iter(coded)
    return [
        _elements(form, shape, body, list(islice(symbols, len(form.streams(shape)))))
        for form, shape, body in zip(parts.forms, shapes, parts.bodies, strict=True)
    ]


def code_lengths(payload: bytes, shapes: Sequence[ElementShape]) -> list[float]:
    """Bits that each piece takes, all but the byte of the coder; errors as for :func:`decode_chunk`."""
    parts = _Parts(payload, shapes)
    coded = iter(parts.coder.code_lengths(parts.code, parts.streams) if parts.coder else [])
    return [
        8.0 * (len(form.to_bytes()) + len(body)) + sum(islice(coded, len(form.streams(shape))))
        for form, shape, body in zip(parts.forms, shapes, parts.bodies, strict=True)
    ]


class _Parts:
    """What stands where in a payload."""

    def __init__(self, payload: bytes, shapes: Sequence[ElementShape]) -> None:
        if not payload:
            raise CodecError("planes: the payload is empty.")
        position = 1
        self.forms: list[Form] = []
        self.bodies: list[bytes] = []
        self.streams: list[StreamShape] = []
        for shape in shapes:
            form, position = read_form(payload, position, shape)
            self.forms.append(form)
            self.streams += form.streams(shape)
        for form, shape in zip(self.forms, shapes, strict=True):
            size = form.body_bytes(shape)
            if size > len(payload) - position:
                raise CodecError(f"planes: {size} bytes are promised but only {len(payload) - position} are left.")
            self.bodies.append(payload[position : position + size])
            position += size
        self.coder = CODERS.get(payload[0])
        self.code = payload[position:]
        if (self.coder is None) != (not self.streams) or (self.coder is None and payload[0] != NO_CODER):
            raise CodecError(f"planes: {len(self.streams)} coded fields do not go with the coder {payload[0]}.")
        if not self.streams and self.code:
            raise CodecError(f"planes: {len(self.code)} bytes are left over at the end.")


def _elements(form: Form, shape: ElementShape, body: bytes, symbols: list[NDArray[np.int32]]) -> Elements:
    if form.way is Way.raw:
        return np.frombuffer(body, dtype=shape.storage)
    if form.way is Way.zstd:
        return np.frombuffer(_unpacked(body, shape), dtype=shape.storage)
    if form.way is Way.palette:
        elements = np.frombuffer(body, dtype=shape.storage)[symbols[0]]
    else:
        elements = turned_back(_keys(form, shape, body, symbols), form.turn)
    if form.by_columns:
        return np.ascontiguousarray(elements.reshape(form.row_of(shape), -1).T).reshape(-1)
    return elements


def _unpacked(body: bytes, shape: ElementShape) -> bytes:
    # Imported late, because few small files have such tensors.
    from metaq.coding import zstd

    size_bytes = shape.count * shape.itemsize
    raw = zstd.decompress(body, size_bytes)
    if len(raw) != size_bytes:
        raise CodecError(f"planes: {len(raw)} bytes were found where {size_bytes} are needed.")
    return raw


def _keys(form: Form, shape: ElementShape, body: bytes, symbols: list[NDArray[np.int32]]) -> Elements:
    raw_left = form.raw_width
    raw = unpack(body, shape.count, raw_left, shape.storage) if raw_left else np.zeros(0, dtype=shape.storage)
    keys = np.zeros(shape.count, dtype=shape.storage)
    number = shape.storage.type
    coded = iter(symbols)
    shift = shape.bits
    for field in form.fields:
        shift -= field.width
        if field.kind is Kind.coded:
            keys |= next(coded).astype(shape.storage) << number(shift)
        elif field.kind is Kind.raw:
            raw_left -= field.width
            keys |= ((raw >> number(raw_left)) & number((1 << field.width) - 1)) << number(shift)
    return keys
