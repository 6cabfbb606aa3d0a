"""Bit strings, most significant bit first, and exponential Golomb numbers in them."""

import numpy as np

from metaq.compiled import Bytes, Integers, compiled, compiled_part
from metaq.errors import CodecError


def bit_lengths(values: Integers) -> Integers:
    """Number of binary digits of every value in ``[0, 2**53)``; 0 for 0."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def pack(values: Integers, widths: Integers) -> bytes:
    """Concatenate `values` (each below ``2**width``) as fields of `widths` bits; zero bits fill the last byte."""
    total_bits = int(widths.sum())
    out = np.zeros((total_bits + 7) // 8, dtype=np.uint8)
    _pack(values, widths, out)
    return out.tobytes()


def exp_golomb(values: Integers, order: int | Integers) -> tuple[Integers, Integers]:
    """Fields and widths of exponential Golomb codes of `values` >= 0, of one order or each of its own.

    With ``x = value + 2**order`` of ``d`` binary digits the code is ``d - order - 1`` zeros and then ``x``.
    """
    shifted = values + (np.int64(1) << order)
    return shifted, 2 * bit_lengths(shifted) - 1 - order


class BitReader:
    """Reads the fields that :func:`pack` writes from bytes a stranger may have made."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = np.frombuffer(data, dtype=np.uint8)
        self._position_bits = 8 * start

    @property
    def bits_left(self) -> int:
        """Bits not read yet."""
        return 8 * len(self._data) - self._position_bits

    def unsigned(self, width: int) -> int:
        """The next field of at most 32 bits; raises :class:`CodecError` if the data end before it does."""
        return int(self.fields(1, width)[0])

    def fields(self, count: int, width: int) -> Integers:
        """The next `count` fields of `width` <= 32 bits each, int64 of shape (count,)."""
        if count * width > self.bits_left:
            raise CodecError(f"{count} fields of {width} bits are promised but only {self.bits_left} bits are left.")
        out = np.empty(count, dtype=np.int64)
        _read_fields(self._data, self._position_bits, width, out)
        self._position_bits += count * width
        return out

    def exp_golomb(self, count: int, order: int) -> Integers:
        """The next `count` exponential Golomb numbers, int64 of shape (count,).

        Raises :class:`CodecError` if the data end before, or a number exceeds 2**32.
        """
        # A number takes a bit at least, so that a short payload cannot ask for a large array.
        if count > self.bits_left:
            raise CodecError(f"{count} numbers are promised but only {self.bits_left} bits are left.")
        out = np.empty(count, dtype=np.int64)
        end = _read_exp_golomb(self._data, self._position_bits, order, out)
        if end < 0:
            raise CodecError("a number is cut off or too large.")
        self._position_bits = int(end)
        return out

    def finish_byte(self) -> int:
        """Skip to the next byte and return its position; the bits skipped must be zero."""
        rest = -self._position_bits % 8
        if rest and self.unsigned(rest):
            raise CodecError("bits between a table and what follows are not zero.")
        return self._position_bits // 8


@compiled
def _pack(values: Integers, widths: Integers, out: Bytes) -> None:
    position = 0
    for index in range(values.size):
        value = values[index]
        for shift in range(widths[index] - 1, -1, -1):
            if shift < 63 and (value >> shift) & 1:
                out[position >> 3] |= np.uint8(0x80 >> (position & 7))
            position += 1


@compiled
def _read_fields(data: Bytes, position: int, width: int, out: Integers) -> None:
    for index in range(out.size):
        value = 0
        for _ in range(width):
            value = value << 1 | (data[position >> 3] >> (7 - (position & 7))) & 1
            position += 1
        out[index] = value


@compiled_part
def read_number(data: Bytes, position: int, end: int, order: int, most_digits: int) -> tuple[int, int]:
    """An exponential Golomb number and the bit after it; that is -1 if `end` comes before or digits are too many."""
    zeros = 0
    while position < end and not (int(data[position >> 3]) >> (7 - (position & 7))) & 1:
        zeros += 1
        position += 1
    digits = zeros + order + 1
    if position + digits > end or digits > most_digits:
        return 0, -1
    value = 0
    for _ in range(digits):
        value = value << 1 | (int(data[position >> 3]) >> (7 - (position & 7))) & 1
        position += 1
    return value - (1 << order), position


@compiled
def _read_exp_golomb(data: Bytes, position: int, order: int, out: Integers) -> int:
    for index in range(out.size):
        out[index], position = read_number(data, position, 8 * data.size, order, 33)
        if position < 0:
            return -1
    return position
