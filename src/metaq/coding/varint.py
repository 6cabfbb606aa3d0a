"""Variable-length unsigned integers: seven bits a byte, least significant first, the top bit set while more follow."""

from metaq.errors import CodecError

MAX_BITS = 63
"""Larger numbers are refused, so that every value fits an int64."""


def encode_varint(value: int) -> bytes:
    """Shortest form of `value`, which must be in ``[0, 2**63)``.

    Examples
    --------
    >>> encode_varint(300).hex()
    'ac02'
    """
    if not 0 <= value < 1 << MAX_BITS:
        raise CodecError(f"varint: {value} is not between 0 and 2**{MAX_BITS}.")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, position: int) -> tuple[int, int]:
    """Number that starts at byte `position`, and the position after it.

    Raises :class:`CodecError` if the data end inside the number, it exceeds 63 bits, or it is longer than needed.
    """
    value = 0
    for index in range((MAX_BITS + 6) // 7):
        if position + index >= len(data):
            raise CodecError(f"byte {position}: the data end inside a number.")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise CodecError(f"byte {position}: a number is longer than needed.")
            return value, position + index + 1
    raise CodecError(f"byte {position}: a number has more than {MAX_BITS} bits.")
