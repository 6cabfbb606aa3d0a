"""A ``.metaq`` file as the folder or file that it was made of: checked names, streamed tensors, all or nothing."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from metaq import container
from metaq.config import require
from metaq.container import Contents, Entry, carried
from metaq.container.templates import Template, decode, pieces, places, repair
from metaq.errors import ConfigError, FormatError, OutputError
from metaq.files import PREFIX, SUFFIX, output_error, umask, write_atomically
from metaq.model.folder import (
    INDEX,
    MAX_ALL_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    SHARD,
    WEIGHTS,
    holds_weights,
)
from metaq.model.formats.forms import without_number
from metaq.model.formats.safetensors_file import LENGTH_BYTES, METADATA, NAMES, USUAL_METADATA
from metaq.progress import NoProgress, Progress
from metaq.tensors.quantized import Dtype

ALIGNMENT = 8
MAX_SHARD_BYTES = 5_000_000_000

Place = tuple[Entry, IO[bytes], int]
"""Where a tensor goes: a file and the place of its first byte there."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Paths that were written, in the folder if it is one, bytes of the tensors, and their number of elements."""

    files: tuple[str, ...]
    float_bytes: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Where what is in a ``.metaq`` file goes: whole files, templates by path, and tensors to a file written anew."""

    contents: Contents
    files: tuple[Entry, ...]
    frames: dict[str, Template]
    tensors: tuple[Entry, ...]

    @property
    def sizes(self) -> list[int]:
        """Bytes of all tensors of the file, by their numbers."""
        return [entry.restored_bytes for entry in self.contents.entries]

    def restored(self, files: Iterable[str]) -> Restored:
        """What is told of these files."""
        entries = [
            entry for entry in self.contents.entries if not carried.is_carried(entry.name, self.contents.metadata)
        ]
        return Restored(
            files=tuple(sorted(files)),
            float_bytes=sum(entry.restored_bytes for entry in entries),
            weights=sum(entry.count for entry in entries),
        )


def origin(path: Path) -> str | None:
    """What a ``.metaq`` file was made of: the name of a file that is more than its tensors, or ``"a folder"``; None for
    a state dict. Raises :class:`FormatError` if it is no ``.metaq`` file.
    """
    return origin_of(container.describe(path).metadata)


def has_parts(path: Path) -> bool:
    """Whether a ``.metaq`` file was made of several that belong together, such as an ONNX file and its weights."""
    contents = container.describe(path)
    frames = [entry for entry in contents.entries if entry.name.startswith(carried.FRAME)]
    return carried.FILE in contents.metadata and len(frames) > 1


def origin_of(metadata: Mapping[str, object]) -> str | None:
    """The same of a file with this metadata."""
    if carried.is_folder(metadata):
        return "a folder"
    return str(metadata[carried.FILE]) if carried.FILE in metadata else None


def restore_folder(
    source: Path,
    out: Path,
    *,
    force: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    only_files: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Restore a folder, or a file with others beside it, into a folder: it is there in full, or not at all.

    Memory is that of :func:`metaq.container.stream`, and what is left of weight files without their tensors.

    Parameters
    ----------
    source
        A ``.metaq`` file that was made of a folder, or of a file that is more than its tensors.
    out
        The folder to make.
    force
        Whether one that is there is replaced. It must hold nothing but files that are written again, or weights.
    max_shard_bytes
        Most bytes of the tensors of a weight file that is written anew, unless a single one has more.
    only_files
        Whether the weights are left out.
    progress
        Shows how far it is.

    Raises
    ------
    ConfigError
        If `out` is there and must not be replaced.
    FormatError
        If the file is damaged or foreign, was made of a state dict, or has files that no folder could have given it.
    OutputError
        If the folder cannot be written.
    """
    plan = _planned(source)
    frames = {} if only_files else plan.frames
    tensors = () if only_files else plan.tensors
    written = [carried.path_of(entry.name) for entry in plan.files] + list(plan.frames)
    weights = str(plan.contents.metadata.get(carried.WEIGHTS, WEIGHTS))
    if out.exists() or out.is_symlink():
        _check_replaceable(out, [*written, weights], force=force)
    sizes = plan.sizes
    needed = sum(entry.restored_bytes for entry in (*plan.files, *tensors))
    needed += sum(
        len(template.rest) + sum(sizes[hole.number] for hole in template.holes) for template in frames.values()
    )
    _check_space(out, needed)
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=out.parent))
        _write_files(source, temporary, plan.files)
        with ExitStack() as opened:
            streams = {path: opened.enter_context(_created(temporary / path)) for path in frames}
            places = _framed(plan, streams)
            if tensors:
                places += _anew(temporary, tensors, weights, max_shard_bytes, opened)
            _fill(places, source, progress or NoProgress())
            for path, template in frames.items():
                repair(streams[path], template)
            _flush({stream for _, stream, _ in places} | set(streams.values()))
        temporary.chmod(0o777 & ~umask())
        _put_in_place(temporary, out)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise output_error(out, error) from error
        raise
    return plan.restored(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def restore_file(source: Path, out: Path, *, progress: Progress | None = None) -> Restored:
    """Restore the file that a ``.metaq`` file was made of, around its tensors, atomically; an older one is replaced.

    Memory as for :func:`restore_folder`. Raises :class:`ConfigError` if others belong beside it, so that a folder is
    needed; :class:`FormatError` if the ``.metaq`` file is damaged or foreign, or was not made of such a file; and
    :class:`OutputError` if `out` cannot be written.
    """
    plan = _planned(source)
    if carried.is_folder(plan.contents.metadata) or not plan.frames:
        raise FormatError(f"{source}: was not made of a file that is more than its tensors; nothing was restored.")
    require(
        len(plan.frames) == 1,
        f"{out}: {', '.join(plan.frames)} belong together; give a folder that is not there yet as output.",
    )
    ((path, template),) = plan.frames.items()

    def write(stream: IO[bytes]) -> None:
        _fill(_framed(plan, {path: stream}), source, progress or NoProgress())
        repair(stream, template)
        stream.seek(0, os.SEEK_END)

    write_atomically(out, write)
    return plan.restored([out.name])


def restore_safetensors(source: Path, out: Path, *, progress: Progress | None = None) -> None:
    """Restore the tensors of a ``.metaq`` file, without the files that it carries, as one safetensors file.

    Tied tensors are written one by one. Memory is that of :func:`metaq.container.stream`. Raises :class:`ConfigError`
    if safetensors cannot hold one of the tensors, :class:`FormatError` if the file is damaged or foreign, and
    :class:`OutputError` if `out` cannot be written.
    """
    contents = container.describe(source)
    entries = [entry for entry in contents.entries if carried.is_weight(entry.name, contents.metadata)]
    prefix = str(contents.metadata.get(carried.NAME_PREFIX, ""))
    for entry in entries:
        reason = _refusal(entry)
        require(reason is None, f"{out}: {entry.name}: {reason}; end the name in .pth.")

    def write(stream: IO[bytes]) -> None:
        _fill(_headed(stream, entries, prefix), source, progress or NoProgress())
        stream.seek(0, os.SEEK_END)

    write_atomically(out, write)


def _planned(source: Path) -> _Plan:
    """Check everything about the files that a ``.metaq`` file carries, and read what is around tensors."""
    contents = container.describe(source)
    metadata = contents.metadata
    if not carried.is_folder(metadata) and carried.FILE not in metadata:
        raise FormatError(f"{source}: was made of a state dict; restore it as a .safetensors or .pth file.")
    held, tensors = _split(contents)
    files = [entry for entry in held if entry.name.startswith(carried.WHOLE)]
    framed = [entry for entry in held if entry.name.startswith(carried.FRAME)]
    _check_files(source, files, framed)
    sizes = [entry.restored_bytes for entry in contents.entries]
    frames = {
        carried.path_of(entry.name): decode(tensor.restore().tobytes(), sizes, source=str(source), name=entry.name)
        for entry, tensor in container.stream(source, names=[entry.name for entry in framed])
    }
    filled = {contents.entries[hole.number].name for template in frames.values() for hole in template.holes}
    left = tuple(entry for entry in tensors if entry.name not in filled) if carried.is_folder(metadata) else ()
    # A tie of what lies in a frame lies there with it.
    left = tuple(entry for entry in left if contents.holder_of(entry).name not in filled)
    # Those without elements have no hole, wherever they lie.
    if not any(entry.count for entry in left):
        left = ()
    left = tuple(entry for entry in left if entry.count or not entry.name.startswith(_beginnings(frames)))
    weights = str(metadata.get(carried.WEIGHTS, WEIGHTS))
    paths = [*(carried.path_of(entry.name) for entry in files), *frames]
    is_taken = left and any(path in (weights, INDEX) or SHARD.fullmatch(path) for path in paths)
    if is_taken or not carried.is_safe_path(weights) or not weights.endswith(".safetensors"):
        raise FormatError(f"{source}: the name of its weight file is not safe here; nothing was restored.")
    return _Plan(contents=contents, files=tuple(files), frames=frames, tensors=left)


def _beginnings(paths: Iterable[str]) -> tuple[str, ...]:
    """What names of tensors in these files of a folder may begin with; see :meth:`ModelFolder.prefix`."""
    places = [PurePosixPath(path) for path in paths]
    found = [place.parent for place in places if place.parent.name]
    found += [place.with_name(without_number(place.as_posix())) for place in places]
    return tuple(f"{place.as_posix()}/" for place in found)


def _split(contents: Contents) -> tuple[list[Entry], list[Entry]]:
    """Carried files, and tensors."""
    files: list[Entry] = []
    tensors: list[Entry] = []
    for entry in contents.entries:
        (files if carried.is_carried(entry.name, contents.metadata) else tensors).append(entry)
    return files, tensors


def _check_files(source: Path, files: Sequence[Entry], frames: Sequence[Entry]) -> None:
    """Refuse what no folder could have given a file."""
    taken: set[str] = set()
    for entry in (*files, *frames):
        path = carried.path_of(entry.name)
        if not carried.is_safe_path(path) or (entry in files and holds_weights(path)):
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


def _check_replaceable(out: Path, written: Sequence[str], *, force: bool) -> None:
    if not force:
        raise ConfigError(f"{out}: exists already; give --force to replace it, or another output.")
    if not out.is_dir() or out.is_symlink():
        raise ConfigError(f"{out}: is no folder; choose another output.")
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if (path.is_file() or path.is_symlink()) and name not in (*written, INDEX) and not SHARD.fullmatch(name):
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


def _created(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("x+b")


def _flush(streams: Iterable[IO[bytes]]) -> None:
    for stream in streams:
        stream.flush()
        os.fsync(stream.fileno())


def _framed(plan: _Plan, streams: Mapping[str, IO[bytes]]) -> list[Place]:
    """Write what is left of files without their tensors, and tell where these go."""
    sizes = plan.sizes
    found: list[Place] = []
    for path, stream in streams.items():
        template = plan.frames[path]
        for position, piece in pieces(template, sizes):
            stream.seek(position)
            stream.write(piece)
        found += [(plan.contents.entries[number], stream, at) for number, at in places(template, sizes).items()]
    return found


def _anew(folder: Path, entries: Sequence[Entry], name: str, max_shard_bytes: int, opened: ExitStack) -> list[Place]:
    """Make weight files, each of at most `max_shard_bytes` of tensors, unless a single one has more, and tell where
    tensors go.

    Raises :class:`FormatError` if safetensors has no such element type.
    """
    for entry in entries:
        reason = _refusal(entry)
        if reason is not None:
            raise FormatError(f"{entry.name}: {reason}; restore it as .pth.")
    shards = _shared_out(entries, max_shard_bytes) if name == WEIGHTS else [list(entries)]
    named = {name: shards[0]} if len(shards) == 1 else _named(shards)
    if len(shards) > 1:
        weight_map = {entry.name: name for name, held in named.items() for entry in held}
        total_bytes = sum(entry.restored_bytes for entry in entries)
        index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    found: list[Place] = []
    for path, held in named.items():
        found += _headed(opened.enter_context(_created(folder / path)), held, "")
    return found


def _headed(stream: IO[bytes], entries: Sequence[Entry], prefix: str) -> list[Place]:
    """Write the header of a safetensors file of `entries`, and tell where they go."""
    # Wider types first, so that every element lies at a multiple of its size.
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))
    head, offsets = _head_of(ordered, prefix)
    stream.write(head)
    return [(entry, stream, len(head) + offset) for entry, offset in zip(ordered, offsets, strict=True)]


