"""Files of PyTorch before 1.6, and pickles of tensors or numpy arrays: pickles, and storages after them.

The former begin with pickles of a magic number, a version and the machine. The next is the object itself, then comes
one of the keys of its storages, and these follow: the number of elements of each in 8 bytes, and its bytes.
"""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO

from metaq.errors import FormatError
from metaq.model.formats.torch_objects import BUILDERS, Storage, itemsize_of, storage_view
from metaq.model.formats.torch_zip import Window, big_endian, damaged, loaded
from metaq.model.formats.unpickling import SkippedBytes, Unpickler

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001
COUNT_BYTES = 8
TAR_POSITION, TAR = 257, b"ustar"
TAR_BLOCK, MOST_MEMBERS = 512, 8
TAR_MEMBERS = frozenset((b"pickle", b"tensors", b"storages"))
"""Of an archive that PyTorch wrote before 0.1.10, among its first few."""


def load(path: Path, file: IO[bytes], size: int) -> object:
    """What a file of so many bytes holds, as data; raises :class:`FormatError` if it is damaged or foreign."""
    file.seek(0)
    head = file.read(TAR_POSITION + len(TAR))
    if head[TAR_POSITION:] == TAR:
        raise FormatError(f"{path}: {_of_tar(file)}.")
    if head[:1] not in (b"\x80", b"(", b"c", b"]", b"}", b"l", b"d"):
        raise FormatError(
            f"{path}: is no model file that metaq knows; give one of PyTorch, safetensors, ONNX, Keras or numpy."
        )

    seen: dict[int, tuple[object, object]] = {}

    def once(content: object) -> object:
        """The same, but read once where a pickle refers to the same bytes many times."""
        if id(content) not in seen:
            seen[id(content)] = (content, nested(content))
        return seen[id(content)][1]

    def nested(content: object) -> object:
        """The storage in bytes that :func:`torch.save` wrote within another pickle."""
        if isinstance(content, bytes):
            return _load(path, io.BytesIO(content), len(content), None, BUILDERS)
        if isinstance(content, SkippedBytes):
            window = Window(file, content.start, content.start + content.size)
            stream: IO[bytes] = io.BufferedReader(window)  # type: ignore[type-var]
            return _load(path, stream, content.size, content.start, BUILDERS)
        raise TypeError("no bytes")

    # Nested ones are read while this file is: through another buffer.
    with path.open("rb") as stream:
        return _load(path, stream, size, 0, {**BUILDERS, "torch.storage._load_from_bytes": once})


def _of_tar(file: IO[bytes]) -> str:
    """What a tar archive is, by the names of its first members."""
    names, position = set[bytes](), 0
    with suppress(ValueError):
        for _ in range(MOST_MEMBERS):
            file.seek(position)
            head = file.read(TAR_BLOCK)
            names.add(head[:100].rstrip(b"\0").removeprefix(b"./"))
            size = int(head[124:136].strip(b"\0 ") or b"0", 8)
            position += TAR_BLOCK - (-size // TAR_BLOCK) * TAR_BLOCK
    if names >= TAR_MEMBERS:
        return "was saved by a version of PyTorch before 0.1.10; load it with torch.load, and save it again"
    return "is a tar archive; unpack it first, and give the model in it"


def _load(
    path: Path, stream: IO[bytes], size: int, base: int | None, builders: dict[str, Callable[..., object]]
) -> object:
    storages = _Storages()
    unpickler = Unpickler(stream, size, base=base, builders=builders, persistent=storages)
    first = loaded(path, unpickler)
    if first != MAGIC_NUMBER:
        return first
    version, machine = loaded(path, unpickler), loaded(path, unpickler)
    if version != VERSION:
        raise damaged(path, "its version is unknown")
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise big_endian(path)
    found = loaded(path, unpickler)
    keys = loaded(path, unpickler)
    for key in keys if isinstance(keys, list) else ():
        storages.read(path, key, stream, size, base)
    return found


class _Storages:
    """Storages by their keys, which pickles refer to before they are found."""

    def __init__(self) -> None:
        self.found: dict[str, Storage] = {}
        self.itemsizes: dict[str, int] = {}

    def __call__(self, identifier: object) -> object:
        """What an identifier refers to: a storage, or a part of one, or the class of a module with its source."""
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]
        if not isinstance(identifier, tuple) or len(identifier) != 6 or identifier[0] != "storage":
            raise UnpicklingError("it refers to what is no storage")
        _, kind, key, _, count, view = identifier
        itemsize = itemsize_of(kind)
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise UnpicklingError("it refers to what is no storage")
        if key not in self.found:
            self.found[key], self.itemsizes[key] = Storage(count * itemsize), itemsize
        start = 0
        if isinstance(view, tuple) and len(view) == 3 and isinstance(view[1], int):
            start = view[1] * itemsize
        return storage_view(self.found[key], kind, start)

    def read(self, path: Path, key: object, stream: IO[bytes], size: int, base: int | None) -> None:
        """Find the place of the next storage of a file, and pass over it."""
        storage = self.found.get(key) if isinstance(key, str) else None
        count = int.from_bytes(stream.read(COUNT_BYTES), "little")
        start = stream.tell()
        if storage is None or count * self.itemsizes[str(key)] != storage.size_bytes:
            raise damaged(path, "a storage is not what is said of it")
        if storage.size_bytes > size - start:
            raise damaged(path, "it ends within a storage")
        if base is None:
            storage.content = stream.read(storage.size_bytes)
        else:
            storage.start = base + start
            stream.seek(storage.size_bytes, 1)
