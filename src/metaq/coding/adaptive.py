"""The coder without tables: it learns the stream's statistics, and where in the matrix they hold, as it goes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaq.coding import adaptive_kernel
from metaq.coding.interface import CheckedCoder, CodedSymbols
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

MAX_SYMBOLS_PER_BIT = 2840
"""No decision is predicted with more than 1 - 2**-12, so that a bit of payload holds fewer symbols than this."""


class AdaptiveCoder(CheckedCoder):
    """Context-mixing binary range coding; the best coder here for sparse, trained weights.

    Payload: the most common symbol, the lowest of several, as a varint; then the coded decisions. A symbol is the
    decisions: does it differ from the mode; is it above (only if the alphabet has room on both sides); then its
    distance of d binary digits as ``d - 1`` ones and a zero, and the digits after the first, of which the first three
    are modelled. Each decision is predicted from the symbols to the left and above, how often this row and this column
    left the mode, and what was seen in general.
    """

    name = "adaptive"
    identifier = 9

    def _encode(self, symbols: NDArray[np.int64], alphabet_size: int, row_length: int, /) -> CodedSymbols:
        used, counts = np.unique(symbols, return_counts=True)
        mode = int(used[counts.argmax()])
        head = encode_varint(mode)
        row_length = _usable(row_length, symbols.size)
        model = adaptive_kernel.new_model(row_length)
        body = adaptive_kernel.encode(symbols - mode, row_length, mode > 0, mode + 1 < alphabet_size, model)
        return CodedSymbols(payload=head + body.tobytes(), table_bytes=len(head))

    def _decode(self, payload: bytes, count: int, alphabet_size: int, row_length: int, /) -> NDArray[np.int64]:
        mode, start = decode_varint(payload, 0)
        if mode >= alphabet_size:
            raise CodecError(f"adaptive: the mode {mode} is outside the alphabet of {alphabet_size}.")
        data = np.frombuffer(payload, dtype=np.uint8)[start:]
        if count > MAX_SYMBOLS_PER_BIT * (8 * data.size + 9):
            raise CodecError(f"adaptive: {data.size} bytes cannot hold {count} symbols.")
        residuals = np.zeros(count, dtype=np.int64)
        row_length = _usable(row_length, count)
        model = adaptive_kernel.new_model(row_length)
        sound = adaptive_kernel.decode(data, row_length, mode > 0, mode + 1 < alphabet_size, model, residuals)
        if not sound:
            raise CodecError("adaptive: the coded bytes are damaged, cut off or too long.")
        return residuals + mode


def _usable(row_length: int, count: int) -> int:
    # A row as long as the stream has nothing above it.
    return row_length if row_length < count else 0
