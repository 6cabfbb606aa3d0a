"""Other ways to make any model file small, counted as complete files: half precision and integers, all with zstd-19.

What is a tensor of a file, and what must be kept exactly by the file's own format, is known from metaq's reader. Of
floating tensors of two dimensions or more and of at least 1,024 elements, ways of support/peers.py make integers; their
rows are the first or the last dimension, whichever errs less in a tensor, as formats put output channels here or there.
All other tensors, and whatever else is in the file, are kept exactly. Tensors, scales and the rest are streams of their
own, each by zstd at level 19. Names, shapes and any framing of what is written anew cost nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.container import templates
from metaq.model.formats.reading import read_file
from metaq.model.opened import OpenedModel, open_model
from metaq.model.stored import FileRange, Reader, StoredTensor
from support import peers

HALF = "fp16"
INT8 = "int8 per channel"
BLOCKS = "blocks of 32 at 4 bits"
MINIMA = "blocks of 32 with minima at 4 bits"
WAYS = (HALF, INT8, BLOCKS, MINIMA)

FLOATING = ("float16", "float32", "float64")

Elements = NDArray[np.generic]


class CannotPatchError(Exception):
    """A tensor does not lie in its file as it is, so that no other can be put there."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What a way makes of a file: its bytes, and what it gives back of tensors, in their own types, by name."""

    size_bytes: int
    tensors: Mapping[str, Elements]


class ModelFiles:
    """A file or folder as tensors and the rest."""

    def __init__(self, source: Path, *, keep_all: bool) -> None:
        self.source = source
        self.model: OpenedModel = open_model(source, keep_all=keep_all)

    @cached_property
    def values(self) -> dict[str, Elements]:
        """All tensors, those of the same elements once."""
        with Reader() as reader:
            return {tensor.name: reader.exact(tensor).values for tensor in self.model.tensors}

    @cached_property
    def rest_bytes(self) -> int:
        """Bytes by zstd of what is no tensor."""
        with Reader() as reader:
            files = [reader.exact(file).values.tobytes() for file in self.model.rest.files]
        return peers.squeezed(b"".join(files))

    def is_floating(self, tensor: StoredTensor) -> bool:
        """Whether a tensor may be rounded."""
        return tensor.dtype.name in FLOATING and tensor.name not in self.model.reasons

    def packed(self, way: str) -> Packed:
        """What one of ``WAYS`` makes of it."""
        peer = None if way == HALF else peers.named(way)
        streams = peers.Streams(bits=8 if peer is None else peer.bits)
        found: dict[str, Elements] = {}
        for tensor in self.model.tensors:
            values = self.values[tensor.name]
            if not self.is_floating(tensor):
                streams.floats.append(values.tobytes())
            elif peer is None:
                found[tensor.name] = halved(values, streams)
            elif values.ndim < 2 or values.size < peers.LEAST_ELEMENTS:
                streams.floats.append(values.tobytes())
            else:
                restored = rounded(values.astype(np.float32), peer.quantize, streams)
                found[tensor.name] = restored.astype(values.dtype)
        return Packed(size_bytes=streams.size_bytes() + self.rest_bytes, tensors=found)

    def write(self, tensors: Mapping[str, Elements], out: Path) -> None:
        """Copy the file or folder with other values in `tensors`.

        A state dict of PyTorch some of whose tensors do not lie there as they are is saved anew.
        """
        if not self.model.rest.files and not all(isinstance(each.place, FileRange) for each in self.model.tensors):
            held = {name: torch.from_numpy(np.array(values)) for name, values in {**self.values, **tensors}.items()}
            torch.save({name: held[holder] for name, holder in self.model.holders.items()}, out)
            return
        copy = shutil.copytree if self.source.is_dir() else shutil.copyfile
        copy(self.source, out)
        for tensor in self.model.tensors:
            if tensor.name not in tensors:
                continue
            with self._copied(self._file(tensor), out).open("r+b") as stream:
                assert isinstance(tensor.place, FileRange)
                stream.seek(tensor.place.start)
                stream.write(np.ascontiguousarray(tensors[tensor.name]).tobytes())
        for path in sorted({self._file(tensor) for tensor in self.model.tensors if tensor.name in tensors}):
            checksums = read_file(path, keep_all=True).checksums.get(path, ())
            repairs = tuple(templates.Repair(position=c.position, start=c.start, stop=c.stop) for c in checksums)
            with self._copied(path, out).open("r+b") as stream:
                templates.repair(stream, templates.Template(holes=(), repairs=repairs, rest=b""))

    def _file(self, tensor: StoredTensor) -> Path:
        """Where a tensor lies."""
        if not isinstance(tensor.place, FileRange):
            raise CannotPatchError(f"{self.source}: {tensor.name} does not lie there as it is.")
        return tensor.place.path

    def _copied(self, path: Path, out: Path) -> Path:
        return out / path.relative_to(self.source) if self.source.is_dir() else out


def halved(values: Elements, streams: peers.Streams) -> Elements:
    """Half precision where that holds the values; a few numbers, such as what keeps a quotient finite, are not lost."""
    half = peers.halved(values.astype(np.float32), [])
    if values.size < peers.LEAST_ELEMENTS and (half[values != 0] == 0).any():
        streams.floats.append(values.tobytes())
        return values
    return peers.halved(values.astype(np.float32), streams.floats).astype(values.dtype)


def rounded(
    values: NDArray[np.float32], quantize: Callable[[peers.Floats, peers.Streams], peers.Floats], streams: peers.Streams
) -> NDArray[np.float32]:
    """What is restored of a tensor; its rows are the first or the last dimension, whichever errs less."""
    tries = []
    for axis in (0, -1):
        turned = np.moveaxis(values, axis, 0)
        own = peers.Streams()
        matrix = quantize(np.ascontiguousarray(turned.reshape(len(turned), -1)), own)
        restored = np.moveaxis(np.asarray(matrix).reshape(turned.shape), 0, axis)
        tries.append((float(np.square(restored - values).sum()), axis, own, restored))
    _, _, own, restored = min(tries, key=lambda entry: entry[:2])
    streams.integers += own.integers
    streams.scales += own.scales
    return restored
