"""Groups and object headers of HDF5 files: what there is in a file, and how each object is described.

After the HDF5 File Format Specification, version 3.0, sections II.A, III.A.1, III.B, III.D and IV.A. It is read here
because the library of HDF5 crashes or never ends on some damaged files. Groups that keep more than a few links in the
newer way (section III.G), which that library takes only where it is told to, are not read.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO

from metaq.errors import FormatError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 0xFFFFFFFFFFFFFFFF
"""The address of what is not in the file."""

DATASPACE = 0x01
LINK_INFO = 0x02
DATATYPE = 0x03
LINK = 0x06
EXTERNAL = 0x07
LAYOUT = 0x08
FILTERS = 0x0B
ATTRIBUTE = 0x0C
CONTINUED = 0x10
SYMBOLS = 0x11
"""The last of the types of messages, which object headers are made of."""

IS_SHARED = 1 << 1
IS_SOFT = 2

MESSAGE_1 = Struct("<HHB3x")
MESSAGE_2 = Struct("<BHB")
MESSAGE_2_ORDERED = Struct("<BHB2x")
NODE = Struct("<4s2xH16x")
HEAP = Struct("<4s4xQ8xQ")
SYMBOL_NODE = Struct("<4s2xH")
SYMBOL = Struct("<QQL20x")

MOST_BLOCK_BYTES = 1 << 28
MOST_NAME_CHARACTERS = 4096
"""Of a dataset with the groups that it is in, which a chain of groups could make as long as the file."""

SPARE_BYTES = 1 << 20

Messages = dict[int, list[bytes]]
"""Of an object, by their types; those that it shares with others are empty."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds: messages of its `datasets` by name, `ties` of further names to these, `links` to elsewhere."""

    datasets: Mapping[str, Messages]
    ties: Mapping[str, str]
    links: Collection[str]


def contents(path: Path, stream: IO[bytes], start: int, size: int) -> Contents:
    """What the HDF5 file holds that is bytes `start` to `start + size` of the file `path`, opened as `stream`.

    Names are in order. Groups are entered once, by their first names. Raises :class:`FormatError` if the file is
    damaged or written in a way that is not read here.
    """
    file = _File(path, stream, start, size)
    datasets: dict[str, Messages] = {}
    ties: dict[str, str] = {}
    links: list[str] = []
    names: dict[int, str] = {}
    pending = [("", file.root())]
    while pending:
        name, address = pending.pop()
        if address == NOWHERE:
            links.append(name)
        elif address in names:
            if names[address] in datasets:
                ties[name] = names[address]
        else:
            names[address] = name
            messages = file.messages(address)
            if LAYOUT in messages:
                datasets[name] = messages
            inner = [] if LAYOUT in messages else sorted(file.links(messages).items(), reverse=True)
            pending += [(f"{name}/{label}".removeprefix("/"), target) for label, target in inner]
        file.spend(name)
    return Contents(datasets=datasets, ties=ties, links=links)


USER_BLOCKS = tuple(512 << power for power in range(12))
"""Sizes of what programs other than Keras may put before the data."""


