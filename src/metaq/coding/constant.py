"""The coder of streams that hold one symbol each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape, checked_streams
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError


class ConstantCoder:
    """Payload: the symbol of every stream as a varint; see :class:`metaq.coding.chunks.ChunkCoder`."""

    name = "constant"
    identifier = 0

    def encode_chunk(self, streams: Sequence[NDArray[np.integer]], shapes: Sequence[StreamShape]) -> bytes:
        streams = checked_streams("constant", streams, shapes)
        if any(stream.min() != stream.max() for stream in streams):
            raise CodecError("constant: the symbols differ; choose another coder.")
        return b"".join(encode_varint(int(stream[0])) for stream in streams)

    def decode_chunk(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[NDArray[np.int32]]:
        symbols = self._symbols(payload, shapes)
        return [np.full(shape.count, symbol, dtype=np.int32) for symbol, shape in zip(symbols, shapes, strict=True)]

    def code_lengths(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[float]:
        return [8.0 * len(encode_varint(symbol)) for symbol in self._symbols(payload, shapes)]

    def _symbols(self, payload: bytes, shapes: Sequence[StreamShape]) -> list[int]:
        symbols, position = [], 0
        for shape in shapes:
            symbol, position = decode_varint(payload, position)
            if symbol >= shape.alphabet_size:
                raise CodecError(f"constant: symbol {symbol} is outside the alphabet of {shape.alphabet_size}.")
            symbols.append(symbol)
        if position != len(payload):
            raise CodecError(f"constant: {len(payload) - position} bytes are left over at the end.")
        return symbols