def _fill(places: Sequence[Place], source: Path, progress: Progress) -> None:
    """Write tensors of `source` to their places, one after the other."""
    wanted: dict[str, list[tuple[IO[bytes], int]]] = {}
    for entry, stream, offset in places:
        wanted.setdefault(entry.name, []).append((stream, offset))
    progress.stage("restoring", sum(entry.restored_bytes for entry, *_ in places))
    for entry, tensor in container.stream(source, names=wanted, is_writable=False):
        elements = np.ascontiguousarray(tensor.restore()).reshape(-1).view(np.uint8).data
        for stream, offset in wanted[entry.name]:
            stream.seek(offset)
            stream.write(elements)
            progress.advance(entry.restored_bytes)
        # Nothing may hold a tensor while the next one is restored.
        del tensor, elements


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
    stem = WEIGHTS.removesuffix(".safetensors")
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, start=1)
    }


def _refusal(entry: Entry) -> str | None:
    """Why safetensors cannot hold a tensor, or None if it can."""
    if entry.dtype not in NAMES:
        return f"safetensors files cannot hold {entry.dtype.name}"
    return "safetensors files cannot hold a tensor of that name" if entry.name == METADATA else None


def _head_of(entries: Sequence[Entry], prefix: str) -> tuple[bytes, list[int]]:
    """All of a file before the elements, and where those of every tensor begin after it."""
    described: dict[str, object] = {METADATA: USUAL_METADATA}
    offsets = []
    position = 0
    for entry in entries:
        end = position + entry.restored_bytes
        described[prefix + entry.name] = {
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
