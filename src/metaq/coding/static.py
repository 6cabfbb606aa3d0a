"""Range and ANS coding with a frequency table: the coders of the constriction library.

Both work on 64 bits of state and words of 32 bits. The library turns the masses of a table into 24-bit probabilities:
with n symbols and a cumulated mass c of ``2**k`` the cumulated probability of symbol i is
``floor(c * (2**24 - n) / 2**k) + i``. A mass has 24 bits at most, so that float64 holds every product exactly and all
platforms agree.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from metaq.coding import frequencies
from metaq.coding.frequencies import FrequencyTable
from metaq.coding.interface import CheckedCoder, CodedSymbols
from metaq.errors import CodecError

WORD_BYTES = 4
STATE_BYTES = 8


class TableCoder(CheckedCoder):
    """Payload: a frequency table, then the coder's bytes. One symbol alone needs no bytes after the table."""

    def _encode(self, symbols: NDArray[np.int64], _alphabet_size: int, _row_length: int, /) -> CodedSymbols:
        used, counts = np.unique(symbols, return_counts=True)
        table = frequencies.fit(used, counts.astype(np.int64))
        head = frequencies.to_bytes(table)
        positions = np.searchsorted(used, symbols).astype(np.int32)
        body = b"" if used.size == 1 else self.encode_positions(positions, _model(table))
        return CodedSymbols(payload=head + body, table_bytes=len(head))

    def _decode(self, payload: bytes, count: int, alphabet_size: int, _row_length: int, /) -> NDArray[np.int64]:
        table, start = frequencies.from_bytes(payload, alphabet_size=alphabet_size)
        body = payload[start:]
        if table.symbols.size == 1:
            if body:
                raise CodecError(f"{self.name}: {len(body)} bytes are left over after a table of one symbol.")
            return np.full(count, table.symbols[0], dtype=np.int64)
        model = _model(table)
        try:
            positions = self.decode_positions(body, count, model)
        except (ValueError, AssertionError) as error:
            raise CodecError(f"{self.name}: the coded bytes do not belong to their table ({error}).") from error
        # Other bytes can decode to the same symbols; only what the encoder writes is accepted.
        if self.encode_positions(positions, model) != body:
            raise CodecError(f"{self.name}: the coded bytes are damaged, cut off or too long.")
        return table.symbols[positions]

    @abstractmethod
    def encode_positions(self, positions: NDArray[np.int32], model: object) -> bytes:
        """Code positions in the table, int32 of shape (n,)."""

    @abstractmethod
    def decode_positions(self, data: bytes, count: int, model: object) -> NDArray[np.int32]:
        """Invert :meth:`encode_positions`; damaged data may give anything, a ValueError or an AssertionError."""


class RangeCoder(TableCoder):
    """Range coding. Bytes: the coder's words, big-endian, ending in the shortest tail inside the last interval."""

    name = "range"
    identifier = 4

    def encode_positions(self, positions: NDArray[np.int32], model: object) -> bytes:
        """See :meth:`TableCoder.encode_positions`."""
        import constriction

        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(positions, model)
        data: bytes = encoder.get_compressed().astype(">u4").tobytes()
        settled, (lower, width) = encoder.pos()
        return _shortest_tail(data, WORD_BYTES * settled, int(lower), int(width))

    def decode_positions(self, data: bytes, count: int, model: object) -> NDArray[np.int32]:
        """See :meth:`TableCoder.decode_positions`."""
        words = np.frombuffer(data + bytes(-len(data) % WORD_BYTES), dtype=">u4").astype(np.uint32)
        import constriction

        positions: NDArray[np.int32] = constriction.stream.queue.RangeDecoder(words).decode(model, count)
        return positions


class RansCoder(TableCoder):
    """Asymmetric numeral systems. Bytes: the coder's words, little-endian, without zero bytes at the end."""

    name = "rans"
    identifier = 5

    def encode_positions(self, positions: NDArray[np.int32], model: object) -> bytes:
        """See :meth:`TableCoder.encode_positions`."""
        import constriction

        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(positions, model)
        data: bytes = coder.get_compressed().astype("<u4").tobytes()
        return data.rstrip(b"\0")

    def decode_positions(self, data: bytes, count: int, model: object) -> NDArray[np.int32]:
        """See :meth:`TableCoder.decode_positions`."""
        words = np.frombuffer(data + bytes(-len(data) % WORD_BYTES), dtype="<u4").astype(np.uint32)
        import constriction

        positions: NDArray[np.int32] = constriction.stream.stack.AnsCoder(words).decode(model, count)
        return positions


def _model(table: FrequencyTable) -> object:
    # Dividing by a power of two is exact, and so are all sums of the shares.
    shares = np.ldexp(table.masses.astype(np.float64), -table.precision)
    import constriction

    model: object = constriction.stream.model.Categorical(shares, perfect=False)
    return model


def _shortest_tail(data: bytes, settled_bytes: int, lower: int, width: int) -> bytes:
    """Replace what the coder flushed by the number of fewest bytes in ``[lower, lower + width)``, and below 2**64."""
    for kept in range(STATE_BYTES):
        unit = 1 << (8 * (STATE_BYTES - kept))
        tail = -(-lower // unit) * unit
        # A tail that overflows would carry into the settled bytes.
        if tail - lower < width and tail < 1 << (8 * STATE_BYTES):
            return data[:settled_bytes] + tail.to_bytes(STATE_BYTES, "big")[:kept]
    return data[:settled_bytes] + lower.to_bytes(STATE_BYTES, "big")