class _File:
    """Structures of a file by their addresses.

    In a sound file every byte is part of one structure. So it is an error that they take more than twice the size of
    the file, as those do that lead to each other.
    """

    def __init__(self, path: Path, stream: IO[bytes], start: int, size: int) -> None:
        self._path, self._stream, self._start, self._size = path, stream, start, size
        self._left = 2 * size + SPARE_BYTES
        self._seen: set[int] = set()

    def root(self) -> int:
        """Address of the header of the root group."""
        head = self._read(0, 24)
        version = head[8]
        if not head.startswith(SIGNATURE):
            if any(self._read(block, len(SIGNATURE)) == SIGNATURE for block in USER_BLOCKS if block < self._size):
                raise FormatError(f"{self._path}: has a user block before its HDF5 data; copy these to a file by h5py.")
            raise self._damaged("its signature is missing")
        if version > 3:
            raise FormatError(f"{self._path}: is an HDF5 file of version {version}, which is too new; save it by h5py.")
        sizes, at, root = (head[9:11], 12, 24) if version > 1 else (head[13:15], 24 + 4 * version, 40)
        addresses = self._read(at, root + 8)
        if sizes != b"\x08\x08" or any(addresses[:8]):
            raise FormatError(f"{self._path}: is an HDF5 file with other addresses than usual; save it by h5py.")
        return int.from_bytes(addresses[root:], "little")

    def messages(self, address: int) -> Messages:
        """Messages of the object with its header at `address`."""
        found: Messages = {}
        head = self._read(address, 16)
        is_new = head.startswith(b"OHDR\x02")
        if is_new:
            flags = head[5]
            message = MESSAGE_2_ORDERED if flags & 0x04 else MESSAGE_2
            # Times and limits may come first.
            at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            blocks = [(at + width, int.from_bytes(self._read(at, width), "little"))]
        elif head[0] == 1:
            message = MESSAGE_1
            blocks = [(address + 16, int.from_bytes(head[8:12], "little"))]
        else:
            raise self._damaged("an object is missing")
        for start, size in blocks:
            for kind, content in self._split(self._read(start, size), message):
                found.setdefault(kind, []).append(content)
                if kind == CONTINUED:
                    next_start, next_size = _number(content, 0), _number(content, 8)
                    # In the newer way, blocks have a signature and a checksum.
                    blocks.append((next_start + 4, max(next_size - 8, 0)) if is_new else (next_start, next_size))
        return found

    def links(self, messages: Messages) -> dict[str, int]:
        """Names in the group with these messages, and the addresses of the objects; links to elsewhere have none."""
        found: dict[str, int] = {}
        for raw_name, address in self._links(messages):
            try:
                name = raw_name.decode()
            except UnicodeDecodeError as error:
                raise self._damaged(f"the name {raw_name!r} is not text") from error
            if not name or "/" in name or "\0" in name or name in found:
                raise self._damaged(f"a group holds {name!r} twice, or it is no name")
            found[name] = address
            self.spend(name)
        return found

    def spend(self, name: str) -> None:
        """Count the characters of a name as bytes that are read; raise :class:`FormatError` if there are too many."""
        if len(name) > MOST_NAME_CHARACTERS:
            raise FormatError(f"{self._path}: has a name of more than {MOST_NAME_CHARACTERS} characters; shorten it.")
        self._left -= len(name)
        if self._left < 0:
            raise self._damaged("its structures overlap")

    def _links(self, messages: Messages) -> Iterator[tuple[bytes, int]]:
        for content in messages.get(LINK_INFO, []):
            if _number(content, 10 if content[1:2] and content[1] & 1 else 2) != NOWHERE:
                raise FormatError(
                    f"{self._path}: has groups with many links in a newer way, as h5py writes them with external "
                    "links, track_order, or libver='v108' or later; save it by h5py without these."
                )
        for content in messages.get(LINK, []):
            yield self._link(content)
        for content in messages.get(SYMBOLS, []):
            yield from self._symbols(_number(content, 0), _number(content, 8))

    def _link(self, content: bytes) -> tuple[bytes, int]:
        if len(content) < 4 or content[0] != 1:
            raise self._damaged("a link is none")
        flags = content[1]
        is_hard = not flags & 0x08 or content[2] == 0
        # Kind, order of creation and character set may come first.
        at = 2 + (flags >> 3 & 1) + (8 if flags & 0x04 else 0) + (flags >> 4 & 1)
        width = 1 << (flags & 3)
        stop = at + width + _number(content, at, width)
        return content[at + width : stop], _number(content, stop) if is_hard else NOWHERE

    def _symbols(self, tree: int, heap: int) -> Iterator[tuple[bytes, int]]:
        signature, size, start = HEAP.unpack(self._read(heap, HEAP.size))
        if signature != b"HEAP":
            raise self._damaged("the names of a group are missing")
        names = self._read(start, size)
        nodes = [tree]
        while nodes:
            node = nodes.pop()
            signature, count = SYMBOL_NODE.unpack(self._read(node, SYMBOL_NODE.size))
            if signature == b"TREE":
                # Keys and addresses take turns.
                inner = self._read(node + NODE.size, 16 * count)
                nodes += [_number(inner, at) for at in range(8, len(inner), 16)]
            elif signature == b"SNOD":
                for at, address, kind in SYMBOL.iter_unpack(self._read(node + SYMBOL_NODE.size, SYMBOL.size * count)):
                    stop = names.find(b"\0", at)
                    if stop < 0:
                        raise self._damaged("a name is missing")
                    yield names[at:stop], NOWHERE if kind == IS_SOFT else address
            else:
                raise self._damaged("a part of a group is missing")

    def _split(self, block: bytes, message: Struct) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + message.size <= len(block):
            kind, size, flags = message.unpack_from(block, at)
            start, at = at + message.size, at + message.size + size
            if at > len(block):
                raise self._damaged("an object is cut off")
            yield kind, b"" if flags & IS_SHARED else block[start:at]

    def _read(self, address: int, size: int) -> bytes:
        if address + size > self._size or size > MOST_BLOCK_BYTES:
            raise self._damaged("it is cut off")
        self._left -= size
        if self._left < 0 or (size and address in self._seen):
            raise self._damaged("its structures overlap")
        self._seen.add(address)
        self._stream.seek(self._start + address)
        found = self._stream.read(size)
        if len(found) != size:
            raise self._damaged("it is cut off")
        return found

    def _damaged(self, reason: str) -> FormatError:
        return FormatError(f"{self._path}: is a damaged HDF5 file: {reason}; copy or make it again.")


def _number(content: bytes, at: int, size: int = 8) -> int:
    """Unsigned number of `size` bytes; what is not there is zero, which is the address of no object."""
    return int.from_bytes(content[at : at + size], "little")
