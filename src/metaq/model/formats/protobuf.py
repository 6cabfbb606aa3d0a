"""The wire format of protocol buffers, walked where it lies: nothing is copied or decoded before it is asked for.

After the encoding that protobuf.dev describes; groups, which nothing writes any more, are refused.
"""

from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from metaq.errors import FormatError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}

MAX_VARINT_BYTES = 10
MAX_FIELD_NUMBER = (1 << 29) - 1

MOST_NUMBERS = 1 << 23
"""Of all fields: a file can be nothing but fields of two bytes, of which no patience would see the end."""

MOST_TEXT_BYTES = 1 << 16


class Field(NamedTuple):
    """A field of a message: its value if that is a varint, and else where its bytes are in the file."""

    number: int
    wire: int
    value: int
    start: int
    stop: int


class Wire:
    """The bytes of a file of protocol buffers, `path` in messages.

    Every method raises :class:`FormatError` where the bytes are no such message.
    """

    def __init__(self, data: bytes | mmap, path: Path) -> None:
        self.path = path
        self.size_bytes = len(data)
        self._data = data
        self._left = MOST_NUMBERS

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """Fields of the message in bytes `start` to `stop`, in the order of the file."""
        position = start
        while position < stop:
            tag, position = self._varint(position, stop)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number <= MAX_FIELD_NUMBER:
                raise self.damaged(f"byte {position} begins no field")
            value, size = 0, 0
            if wire == VARINT:
                value, position = self._varint(position, stop)
            elif wire == LENGTH:
                size, position = self._varint(position, stop)
            elif wire in FIXED_BYTES:
                size = FIXED_BYTES[wire]
            else:
                raise self.damaged(f"byte {position} begins no field")
            if size > stop - position:
                raise self.damaged(f"a field at byte {position} of {size} bytes goes beyond the end")
            yield Field(number, wire, value, position, position + size)
            position += size

    def inside(self, field: Field) -> Iterator[Field]:
        """Fields of the message that a field holds."""
        self._require(field, LENGTH)
        return self.fields(field.start, field.stop)

    def integer(self, field: Field) -> int:
        """The value of an int32 or int64, either of which is sent as 64 bits."""
        self._require(field, VARINT)
        return field.value - (1 << 64) if field.value >> 63 else field.value

    def integers(self, field: Field) -> Iterator[int]:
        """Values of repeated integers, as far as this field has them: one, or several that are packed."""
        if field.wire == VARINT:
            yield self.integer(field)
            return
        self._require(field, LENGTH)
        position = field.start
        while position < field.stop:
            value, position = self._varint(position, field.stop)
            yield value - (1 << 64) if value >> 63 else value

    def text(self, field: Field) -> str:
        """A string."""
        self._require(field, LENGTH)
        if field.stop - field.start > MOST_TEXT_BYTES:
            raise self.damaged(f"the name at byte {field.start} has {field.stop - field.start} bytes")
        try:
            return self._data[field.start : field.stop].decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"the name at byte {field.start} is not text") from error

    def damaged(self, reason: str) -> FormatError:
        """The error of a file that is damaged, with the reason in brackets."""
        return FormatError(f"{self.path}: is cut short or damaged ({reason}); copy or make it again.")

    def _require(self, field: Field, wire: int) -> None:
        if field.wire != wire:
            raise self.damaged(f"the field before byte {field.stop} is of another kind than its number says")

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        """A varint, and the position after it."""
        self._left -= 1
        if self._left < 0:
            raise FormatError(f"{self.path}: has more fields than metaq reads, some {MOST_NUMBERS // 2:,}.")
        if position < stop and (byte := self._data[position]) < 0x80:
            return byte, position + 1
        value = 0
        for index in range(min(MAX_VARINT_BYTES, stop - position)):
            byte = self._data[position + index]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value & ((1 << 64) - 1), position + index + 1
        raise self.damaged(f"a number at byte {position} has no end")
