"""Files around tensors: what is left without them, and the same file again."""

from __future__ import annotations

import io
import zlib

import pytest

from metaq.container.templates import Hole, Repair, Template, decode, pieces, places, repair
from metaq.errors import FormatError

SIZES = (3, 5, 0, 2)
FILE = b"ab" + b"11111" + b"cdef" + b"000" + b"g"
TEMPLATE = Template(holes=(Hole(gap=2, number=1), Hole(gap=4, number=0)), repairs=(), rest=b"abcdefg")


def filled(template: Template, elements: dict[int, bytes]) -> bytes:
    stream = io.BytesIO()
    for position, piece in pieces(template, SIZES):
        stream.seek(position)
        stream.write(piece)
    for number, position in places(template, SIZES).items():
        stream.seek(position)
        stream.write(elements[number])
    repair(stream, template)
    return stream.getvalue()


def decoded(data: bytes) -> Template:
    return decode(data, SIZES, source="m.metaq", name="frame:x")


def test_holes_are_filled_where_the_tensors_were():
    again = decoded(TEMPLATE.encode())
    assert again == TEMPLATE
    assert places(again, SIZES) == {1: 2, 0: 11}
    assert filled(again, {0: b"000", 1: b"11111"}) == FILE


def test_checksums_are_those_of_the_filled_file():
    checked = Template(
        holes=(Hole(gap=0, number=0),),
        repairs=(Repair(position=3, start=0, stop=3), Repair(position=7, start=0, stop=7)),
        rest=bytes(8),
    )
    made = filled(decoded(checked.encode()), {0: b"xyz"})
    assert made[3:7] == zlib.crc32(b"xyz").to_bytes(4, "little")
    # The second is of the first, too: they are computed in their order.
    assert made[7:] == zlib.crc32(made[:7]).to_bytes(4, "little")


def test_a_file_without_tensors_is_its_rest():
    plain = Template(holes=(), repairs=(), rest=b"text")
    assert filled(decoded(plain.encode()), {}) == b"text"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (Template(holes=(Hole(gap=0, number=4),), repairs=(), rest=b""), "is missing or fills another"),
        (Template(holes=(Hole(gap=0, number=1),) * 2, repairs=(), rest=b"long enough"), "is missing or fills another"),
        (Template(holes=(Hole(gap=9, number=1),), repairs=(), rest=b"short"), "behind its end"),
        (Template(holes=(), repairs=(Repair(position=2, start=0, stop=1),), rest=b"short"), "behind its end"),
        (Template(holes=(), repairs=(Repair(position=0, start=0, stop=6),), rest=b"short"), "behind its end"),
        (Template(holes=(), repairs=(Repair(position=0, start=0, stop=5),) * 5, rest=b"short"), "times its bytes"),
    ],
)
def test_what_does_not_fit_the_tensors_is_refused(template, reason):
    with pytest.raises(FormatError, match=reason) as caught:
        decoded(template.encode())
    assert "m.metaq" in str(caught.value)


def test_every_truncation_of_the_records_is_refused():
    data = TEMPLATE.encode()
    for length in range(len(data) - len(TEMPLATE.rest)):
        with pytest.raises(FormatError, match="frame:x"):
            decoded(data[:length])


def test_promises_of_many_records_take_no_memory():
    with pytest.raises(FormatError, match="promised"):
        decoded(b"\xff" * 8 + b"\x7f")
