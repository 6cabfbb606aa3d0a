"""Zip archives that PyTorch writes, and those within them: records, pickles with their storages, and checksums."""

from __future__ import annotations

import io
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import IO

from metaq.errors import FormatError
from metaq.model.formats.torch_objects import BUILDERS, Storage, StorageView, storage_view
from metaq.model.formats.unpickling import Unpickler
from metaq.model.formats.weight_file import Checksum
from metaq.model.formats.zip_records import Record, records_in

MOST_UNPACKED_BYTES = 1 << 26
MOST_UNPACKED_RATIO = 100
"""Of what the compressed records of an archive take to its size, once it is more than the former."""

PICKLE = "data.pkl"
MOST_PICKLE_BYTES = 1 << 26
"""Of a pickle that is read at once."""


class Window(io.RawIOBase):
    """Bytes `start` to `stop` of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, stop: int) -> None:
        self.file, self.start, self.stop = file, start, stop
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.stop - self.start)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self.file.seek(self.start + self.position)
        data = self.file.read(max(min(len(buffer), self.stop - self.start - self.position), 0))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@dataclass
class Archive:
    """A zip archive in bytes `start` to `stop` of a file; places of its records are places of the file.

    Records in the folder of the first one are named without it. `inner` are archives in records.
    """

    path: Path
    file: IO[bytes]
    start: int
    stop: int
    inner: dict[str, Archive] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = records_in(self.path, Window(self.file, self.start, self.stop))  # type: ignore[arg-type]
        packed_bytes = sum(record.length for record in found.values() if not record.is_stored)
        if packed_bytes > max(MOST_UNPACKED_BYTES, MOST_UNPACKED_RATIO * (self.stop - self.start)):
            raise FormatError(
                f"{self.path}: its compressed records claim to take {packed_bytes} bytes, more than "
                f"{MOST_UNPACKED_RATIO} times the size of the file; save it again with torch.save."
            )
        folder, slash, _ = next(iter(found), "").partition("/")
        root = folder + slash if slash else ""
        self.records = {name.removeprefix(root): self._moved(record) for name, record in found.items()}
        if len(self.records) < len(found):
            raise damaged(self.path, "a record is there in two folders")

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def read(self, name: str) -> bytes:
        """Contents of a record; raises :class:`FormatError` if it is missing or damaged."""
        record = self._record(name)
        self.file.seek(record.start)
        content = self.file.read(record.size)
        if not record.is_stored:
            try:
                # One byte more tells contents that are longer than the archive claims.
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, record.length + 1)
            except zlib.error as error:
                raise damaged(self.path, f"the record {name!r} cannot be unpacked") from error
        # PyTorch can be told to compute no checksums, and writes 0.
        if len(content) != record.length or record.checksum not in (0, zlib.crc32(content)):
            raise damaged(self.path, f"the checksum of the record {name!r} is wrong")
        return content

    def storage(self, name: str) -> Storage:
        """A record as memory of tensors, which is read only if it is compressed."""
        record = self._record(name)
        if record.is_stored:
            return Storage(record.size, start=record.start)
        return Storage(record.length, content=self.read(name))

    def nested(self, name: str) -> Archive:
        """The archive in a record; raises :class:`FormatError` if it is compressed."""
        record = self._record(name)
        if name in self.inner:
            return self.inner[name]
        if not record.is_stored:
            raise FormatError(f"{self.path}: the record {name!r} is compressed; save the file again.")
        self.inner[name] = Archive(self.path, self.file, record.start, record.start + record.size)
        return self.inner[name]

    def load(self, name: str = PICKLE, folder: str = "data") -> object:
        """What :func:`torch.save` or :func:`torch.jit.save` was given, as data; its storages are in a folder.

        Raises :class:`FormatError` if the archive is damaged, or of a machine of the other byte order.
        """
        if "byteorder" in self and self.read("byteorder") != b"little":
            raise big_endian(self.path)
        record = self._record(name)
        if record.length <= MOST_PICKLE_BYTES or not record.is_stored:
            stream: IO[bytes] = io.BytesIO(self.read(name))
        else:
            stream = io.BufferedReader(Window(self.file, record.start, record.start + record.size))  # type: ignore[type-var]
        base = record.start if record.is_stored else None
        unpickler = Unpickler(stream, record.length, base=base, builders=BUILDERS, persistent=self._persistent(folder))
        return loaded(self.path, unpickler)

    def checksums(self, starts: Sequence[int]) -> list[Checksum]:
        """Checksums of the records that hold one of these places of the file, which are sorted; inner ones first."""
        found = [checksum for archive in self.inner.values() for checksum in archive.checksums(starts)]
        for record in self.records.values():
            first = bisect_left(starts, record.start)
            # One that is not computed stays so.
            if record.checksum and first < len(starts) and starts[first] < record.start + record.size:
                found += record.checksums
        return found

    def _record(self, name: str) -> Record:
        if name not in self.records:
            raise damaged(self.path, f"the record {name!r} is missing")
        return self.records[name]

    def _moved(self, record: Record) -> Record:
        if not self.start:
            return record
        checksums = tuple(
            Checksum(position=c.position + self.start, start=c.start + self.start, stop=c.stop + self.start)
            for c in record.checksums
        )
        return replace(record, start=record.start + self.start, checksums=checksums)

    def _persistent(self, folder: str) -> Callable[[object], object]:
        storages: dict[str, Storage] = {}

        def view(identifier: object) -> StorageView:
            if not isinstance(identifier, tuple) or len(identifier) != 5 or identifier[0] != "storage":
                raise UnpicklingError("it refers to what is no storage")
            _, kind, key, _, _ = identifier
            if not isinstance(key, str):
                raise UnpicklingError("it refers to what is no storage")
            if key not in storages:
                storages[key] = self.storage(f"{folder}/{key}")
            return storage_view(storages[key], kind)

        return view


def loaded(path: Path, unpickler: Unpickler) -> object:
    """The next pickle; raises :class:`FormatError` if it is damaged."""
    try:
        return unpickler.load()
    except UnpicklingError as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> FormatError:
    """The error of a file that is damaged, for a reason."""
    return FormatError(f"{path}: is cut short or damaged ({reason}); copy it again.")


def big_endian(path: Path) -> FormatError:
    """The error of a file with the other byte order."""
    return FormatError(
        f"{path}: was saved by a big-endian machine; load it with torch.load on another one, and save it again."
    )
