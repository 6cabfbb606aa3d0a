"""Files around tensors: what is left of a model file without the tensors that lie in it, and how to fill it again.

In a ``.metaq`` file it is an exact uint8 tensor whose name begins with ``frame:``; docs/format.md has the layout.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from metaq.coding.varint import encode_varint
from metaq.container.cursor import Cursor

BLOCK_BYTES = 1 << 20
CHECKSUM_BYTES = 4
MOST_CHECKED = 4
"""Bytes of which checksums are computed over those of the file: archives have two of every record."""


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Where the elements of tensor `number` of the ``.metaq`` file go: `gap` bytes of the rest after the last hole."""

    gap: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A CRC-32 of the filled file's bytes `start` to `stop` that is kept at `position`, four bytes, little-endian."""

    position: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Template:
    """A file without some of its tensors: holes in order, checksums to compute again, and the rest of its bytes."""

    holes: tuple[Hole, ...]
    repairs: tuple[Repair, ...]
    rest: bytes

    def encode(self) -> bytes:
        """Bytes that :func:`decode` reads."""
        numbers = [len(self.holes)]
        for hole in self.holes:
            numbers += [hole.gap, hole.number]
        numbers.append(len(self.repairs))
        for repair in self.repairs:
            numbers += [repair.position, repair.start, repair.stop - repair.start]
        return b"".join(map(encode_varint, numbers)) + self.rest


def decode(data: bytes, sizes: Sequence[int], *, source: str, name: str) -> Template:
    """Read a template; `sizes` are those of all tensors of the ``.metaq`` file `source`, in bytes.

    Raises :class:`FormatError` if it is no template of these tensors: a tensor is missing or fills two holes, or
    checksums are of bytes that the file does not have, or of too many.
    """
    cursor = Cursor(data, source=source, section=f"the frame {name!r}")
    holes: list[Hole] = []
    used: set[int] = set()
    gaps = filled = 0
    for _ in range(_count(cursor, 2)):
        hole = Hole(gap=cursor.varint(), number=cursor.varint())
        if hole.number >= len(sizes) or hole.number in used:
            cursor.refuse(f"tensor {hole.number} is missing or fills another hole")
        used.add(hole.number)
        holes.append(hole)
        gaps += hole.gap
        filled += sizes[hole.number]
    repairs = []
    for _ in range(_count(cursor, 3)):
        position, start = cursor.varint(), cursor.varint()
        repairs.append(Repair(position=position, start=start, stop=start + cursor.varint()))
    if gaps > cursor.left:
        cursor.refuse("its holes lie behind its end")
    size_bytes = cursor.left + filled
    if any(max(repair.position + CHECKSUM_BYTES, repair.stop) > size_bytes for repair in repairs):
        cursor.refuse("a checksum is of bytes behind its end")
    if sum(repair.stop - repair.start for repair in repairs) > MOST_CHECKED * size_bytes:
        cursor.refuse(f"its checksums are of more than {MOST_CHECKED} times its bytes")
    return Template(holes=tuple(holes), repairs=tuple(repairs), rest=cursor.take(cursor.left))


def places(template: Template, sizes: Sequence[int]) -> dict[int, int]:
    """Where every tensor of a hole begins in the filled file, by its number."""
    found = {}
    position = 0
    for hole in template.holes:
        position += hole.gap
        found[hole.number] = position
        position += sizes[hole.number]
    return found


def pieces(template: Template, sizes: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """The rest in pieces, each with its place in the filled file."""
    position = taken = 0
    for hole in template.holes:
        yield position, template.rest[taken : taken + hole.gap]
        taken += hole.gap
        position += hole.gap + sizes[hole.number]
    yield position, template.rest[taken:]


def repair(stream: IO[bytes], template: Template) -> None:
    """Compute the checksums of a filled file, open for reading and writing, in their order."""
    for each in template.repairs:
        value = 0
        stream.seek(each.start)
        for start in range(each.start, each.stop, BLOCK_BYTES):
            value = zlib.crc32(stream.read(min(BLOCK_BYTES, each.stop - start)), value)
        stream.seek(each.position)
        stream.write(value.to_bytes(CHECKSUM_BYTES, "little"))


def _count(cursor: Cursor, numbers: int) -> int:
    """How many records follow, of so many numbers each."""
    count = cursor.varint()
    if count * numbers > cursor.left:
        cursor.refuse(f"{count} records are promised but there are too few bytes")
    return count
