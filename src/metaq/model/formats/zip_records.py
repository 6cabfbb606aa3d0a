"""Where the records of a zip archive lie, and their CRC-32; the records themselves are not read.

After section 4.3 of APPNOTE.TXT 6.3.10 by PKWARE, with 64-bit sizes. Stricter than other readers: an archive that two
readers could take for two different ones is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import IO

from metaq.errors import FormatError
from metaq.model.formats.weight_file import Checksum

LOCAL = Struct("<4s5HL2L2H")
DESCRIPTOR = Struct("<4sL")
CENTRAL = Struct("<4s6H3L5H2L")
LOCATOR = Struct("<4sLQL")
END_64 = Struct("<4sQ2H2L4Q")
END = Struct("<4s4H2LH")

MOST_COMMENT_BYTES = 0xFFFF
MOST_DIRECTORY_BYTES = 1 << 28
"""Of the names and places of the records: some three million of them."""

ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
HAS_DESCRIPTOR = 1 << 3
IS_UTF8 = 1 << 11
STORED = 0
ZIP64 = 1
IN_ZIP64 = 0xFFFFFFFF
"""Of a 32-bit field whose value is in the 64-bit one."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A file in an archive.

    `size` bytes from `start` on are its contents, as they are if `is_stored` and else compressed; uncompressed they are
    `length` bytes. `checksum` is the CRC-32 that the archive claims for them, which PyTorch can leave 0, and
    `checksums` are its places where contents are stored.
    """

    name: str
    start: int
    size: int
    length: int
    is_stored: bool
    checksum: int
    checksums: tuple[Checksum, ...] = ()


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with `head` is a zip archive with records."""
    return head.startswith(b"PK\x03\x04")


