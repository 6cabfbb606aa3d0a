"""The coder of streams that hold one symbol only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaq.coding.interface import CheckedCoder, CodedSymbols
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError


class ConstantCoder(CheckedCoder):
    """Payload: the symbol as a varint."""

    name = "constant"
    identifier = 1

    def _encode(self, symbols: NDArray[np.int64], _alphabet_size: int, _row_length: int, /) -> CodedSymbols:
        if int(symbols.min()) != int(symbols.max()):
            raise CodecError("constant: the symbols differ; choose another coder, or auto.")
        payload = encode_varint(int(symbols[0]))
        return CodedSymbols(payload=payload, table_bytes=len(payload))

    def _decode(self, payload: bytes, count: int, alphabet_size: int, _row_length: int, /) -> NDArray[np.int64]:
        symbol, end = decode_varint(payload, 0)
        if end != len(payload):
            raise CodecError(f"constant: {len(payload) - end} bytes are left over at the end.")
        if symbol >= alphabet_size:
            raise CodecError(f"constant: symbol {symbol} is outside the alphabet of {alphabet_size}.")
        return np.full(count, symbol, dtype=np.int64)
