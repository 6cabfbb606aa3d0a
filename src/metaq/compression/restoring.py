"""A ``.metaq`` file made of a folder as that folder again: checked names, streamed tensors, all of it or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from metaq import container
from metaq.config import require
from metaq.container import Contents, Entry, carried
from metaq.errors import ConfigError, FormatError, OutputError
from metaq.files import PREFIX, SUFFIX, output_error, umask, write_atomically
from metaq.model.folder import INDEX, MAX_ALL_BYTES, MAX_FILE_BYTES, MAX_FILES, SHARD, WEIGHTS, holds_weights
from metaq.model.stored import LENGTH_BYTES, NAMES
from metaq.progress import NoProgress, Progress
from metaq.tensors.quantized import Dtype

ALIGNMENT = 8
METADATA = "__metadata__"
MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, kw_only=True)
class RestoredFolder:
    """Paths in the restored folder, bytes of its tensors, and their number of elements."""

    files: tuple[str, ...]
    float_bytes: int
    weights: int


def holds_folder(path: Path) -> bool:
    """Whether a ``.metaq`` file was made of a folder; raises :class:`FormatError` if it is none at all."""
    return carried.is_folder(container.describe(path).metadata)


def restore_folder(
    source: Path,
    out: Path,
    *,
    force: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    only_files: bool = False,
    progress: Progress | None = None,
) -> RestoredFolder:
    """Restore a folder: it is there in full, or not at all.

    Memory is that of :func:`metaq.container.stream`.

    Parameters
    ----------
    source
        A ``.metaq`` file that was made of a folder.
    out
        The folder to make.
    force
        Whether one that is there is replaced. It must hold nothing but files that are written again, or weights.
    max_shard_bytes
        Most bytes of the tensors of a weight file, unless a single one has more.
    only_files
        Whether the weights are left out.
    progress
        Shows how far it is.

    Raises
    ------
    ConfigError
        If `out` is there and must not be replaced.
    FormatError
        If the file is damaged or foreign, was not made of a folder, or has files that no folder could have given it.
    OutputError
        If the folder cannot be written.
    """
    contents = container.describe(source)
    if not carried.is_folder(contents.metadata):
        raise FormatError(f"{source}: was not made of a folder; restore it as a .safetensors or .pth file.")
    files, tensors = _split(contents)
    _check_files(source, files)
    tensors = [] if only_files else tensors
    if out.exists() or out.is_symlink():
        _check_replaceable(out, [carried.path_of(entry.name) for entry in files], force=force)
    _check_space(out, sum(entry.restored_bytes for entry in (*files, *tensors)))
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=out.parent))
        _write_files(source, temporary, files)
        if tensors:
            _write_weights(source, temporary, tensors, max_shard_bytes, progress or NoProgress())
        temporary.chmod(0o777 & ~umask())
        _put_in_place(temporary, out)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise output_error(out, error) from error
        raise
    return RestoredFolder(
        files=tuple(sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())),
        float_bytes=sum(entry.restored_bytes for entry in tensors),
        weights=sum(entry.count for entry in tensors),
    )


def restore_safetensors(source: Path, out: Path, *, progress: Progress | None = None) -> None:
    """Restore the tensors of a ``.metaq`` file, without the files that it carries, as one safetensors file.

    Tied tensors are written one by one. Memory is that of :func:`metaq.container.stream`. Raises :class:`ConfigError`
    if safetensors cannot hold one of the tensors, :class:`FormatError` if the file is damaged or foreign, and
    :class:`OutputError` if `out` cannot be written.
    """
    entries = _split(container.describe(source))[1]
    for entry in entries:
        reason = _refusal(entry)
        require(reason is None, f"{out}: {entry.name}: {reason}; end the name in .pth.")

    def write(stream: IO[bytes]) -> None:
        _fill({stream: entries}, source, progress or NoProgress())
        stream.seek(0, os.SEEK_END)

    write_atomically(out, write)


def _split(contents: Contents) -> tuple[list[Entry], list[Entry]]:
    """Carried files, and tensors."""
    files: list[Entry] = []
    tensors: list[Entry] = []
    for entry in contents.entries:
        (files if carried.is_carried(entry.name, contents.metadata) else tensors).append(entry)
    return files, tensors


def _check_files(source: Path, files: Sequence[Entry]) -> None:
    """Refuse what :func:`metaq.model.folder.carried_files` would never have carried."""
    taken: set[str] = set()
    for entry in files:
        path = carried.path_of(entry.name)
        if not carried.is_safe_path(path) or path in (WEIGHTS, INDEX) or SHARD.fullmatch(path) or holds_weights(path):
            raise _refused(source, entry, "has a name that is not safe here")
        if entry.dtype is not Dtype.uint8 or len(entry.shape) != 1 or entry.grid is not None:
            raise _refused(source, entry, "is no run of bytes")
        # Some systems do not tell upper from lower case.
        parts = path.lower().split("/")
        above = {"/".join(parts[:depth]) + "/" for depth in range(1, len(parts))}
        own = "/".join(parts)
        if own in taken or own + "/" in taken or any(folder.removesuffix("/") in taken for folder in above):
            raise _refused(source, entry, "has the name of another")
        taken |= {own, *above}
    sizes = [entry.restored_bytes for entry in files]
    if len(files) > MAX_FILES or sum(sizes) > MAX_ALL_BYTES or max(sizes, default=0) > MAX_FILE_BYTES:
        raise FormatError(f"{source}: carries more files, or larger ones, than any folder gives; it is not restored.")


def _refused(source: Path, entry: Entry, reason: str) -> FormatError:
    return FormatError(f"{source}: the carried file {carried.path_of(entry.name)!r} {reason}; nothing was restored.")


def _check_replaceable(out: Path, files: Sequence[str], *, force: bool) -> None:
    if not force:
        raise ConfigError(f"{out}: exists already; give --force to replace it, or another output.")
    if not out.is_dir() or out.is_symlink():
        raise ConfigError(f"{out}: is no folder; choose another output.")
    written = {*files, WEIGHTS, INDEX}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if (path.is_file() or path.is_symlink()) and name not in written and not SHARD.fullmatch(name):
            raise ConfigError(f"{out}: holds {name}, which would be lost; take it away or choose another output.")


def _check_space(out: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise output_error(out, error) from error
    if needed > free:
        raise OutputError(f"{out}: needs {needed:,} bytes where {free:,} are free; free some or choose another place.")


def _write_files(source: Path, folder: Path, files: Sequence[Entry]) -> None:
    for entry, tensor in container.stream(source, names=[entry.name for entry in files]):
        path = folder / carried.path_of(entry.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            stream.write(tensor.restore().tobytes())
            stream.flush()
            os.fsync(stream.fileno())


def _write_weights(
    source: Path, folder: Path, entries: Sequence[Entry], max_shard_bytes: int, progress: Progress
) -> None:
    """Write weight files, each of at most `max_shard_bytes` of tensors, unless a single one has more.

    Raises :class:`FormatError` if safetensors has no such element type.
    """
    for entry in entries:
        reason = _refusal(entry)
        if reason is not None:
            raise FormatError(f"{entry.name}: {reason}; restore it as .pth.")
    shards = _named(_shared_out(entries, max_shard_bytes))
    if len(shards) > 1:
        weight_map = {entry.name: name for name, held in shards.items() for entry in held}
        total_bytes = sum(entry.restored_bytes for entry in entries)
        index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    with ExitStack() as opened:
        streams: dict[IO[bytes], list[Entry]] = {
            opened.enter_context((folder / name).open("wb")): held for name, held in shards.items()
        }
        _fill(streams, source, progress)
        for stream in streams:
            stream.flush()
            os.fsync(stream.fileno())


def _fill(streams: Mapping[IO[bytes], Sequence[Entry]], source: Path, progress: Progress) -> None:
    """Write safetensors files, each of some tensors of `source`, one tensor after the other."""
    places: dict[str, tuple[IO[bytes], int]] = {}
    for stream, entries in streams.items():
        # Wider types first, so that every element lies at a multiple of its size.
        ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))
        head, offsets = _head_of(ordered)
        stream.write(head)
        places |= {entry.name: (stream, len(head) + offset) for entry, offset in zip(ordered, offsets, strict=True)}
    progress.stage("restoring", sum(entry.restored_bytes for entries in streams.values() for entry in entries))
    for entry, tensor in container.stream(source, names=places, is_writable=False):
        stream, offset = places[entry.name]
        stream.seek(offset)
        stream.write(np.ascontiguousarray(tensor.restore()).reshape(-1).view(np.uint8).data)
        progress.advance(entry.restored_bytes)
        # Nothing may hold a tensor while the next one is restored.
        del tensor


def _shared_out(entries: Sequence[Entry], max_shard_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    held = 0
    for entry in entries:
        if shards[-1] and held + entry.restored_bytes > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(entry)
        held += entry.restored_bytes
    return shards


def _named(shards: Sequence[list[Entry]]) -> dict[str, list[Entry]]:
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    stem = WEIGHTS.removesuffix(".safetensors")
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, start=1)
    }


def _refusal(entry: Entry) -> str | None:
    """Why safetensors cannot hold a tensor, or None if it can."""
    if entry.dtype not in NAMES:
        return f"safetensors files cannot hold {entry.dtype.name}"
    return "safetensors files cannot hold a tensor of that name" if entry.name == METADATA else None


def _head_of(entries: Sequence[Entry]) -> tuple[bytes, list[int]]:
    """All of a file before the elements, and where those of every tensor begin after it."""
    described: dict[str, object] = {METADATA: {"format": "pt"}}
    offsets = []
    position = 0
    for entry in entries:
        end = position + entry.restored_bytes
        described[entry.name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        offsets.append(position)
        position = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, offsets


def _put_in_place(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    # The old folder is out of the way for a moment, and back if the new one cannot take its place.
    old = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=".old", dir=out.parent))
    out.rename(old / out.name)
    try:
        temporary.rename(out)
    except OSError:
        (old / out.name).rename(out)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)
