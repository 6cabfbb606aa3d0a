"""Grids as bytes: the fewest bytes that give centre, radius and bucket count back bit for bit."""

import struct
from collections.abc import Iterator, Sequence
from decimal import Decimal

from metaq.coding.varint import encode_varint
from metaq.container import layout
from metaq.container.cursor import NEWER, Cursor
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid

FORM_BITS = 4

Form = tuple[int, bytes]
"""Code of a way to write a float, and the bytes."""


def grids_bytes(grids: Sequence[BucketGrid]) -> bytes:
    """`grids` field by field, so that like stands beside like."""
    centers = [_shortest(_float_forms(grid.center)) for grid in grids]
    widths = [_shortest(_width_forms(grid)) for grid in grids]
    forms = bytes(center[0] << FORM_BITS | width[0] for center, width in zip(centers, widths, strict=True))
    counts = b"".join(encode_varint(grid.count) for grid in grids)
    return forms + counts + b"".join(center[1] for center in centers) + b"".join(width[1] for width in widths)


def read_grids(cursor: Cursor, number: int) -> list[BucketGrid]:
    """Invert :func:`grids_bytes` for `number` grids."""
    forms = cursor.take(number)
    counts = [cursor.varint() for _ in forms]
    centers = [_float(cursor, form >> FORM_BITS) for form in forms]
    grids = []
    for form, count, center in zip(forms, counts, centers, strict=True):
        radius = _radius(cursor, form & ((1 << FORM_BITS) - 1), count)
        try:
            grids.append(BucketGrid(center=center, radius=radius, count=count))
        except ConfigError as error:
            cursor.refuse(f"a grid is not valid ({error})")
    return grids


def _shortest(forms: Iterator[Form]) -> Form:
    return min(forms, key=lambda form: len(form[1]))


def _width_forms(grid: BucketGrid) -> Iterator[Form]:
    yield from _float_forms(grid.radius)
    for code, step_code in layout.STEP_CODES.items():
        for found, raw in _rounded_forms(grid.step_size):
            if found == step_code and _radius_of(_value(found, raw), grid.count) == grid.radius:
                yield code, raw


def _float_forms(value: float) -> Iterator[Form]:
    cut = struct.pack(">d", value).rstrip(b"\0")
    yield len(cut), cut
    for code, raw in _rounded_forms(value):
        # Bits, not values: 0.0 and -0.0 are equal but must both come back as they were.
        if struct.pack(">d", _value(code, raw)) == struct.pack(">d", value):
            yield code, raw


def _rounded_forms(value: float) -> Iterator[Form]:
    """`value` in the forms that may round it."""
    for code, letter in ((layout.FLOAT16_CODE, ">e"), (layout.FLOAT32_CODE, ">f")):
        try:
            yield code, struct.pack(letter, value)
        except OverflowError:
            continue
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    number = int("".join(map(str, digits)))
    if isinstance(exponent, int) and -layout.MAX_DECIMAL_PLACES <= exponent <= 0 and number < layout.MAX_DECIMAL_DIGITS:
        yield layout.DECIMAL_CODE, encode_varint(2 * number + sign) + bytes([-exponent])


def _value(code: int, raw: bytes) -> float:
    return _float(Cursor(raw, source="grid", section="float"), code)


def _float(cursor: Cursor, code: int) -> float:
    value: float
    if code <= layout.FLOAT64_BYTES:
        (value,) = struct.unpack(">d", cursor.take(code).ljust(layout.FLOAT64_BYTES, b"\0"))
    elif code == layout.FLOAT16_CODE:
        (value,) = struct.unpack(">e", cursor.take(2))
    elif code == layout.FLOAT32_CODE:
        (value,) = struct.unpack(">f", cursor.take(4))
    elif code == layout.DECIMAL_CODE:
        value = _decimal(cursor)
    else:
        cursor.refuse("a grid is described in an unknown way", advice=NEWER)
    return value


def _decimal(cursor: Cursor) -> float:
    number, is_negative = divmod(cursor.varint(), 2)
    places = cursor.byte()
    if places > layout.MAX_DECIMAL_PLACES or number >= layout.MAX_DECIMAL_DIGITS:
        cursor.refuse("a grid has a decimal number with too many digits")
    value = float(number) / float(10**places)
    return -value if is_negative else value


def _radius(cursor: Cursor, code: int, count: int) -> float:
    if code not in layout.STEP_CODES:
        return _float(cursor, code)
    return _radius_of(_float(cursor, layout.STEP_CODES[code]), count)


def _radius_of(step_size: float, count: int) -> float:
    return step_size * count / 2
