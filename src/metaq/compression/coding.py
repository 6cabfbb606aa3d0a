"""One attempt at a file: every tensor quantised or packed, every chunk coded and kept, in the order of the file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.compression.quantizing import Quantizer
from metaq.compression.work import Attempt
from metaq.container import layout
from metaq.container.coders import encode_chunk
from metaq.container.contents import Entry, Metadata, Piece
from metaq.container.exact import encode_planes
from metaq.container.fields import Parts
from metaq.container.header import basis_entry
from metaq.container.writer import whole_payload
from metaq.model.stored import Elements, Reader, StoredTensor
from metaq.progress import Progress
from metaq.tensors.grid import BucketGrid

Symbols = NDArray[np.int32]

CHUNK_BITS = layout.DEFAULT_CHUNK_BITS
IN_FLIGHT = 8
"""Most chunks that are coded at once, of some 32 MiB each with what the coder needs."""

PLACEHOLDER = BucketGrid(center=0.0, radius=1.5, count=3)
"""Stands for a grid that is not known yet: which chunk a tensor is in does not depend on it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is coded.

    `tensors` are all of the file, carried files included, in order of their names as UTF-8; a tied one by each of them.
    `ties` are, for the name of a tensor tied to one before it, the number of that one.
    """

    tensors: Sequence[StoredTensor]
    ties: Mapping[str, int]
    metadata: Metadata
    coder: str


class Coding:
    """Codes what an attempt has not yet; its chunks and the result make the file."""

    def __init__(self, job: Job, quantizer: Quantizer, reader: Reader, attempt: Attempt, progress: Progress) -> None:
        self._job = job
        self._quantizer = quantizer
        self._reader = reader
        self._attempt = attempt
        self._progress = progress
        self._bases = [
            basis_entry(n, basis.size, basis.grid, job.coder) for n, basis in enumerate(quantizer.bases.values())
        ]
        self._expected = [self._provisional(tensor) for tensor in job.tensors]
        self._plans = self._parts(self._expected, ()).plans()
        self._pieces: dict[int, list[tuple[int, Piece]]] = {}
        for number, (_, pieces) in enumerate(self._plans):
            for piece in pieces:
                self._pieces.setdefault(piece.tensor, []).append((number, piece))

    def run(self) -> Parts:
        """Raise :class:`CodecError` if a coder cannot hold a tensor, :class:`FormatError` if one cannot be read, and
        :class:`OutputError` if the disk is full.
        """
        entries: list[Entry] = []
        inline: list[bytes] = []
        with _ChunkPool(self._plans, self._job, self._attempt) as pool:
            for number, basis in enumerate(self._quantizer.bases.values()):
                symbols = basis.indices.reshape(-1).astype(np.int32)
                for chunk, piece in self._missing(number):
                    shape = replace(piece.shape, alphabet_size=basis.grid.count)
                    pool.add(chunk, f"basis {number}", shape, symbols[piece.start : piece.start + shape.count])
            for number, tensor in enumerate(self._job.tensors):
                expected = self._expected[number]
                if expected.grid is not None:
                    entries.append(self._quantize(len(self._bases) + number, tensor, expected, pool))
                elif expected.tied_to is not None:
                    entries.append(expected)
                elif expected.coder == layout.EXACT_NAMES[layout.EXACT_INLINE]:
                    entries.append(expected)
                    inline.append(self._reader.raw(tensor, 0, tensor.size_bytes))
                    self._progress.advance(tensor.size_bytes)
                elif expected.coder == layout.PLANES:
                    entries.append(self._keep_in_planes(len(self._bases) + number, tensor, expected, pool))
                else:
                    entries.append(self._keep_whole(len(self._bases) + number, tensor, expected))
            pool.keep_all_but(0)
        return self._parts(entries, tuple(inline))

    def _provisional(self, tensor: StoredTensor) -> Entry:
        """The entry of a tensor as far as it is known before anything is read."""
        if tensor.name in self._job.ties:
            tied = layout.EXACT_NAMES[layout.EXACT_TIED]
            first = self._job.ties[tensor.name]
            return Entry(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, coder=tied, grid=None, tied_to=first)
        is_exact = self._quantizer.is_exact(tensor)
        way = layout.exact_way(tensor.dtype, tensor.shape)
        return Entry(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            coder=layout.EXACT_NAMES[way] if is_exact else self._job.coder,
            grid=None if is_exact else PLACEHOLDER,
            basis=None if is_exact else self._quantizer.basis_of(tensor),
            scales=None if is_exact else self._quantizer.scales.get(tensor.name),
        )

    def _parts(self, entries: Sequence[Entry], inline: tuple[bytes, ...]) -> Parts:
        return Parts(
            bases=tuple(self._bases),
            entries=tuple(entries),
            inline=inline,
            metadata=self._job.metadata,
            coder=self._job.coder,
            chunk_bits=CHUNK_BITS,
        )

    def _missing(self, part: int) -> list[tuple[int, Piece]]:
        """Pieces of a part whose chunks are not done, with the numbers of these."""
        return [(chunk, piece) for chunk, piece in self._pieces.get(part, []) if chunk not in self._attempt.chunks]

    def _quantize(self, part: int, tensor: StoredTensor, expected: Entry, pool: _ChunkPool) -> Entry:
        missing = self._missing(part)
        record = self._attempt.tensors.get(tensor.name)
        self._progress.advance(tensor.dtype.itemsize * (tensor.count - sum(piece.shape.count for _, piece in missing)))
        if record is None or missing:
            source = self._quantizer.source(tensor)
            record = {
                "center": source.grid.center.hex(),
                "radius": source.grid.radius.hex(),
                "count": source.grid.count,
                "trellis_bits": source.trellis_bits,
            }
            if tensor.name not in self._attempt.tensors:
                self._attempt.add_tensor(tensor.name, record)
            for chunk, piece in missing:
                shape = replace(piece.shape, alphabet_size=source.grid.count, trellis_bits=source.trellis_bits)
                pool.add(chunk, tensor.name, shape, source.symbols(piece.start, piece.start + shape.count))
                self._progress.advance(tensor.dtype.itemsize * shape.count)
        center, radius = float.fromhex(record["center"]), float.fromhex(record["radius"])
        grid = BucketGrid(center=center, radius=radius, count=record["count"])
        return replace(expected, grid=grid, trellis_bits=record["trellis_bits"])

    def _keep_in_planes(self, part: int, tensor: StoredTensor, expected: Entry, pool: _ChunkPool) -> Entry:
        missing = self._missing(part)
        self._progress.advance(
            tensor.size_bytes - tensor.dtype.itemsize * sum(piece.shape.count for _, piece in missing)
        )
        for chunk, piece in missing:
            elements = self._reader.elements(tensor, piece.start, piece.start + piece.shape.count)
            pool.add_elements(chunk, expected, piece, elements)
            self._progress.advance(elements.nbytes)
        return expected

    def _keep_whole(self, part: int, tensor: StoredTensor, expected: Entry) -> Entry:
        ((chunk, _),) = self._pieces[part]
        record = self._attempt.tensors.get(tensor.name)
        if record is None or chunk not in self._attempt.chunks:
            coder, payload = whole_payload(tensor.size_bytes, lambda start, stop: self._reader.raw(tensor, start, stop))
            record = {"coder": coder}
            self._attempt.add_tensor(tensor.name, record)
            self._attempt.add_chunk(chunk, payload)
        self._progress.advance(tensor.size_bytes)
        return replace(expected, coder=record["coder"])


class _ChunkPool:
    """Codes chunks on all cores as soon as all their pieces are there; a context manager."""

    def __init__(self, plans: Sequence[tuple[str, tuple[Piece, ...]]], job: Job, attempt: Attempt) -> None:
        self._coder = job.coder
        self._attempt = attempt
        self._left = [len(pieces) for _, pieces in plans]
        self._held: dict[int, list[tuple[str, StreamShape, Symbols]]] = {}
        self._exact: dict[int, list[tuple[Elements, Entry, Piece]]] = {}
        self._waiting: deque[tuple[int, Future[bytes]]] = deque()
        self._pool = ThreadPoolExecutor(max_workers=cpu_count())

    def __enter__(self) -> _ChunkPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, chunk: int, name: str, shape: StreamShape, symbols: Symbols) -> None:
        """Take a piece; the pieces of a chunk come in their order."""
        held = self._held.setdefault(chunk, [])
        held.append((name, shape, symbols))
        if len(held) < self._left[chunk]:
            return
        names, shapes, streams = zip(*self._held.pop(chunk), strict=True)
        self._submit(chunk, encode_chunk, self._coder, streams, shapes, names[0])

    def add_elements(self, chunk: int, entry: Entry, piece: Piece, elements: Elements) -> None:
        """Take a piece of a tensor that is kept in planes, as :meth:`add` does."""
        held = self._exact.setdefault(chunk, [])
        held.append((elements, entry, piece))
        if len(held) < self._left[chunk]:
            return
        arrays, entries, pieces = zip(*self._exact.pop(chunk), strict=True)
        self._submit(chunk, encode_planes, arrays, entries, pieces, self._coder)

    def _submit(self, chunk: int, encode: Callable[..., bytes], *arguments: object) -> None:
        self.keep_all_but(min(2 * (cpu_count() or 1), IN_FLIGHT) - 1)
        self._waiting.append((chunk, self._pool.submit(encode, *arguments)))

    def keep_all_but(self, most: int) -> None:
        """Keep chunks as they become ready, until at most so many are left."""
        while len(self._waiting) > most:
            chunk, future = self._waiting.popleft()
            self._attempt.add_chunk(chunk, future.result())
