"""Safetensors files written tensor by tensor, in as many shards as their size asks for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
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


def write_weights(
    folder: Path,
    entries: Sequence[Entry],
    tensors: Iterator[tuple[Entry, NDArray[np.generic]]],
    *,
    max_shard_bytes: int,
) -> None:
    """Write weight files of a folder from their tensors, little-endian, all of which `entries` tell before.

    A file has at most `max_shard_bytes` of tensors, unless a single one has more. Raises :class:`FormatError` if
    safetensors has no such element type.
    """
    for entry in entries:
        reason = refusal(entry)
        if reason is not None:
            raise FormatError(f"{entry.name}: {reason}; restore it as .pth.")
    places: dict[str, tuple[str, int]] = {}
    streams: dict[str, IO[bytes]] = {}
    shards = _named(_shared_out(entries, max_shard_bytes))
    with ExitStack() as opened:
        for name, held in shards.items():
            streams[name] = opened.enter_context((folder / name).open("wb"))
            head, offsets = head_of(held)
            streams[name].write(head)
            places |= {entry.name: (name, len(head) + offset) for entry, offset in zip(held, offsets, strict=True)}
        if len(shards) > 1:
            weight_map = {name: file for name, (file, _) in sorted(places.items())}
            index = {
                "metadata": {"total_size": sum(entry.restored_bytes for entry in entries)},
                "weight_map": weight_map,
            }
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for entry, values in tensors:
            file, offset = places[entry.name]
            streams[file].seek(offset)
            streams[file].write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            # Nothing may hold a tensor while the next one is restored.
            del values
        for stream in streams.values():
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
