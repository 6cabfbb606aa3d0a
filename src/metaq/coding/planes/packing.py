"""Fields of bits, one an element, without gaps: least significant bit first, in bytes filled from their lowest bit."""

import numpy as np

from metaq.coding.context.fast_kernel import window_at
from metaq.coding.planes.elements import Elements
from metaq.compiled import Bytes, Integers, compiled
from metaq.errors import CodecError

MAX_WIDTH = 56
"""Bits that are at hand from any position."""

BLOCK = 1 << 16
PADDING = 8


def packed_bytes(count: int, width: int) -> int:
    """Bytes that so many fields take."""
    return (count * width + 7) // 8


def pack(values: Elements, width: int) -> bytes:
    """Fields of 1 to ``MAX_WIDTH`` bits; `values` fit them."""
    out = np.zeros(packed_bytes(values.size, width), dtype=np.uint8)
    # A block is whole bytes.
    for start in range(0, values.size, BLOCK):
        _pack(values[start : start + BLOCK].astype(np.int64), width, out[start * width // 8 :])
    return out.tobytes()


def unpack(data: bytes, count: int, width: int, storage: np.dtype[np.unsignedinteger]) -> Elements:
    """Invert :func:`pack`, given ``packed_bytes(count, width)`` bytes, as elements of the type `storage`."""
    rest = -count * width % 8
    if rest and data[-1] >> (8 - rest):
        raise CodecError("planes: the last bits of a plane are not filled up with zeros.")
    padded = np.frombuffer(data + bytes(PADDING), dtype=np.uint8)
    out = np.empty(count, dtype=storage)
    block = np.empty(min(BLOCK, count), dtype=np.int64)
    for start in range(0, count, BLOCK):
        part = block[: count - start]
        _unpack(padded[start * width // 8 :], width, part)
        out[start : start + BLOCK] = part
    return out


@compiled
def _pack(values: Integers, width: int, out: Bytes) -> None:
    held, held_bits, byte = 0, 0, 0
    for index in range(values.size):
        held |= int(values[index]) << held_bits
        held_bits += width
        while held_bits >= 8:
            out[byte] = held & 255
            held >>= 8
            held_bits -= 8
            byte += 1
    if held_bits:
        out[byte] = held & 255


@compiled
def _unpack(data: Bytes, width: int, out: Integers) -> None:
    mask = (1 << width) - 1
    for index in range(out.size):
        out[index] = window_at(data, index * width) & mask
