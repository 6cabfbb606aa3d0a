"""Elements as unsigned integers of 8 to 64 bits, and the ways to turn them before they are cut."""

from dataclasses import dataclass
from enum import IntEnum
from math import prod

import numpy as np
from numpy.typing import NDArray

from metaq.tensors.quantized import Dtype

Elements = NDArray[np.unsignedinteger]
"""Bit patterns: uint8, uint16, uint32 or uint64."""

EXPONENT_BITS = {
    Dtype.float16: 5,
    Dtype.bfloat16: 8,
    Dtype.float32: 8,
    Dtype.float64: 11,
    Dtype.complex64: 8,
    Dtype.complex128: 11,
    Dtype.float8_e4m3fn: 4,
    Dtype.float8_e5m2: 5,
}


@dataclass(frozen=True, kw_only=True)
class ElementShape:
    """What a decoder knows of a tensor, or a piece of one, before it reads the payload.

    Attributes
    ----------
    count
        Number of elements of the type; a complex one counts as two of half its size.
    itemsize
        Bytes of an element: 1, 2, 4 or 8.
    row_length
        Elements of a row of the tensor, or 0 if it has fewer than two dimensions or its rows are cut.
    exponent_bits, is_signed, kernel_length
        Hints for the encoder: bits of the exponent or 0 for integers; whether integers have a sign; elements of a row
        that belong to one index of the second dimension, or 0.
    """

    count: int
    itemsize: int
    row_length: int = 0
    exponent_bits: int = 0
    is_signed: bool = False
    kernel_length: int = 0

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 8 * self.itemsize

    @property
    def storage(self) -> np.dtype[np.unsignedinteger]:
        """Little-endian unsigned type of the elements."""
        return np.dtype(f"<u{self.itemsize}")


def element_shape(dtype: Dtype, shape: tuple[int, ...], count: int, row_length: int) -> ElementShape:
    """Shape of a piece of `count` elements of a tensor of `shape`, in rows of `row_length` elements or 0."""
    parts = 2 if dtype.kind == "complex" else 1
    kernel_length = prod(shape[2:]) if len(shape) > 2 else 0
    return ElementShape(
        count=parts * count,
        itemsize=dtype.itemsize // parts,
        row_length=parts * row_length,
        exponent_bits=EXPONENT_BITS.get(dtype, 0),
        is_signed=dtype.storage.kind == "i",
        kernel_length=parts * kernel_length if kernel_length > 1 else 0,
    )


class Turn(IntEnum):
    """What is done to bit patterns before they are cut; the value is the number written into files."""

    none = 0
    sign_last = 1
    """The highest bit, the sign of a floating number, becomes the lowest; the others move up."""
    sign_flipped = 2
    """The highest bit is inverted, so that signed integers are in order."""


def turned(elements: Elements, turn: Turn) -> Elements:
    """Bit patterns after the turn."""
    top = 8 * elements.dtype.itemsize - 1
    one = elements.dtype.type(1)
    if turn is Turn.sign_last:
        return (elements << one) | (elements >> elements.dtype.type(top))
    return elements ^ (one << elements.dtype.type(top)) if turn is Turn.sign_flipped else elements


def turned_back(elements: Elements, turn: Turn) -> Elements:
    """Invert :func:`turned`."""
    if turn is not Turn.sign_last:
        return turned(elements, turn)
    one, top = elements.dtype.type(1), elements.dtype.type(8 * elements.dtype.itemsize - 1)
    return (elements >> one) | (elements << top)
