"""Safetensors files written tensor by tensor, in as many shards as their size asks for."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from metaq.container.contents import Entry
from metaq.errors import FormatError
from metaq.model.folder import INDEX, WEIGHTS
from metaq.model.stored import LENGTH_BYTES, NAMES

ALIGNMENT = 8
METADATA = "__metadata__"
MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, kw_only=True)
class _Place:
    file: str
    offset_bytes: int


class SafetensorsFolder:
    """Weight files of a folder, whose tensors are all known before the first is written; a context manager.

    Parameters
    ----------
    path
        The folder.
    entries
        The tensors, in order of their names.
    max_shard_bytes
        Most bytes of the tensors of a file, unless a single one has more.

    Raises
    ------
    FormatError
        If safetensors has no such element type.
    """

    def __init__(self, path: Path, entries: Sequence[Entry], *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        for entry in entries:
            reason = refusal(entry)
            if reason is not None:
                raise FormatError(f"{entry.name}: {reason}; restore it as .pth.")
        self._path = path
        self._shards = _named(_shared_out(entries, max_shard_bytes))
        self._places: dict[str, _Place] = {}
        self._streams: dict[str, IO[bytes]] = {}

    def __enter__(self) -> SafetensorsFolder:
        for name, entries in self._shards.items():
            stream = (self._path / name).open("wb")
            self._streams[name] = stream
            head, offsets = head_of(entries)
            stream.write(head)
            for entry, offset in zip(entries, offsets, strict=True):
                self._places[entry.name] = _Place(file=name, offset_bytes=len(head) + offset)
        if len(self._shards) > 1:
            weight_map = {name: place.file for name, place in sorted(self._places.items())}
            total = sum(entry.restored_bytes for entries in self._shards.values() for entry in entries)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (self._path / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()

    def write(self, name: str, values: NDArray[np.generic]) -> None:
        """Write the elements of a tensor, little-endian."""
        place = self._places[name]
        stream = self._streams[place.file]
        stream.seek(place.offset_bytes)
        stream.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def finish(self) -> None:
        """Flush everything to disk, once all tensors were written."""
        for stream in self._streams.values():
            stream.flush()
            os.fsync(stream.fileno())


def _shared_out(entries: Sequence[Entry], max_shard_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    held = 0
    for entry in entries:
        if shards[-1] and held + entry.restored_bytes > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(entry)
        held += entry.restored_bytes
    return [in_order(shard) for shard in shards]


def refusal(entry: Entry) -> str | None:
    """Why safetensors cannot hold a tensor, or None if it can."""
    if entry.dtype not in NAMES:
        return f"safetensors files cannot hold {entry.dtype.name}"
    return "safetensors files cannot hold a tensor of that name" if entry.name == METADATA else None


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Wider types first, so that every element lies at a multiple of its size."""
    return sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))


def _named(shards: Sequence[list[Entry]]) -> dict[str, list[Entry]]:
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    stem = WEIGHTS.removesuffix(".safetensors")
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, start=1)
    }


def head_of(entries: Sequence[Entry]) -> tuple[bytes, list[int]]:
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
