"""How a piece of an exact tensor is stored; docs/format.md has the bytes."""

from dataclasses import dataclass
from enum import IntEnum

from metaq.coding.chunks import StreamShape
from metaq.coding.planes.elements import ElementShape, Turn
from metaq.coding.planes.packing import MAX_WIDTH, packed_bytes
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

MAX_CODED_WIDTH = 16
MAX_CODED_FIELDS = 8
"""Of an element: decoding takes memory for a symbol of each."""

MAX_PALETTE = 1 << 16

TURN_SHIFT, COLUMNS_SHIFT = 2, 4
KIND_SHIFT = 6


class Way(IntEnum):
    """What stands for the elements; values are the numbers written into files."""

    raw = 0
    zstd = 1
    planes = 2
    palette = 3
    """Numbers of elements in a list of different ones."""


class Kind(IntEnum):
    """What is done with a field of bits; values are the numbers written into files."""

    zero = 0
    """All bits of it are zero."""
    raw = 1
    coded = 2


@dataclass(frozen=True)
class Field:
    """`width` bits of every element."""

    kind: Kind
    width: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """The way in which a piece is stored.

    Attributes
    ----------
    way
        What stands for the elements.
    turn, fields
        Of planes: how elements are turned first, and their fields from the highest bits down.
    size
        Bytes of a Zstandard frame, or elements of a palette.
    row_length
        Elements of a row as the coder is told, or None for those of the tensor.
    by_columns
        Whether elements are taken column by column of a matrix with rows of that length.
    """

    way: Way
    turn: Turn = Turn.none
    fields: tuple[Field, ...] = ()
    size: int = 0
    row_length: int | None = None
    by_columns: bool = False

    def to_bytes(self) -> bytes:
        """Bytes that :func:`read_form` reads."""
        first = bytes([self.way | self.turn << TURN_SHIFT | self.by_columns << COLUMNS_SHIFT])
        size = encode_varint(self.size) if self.way in (Way.zstd, Way.palette) else b""
        if self.way in (Way.raw, Way.zstd):
            return first + size
        row_length = encode_varint(0 if self.row_length is None else self.row_length + 1)
        return first + size + row_length + bytes(field.kind << KIND_SHIFT | field.width for field in self.fields)

    def row_of(self, shape: ElementShape) -> int:
        """Elements of a row, or 0."""
        return shape.row_length if self.row_length is None else self.row_length

    @property
    def raw_width(self) -> int:
        """Bits of an element that are kept as they are."""
        return sum(field.width for field in self.fields if field.kind is Kind.raw)

    def body_bytes(self, shape: ElementShape) -> int:
        """Bytes of a piece beside its form and what is coded."""
        return {
            Way.raw: shape.count * shape.itemsize,
            Way.zstd: self.size,
            Way.planes: packed_bytes(shape.count, self.raw_width),
            Way.palette: self.size * shape.itemsize,
        }[self.way]

    def streams(self, shape: ElementShape) -> list[StreamShape]:
        """What is coded."""
        row_length = self.row_of(shape)
        told = shape.count // row_length if self.by_columns else row_length
        alphabets = [1 << field.width for field in self.fields if field.kind is Kind.coded]
        if self.way is Way.palette:
            alphabets = [self.size]
        return [StreamShape(count=shape.count, alphabet_size=each, row_length=told) for each in alphabets]


def read_form(payload: bytes, position: int, shape: ElementShape) -> tuple[Form, int]:
    """The form of a piece that stands at byte `position`, and the byte after it.

    Raises :class:`CodecError` if there is none.
    """
    first, position = _byte(payload, position)
    way = Way(first & 3)
    turn = first >> TURN_SHIFT & 3
    is_plain = way in (Way.raw, Way.zstd)
    if first >> (COLUMNS_SHIFT + 1) or turn > max(Turn) or (way is not Way.planes and turn) or (is_plain and first > 3):
        raise CodecError(f"planes: no form of elements starts with the byte {first}.")
    size = 0
    if way in (Way.zstd, Way.palette):
        size, position = decode_varint(payload, position)
    if way is Way.palette and not 1 <= size <= MAX_PALETTE:
        raise CodecError(f"planes: a palette of {size} elements is not between 1 and {MAX_PALETTE}.")
    if is_plain:
        return Form(way=way, size=size), position
    told, position = decode_varint(payload, position)
    fields: tuple[Field, ...] = ()
    if way is Way.planes:
        fields, position = _read_fields(payload, position, shape.bits)
    form = Form(
        way=way,
        turn=Turn(turn),
        fields=fields,
        size=size,
        row_length=told - 1 if told else None,
        by_columns=bool(first >> COLUMNS_SHIFT),
    )
    row_length = form.row_of(shape)
    if told > shape.count + 1 or (form.by_columns and (row_length == 0 or shape.count % row_length)):
        raise CodecError(f"planes: rows of {row_length} elements do not make a matrix of {shape.count}.")
    return form, position


def _read_fields(payload: bytes, position: int, bits: int) -> tuple[tuple[Field, ...], int]:
    fields: list[Field] = []
    while (left := bits - sum(field.width for field in fields)) > 0:
        byte, position = _byte(payload, position)
        kind, width = byte >> KIND_SHIFT, byte & ((1 << KIND_SHIFT) - 1)
        is_known = kind <= max(Kind) and (kind != Kind.coded or width <= MAX_CODED_WIDTH)
        if not is_known or not 0 < width <= left:
            raise CodecError(f"planes: no field of {left} bits or fewer is described by the byte {byte}.")
        fields.append(Field(Kind(kind), width))
    raw_width = sum(field.width for field in fields if field.kind is Kind.raw)
    coded = sum(field.kind is Kind.coded for field in fields)
    if raw_width > MAX_WIDTH or coded > MAX_CODED_FIELDS:
        raise CodecError(f"planes: {raw_width} bits as they are and {coded} coded fields are too many.")
    return tuple(fields), position


def _byte(payload: bytes, position: int) -> tuple[int, int]:
    if position >= len(payload):
        raise CodecError("planes: the payload ends within the form of a piece.")
    return payload[position], position + 1