def records(path: Path) -> dict[str, Record]:
    """Records of a zip archive by their names, in the order of its directory.

    They lie within the file and do not overlap. Raises :class:`FormatError` if the archive cannot be read or is damaged
    or encrypted, if a name occurs twice, or if there is anything before or after it.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            return records_in(path, stream)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


def records_in(path: Path, stream: IO[bytes]) -> dict[str, Record]:
    """As :func:`records`, of an archive that is open, such as one within another; errors of reading are not caught."""
    directory, start, count = _directory(path, stream)
    entries = list(_entries(path, directory, start))
    if len(entries) != count:
        raise damaged(path, f"it claims {count} records and lists {len(entries)}")
    found: dict[str, Record] = {}
    stops = {}
    for entry in entries:
        name = _name(path, entry)
        if name in found:
            raise FormatError(f"{path}: the record {name!r} occurs twice in the archive; make the file again.")
        found[name], stops[entry.offset] = _located(path, stream, entry, name)
    # The records follow each other, and then comes the directory.
    offsets = sorted(stops)
    if len(offsets) < count or any(stops[offset] > after for offset, after in pairwise([*offsets, start])):
        raise damaged(path, "its records overlap")
    return found


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What the directory says of a record: `position` is that of its crc, and `offset` that of its local header."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    size: int
    length: int
    offset: int
    position: int


def _directory(path: Path, stream: IO[bytes]) -> tuple[bytes, int, int]:
    """The directory, where it starts, and the number of its entries."""
    file_size = stream.seek(0, 2)
    tail_start = max(file_size - MOST_COMMENT_BYTES - END.size - LOCATOR.size - END_64.size, 0)
    tail = _read(path, stream, tail_start, file_size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        raise damaged(path, "its directory is missing")
    _, *disks, count, size, start, comment_size = END.unpack_from(tail, at)
    if at + END.size + comment_size != len(tail):
        raise damaged(path, "something follows the archive")
    locator = at - LOCATOR.size
    if locator >= 0 and tail.startswith(b"PK\x06\x07", locator):
        at = locator - END_64.size
        if at < 0 or LOCATOR.unpack_from(tail, locator)[2] != tail_start + at:
            raise damaged(path, "its directory is not where it claims to be")
        signature, _, _, _, *disks, count, size, start = END_64.unpack_from(tail, at)
        if signature != b"PK\x06\x06":
            raise damaged(path, "its directory is not where it claims to be")
    if disks != [0, 0, count]:
        raise FormatError(f"{path}: is a part of an archive in several files; join them.")
    if start + size != tail_start + at:
        raise damaged(path, "its directory is not where it claims to be")
    if size > MOST_DIRECTORY_BYTES:
        raise FormatError(f"{path}: the directory of the archive takes {size} bytes; {MOST_DIRECTORY_BYTES} are read.")
    return _read(path, stream, start, size), start, count


def _entries(path: Path, directory: bytes, start: int) -> Iterator[_Entry]:
    at = 0
    while at < len(directory):
        if at + CENTRAL.size > len(directory):
            raise damaged(path, "its directory ends within a record")
        signature, _, _, flags, method, _, _, crc, *rest = CENTRAL.unpack_from(directory, at)
        size, length, name_size, extra_size, comment_size, disk, _, _, offset = rest
        name_stop = at + CENTRAL.size + name_size
        stop = name_stop + extra_size + comment_size
        if signature != b"PK\x01\x02" or stop > len(directory) or disk:
            raise damaged(path, "its directory lists what is no record")
        extra = directory[name_stop : name_stop + extra_size]
        length, size, offset = _full(path, [length, size, offset], extra)
        yield _Entry(
            raw_name=directory[at + CENTRAL.size : name_stop],
            flags=flags,
            method=method,
            crc=crc,
            size=size,
            length=length,
            offset=offset,
            position=start + at + 16,
        )
        at = stop


def _full(path: Path, fields: list[int], extra: bytes) -> list[int]:
    """The fields, those that 32 bits cannot hold from the extra fields, where they are in this order."""
    if IN_ZIP64 not in fields:
        return fields
    at = 0
    while at + 4 <= len(extra):
        kind, size = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        at += 4
        if kind == ZIP64 and 8 * fields.count(IN_ZIP64) <= min(size, len(extra) - at):
            long = iter(range(at, at + size, 8))
            return [
                value if value != IN_ZIP64 else int.from_bytes(extra[(i := next(long)) : i + 8], "little")
                for value in fields
            ]
        at += size
    raise damaged(path, "the size of a record is missing")


def _name(path: Path, entry: _Entry) -> str:
    try:
        name = entry.raw_name.decode("utf-8" if entry.flags & IS_UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise damaged(path, f"the name {entry.raw_name!r} of a record is not text") from error
    if "\0" in name:
        raise damaged(path, f"the name {name!r} of a record holds a zero")
    if entry.flags & ENCRYPTED:
        raise FormatError(f"{path}: the record {name!r} is encrypted; unpack the archive and make it again.")
    return name


def _located(path: Path, stream: IO[bytes], entry: _Entry, name: str) -> tuple[Record, int]:
    """The record, and where it ends with its descriptor."""
    header = _read(path, stream, entry.offset, LOCAL.size + len(entry.raw_name))
    signature, _, flags, method, _, _, crc, _, _, name_size, extra_size = LOCAL.unpack_from(header)
    has_descriptor = bool(entry.flags & HAS_DESCRIPTOR)
    if (
        signature != b"PK\x03\x04"
        or header[LOCAL.size :] != entry.raw_name
        or name_size != len(entry.raw_name)
        or method != entry.method
        or bool(flags & HAS_DESCRIPTOR) != has_descriptor
        or crc not in ((entry.crc, 0) if has_descriptor else (entry.crc,))
        or (method == STORED and entry.size != entry.length)
    ):
        raise damaged(path, f"it holds two records {name!r} that differ, or none")
    start = entry.offset + LOCAL.size + name_size + extra_size
    stop = start + entry.size
    positions = [entry.position]
    if not has_descriptor or crc:
        positions.append(entry.offset + 14)
    if has_descriptor:
        # The signature may be missing.
        signature, crc = DESCRIPTOR.unpack(_read(path, stream, stop, DESCRIPTOR.size))
        is_signed = signature == b"PK\x07\x08" and crc == entry.crc
        if not is_signed and int.from_bytes(signature, "little") != entry.crc:
            raise damaged(path, f"the checksums of {name!r} differ")
        positions.append(stop + 4 if is_signed else stop)
        stop = positions[-1] + 4
    sums = tuple(Checksum(position=position, start=start, stop=start + entry.size) for position in positions)
    is_stored = method == STORED
    record = Record(
        name=name,
        start=start,
        size=entry.size,
        length=entry.length,
        is_stored=is_stored,
        checksum=entry.crc,
        checksums=sums if is_stored else (),
    )
    return record, stop


def _read(path: Path, stream: IO[bytes], start: int, size: int) -> bytes:
    if start >= 1 << 63:
        raise damaged(path, "it ends within a record")
    stream.seek(start)
    found = stream.read(size)
    if len(found) != size:
        raise damaged(path, "it ends within a record")
    return found


def damaged(path: Path, reason: str) -> FormatError:
    """The error of an archive that is damaged, for a reason that goes on after "is damaged:"."""
    return FormatError(f"{path}: is a damaged zip archive: {reason}; copy or make it again.")
