"""Fixed-width fields over the range that a stream uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import BitReader, pack
from metaq.coding.interface import CheckedCoder, CodedSymbols
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

MAX_WIDTH = 31


class PackedCoder(CheckedCoder):
    """Payload: lowest symbol (varint), width in bits (byte), then every symbol minus the lowest in that width."""

    name = "packed"
    identifier = 2

    def _encode(self, symbols: NDArray[np.int64], _alphabet_size: int, _row_length: int, /) -> CodedSymbols:
        lowest = int(symbols.min())
        width = (int(symbols.max()) - lowest).bit_length()
        head = encode_varint(lowest) + bytes([width])
        body = pack(symbols - lowest, np.full(symbols.size, width, dtype=np.int64))
        return CodedSymbols(payload=head + body, table_bytes=len(head))

    def _decode(self, payload: bytes, count: int, alphabet_size: int, _row_length: int, /) -> NDArray[np.int64]:
        lowest, position = decode_varint(payload, 0)
        if position == len(payload) or payload[position] > MAX_WIDTH or lowest >= alphabet_size:
            raise CodecError("packed: the lowest symbol or the width is missing or out of range.")
        reader = BitReader(payload, position + 1)
        symbols = reader.fields(count, payload[position])
        reader.finish()
        return symbols + lowest
