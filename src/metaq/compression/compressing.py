"""A model folder as one ``.metaq`` file: streamed, resumable, to a budget where one is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaq.compression.choosing import NOT_FINITE, FolderSelection, GridQuantizer, RateQuantizer, select
from metaq.compression.coding import Job, code
from metaq.compression.planning import DEFAULT_MULTIPLIER, Rule
from metaq.compression.rates import RateModel
from metaq.compression.sampling import quota, sampled_rows
from metaq.compression.survey import Survey, survey
from metaq.compression.tries import Tries
from metaq.compression.work import Attempt, Record, WorkFolder
from metaq.config import require
from metaq.container import carried
from metaq.container.assembling import Parts, StoredChunk, assemble
from metaq.container.coders import CHUNK_CODERS
from metaq.container.exact import THOROUGH_BYTES, exact_payload
from metaq.container.fields import utf8
from metaq.container.layout import CHECKSUM_BYTES
from metaq.container.writer import DEFAULT_CODER, check_elements, check_tensors
from metaq.errors import ConfigError
from metaq.model.folder import ModelFolder
from metaq.model.stored import Reader, StoredTensor
from metaq.progress import NoProgress, Progress
from metaq.tensors.coverage import Coverage, measured
from metaq.tensors.grid import BucketGrid

HEADER_BYTES = 8
"""About what a tensor takes in the header."""

RECIPE = 1
"""Changes whenever the same options would give another file, so that nobody goes on with half of the old one."""


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """What became of a folder.

    Attributes
    ----------
    file_bytes
        Size of the file.
    carried_bytes
        What of that the carried files take.
    float_bytes, weights
        Size of the tensors in the folder, and their number of elements.
    carried
        Paths of the carried files.
    left_out
        Paths of the other files of the folder, each with the reason.
    coverage
        How much of the tensors is quantised, and what is not and why.
    multiplier
        λ, relative to the mean square of the weights; None where the grids were given.
    has_discarded
        Whether an unfinished run with other options, or of another folder, was thrown away.
    """

    file_bytes: int
    carried_bytes: int
    float_bytes: int
    weights: int
    carried: tuple[str, ...]
    left_out: dict[str, str]
    coverage: Coverage
    multiplier: float | None
    has_discarded: bool


def compress_folder(
    folder: ModelFolder,
    out: Path,
    *,
    target_bytes: int | None = None,
    target_ratio: float | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    grids: Mapping[str, BucketGrid] | None = None,
    coder: str = DEFAULT_CODER,
    progress: Progress | None = None,
    is_resumable: bool = True,
) -> FolderReport:
    """Quantise the tensors of a folder one after the other and write them, with its small files, as one file.

    Memory is that of some blocks of weights, of the bases of tall matrices, and of the largest tensor that is kept
    exactly. What is done is kept beside the output until that is there, and the same call goes on from it.

    Parameters
    ----------
    folder
        Of :func:`metaq.model.folder.open_folder`.
    out
        The file; an older one is replaced.
    target_bytes
        Largest size of the file.
    target_ratio
        Least ratio of the tensors' bytes to the file's; not with `target_bytes`.
    include, exclude
        Name globs of the tensors to quantise; all others are kept exactly.
    grids
        Bucket grids by name of the tensor instead of all that; tensors without one are kept exactly.
    coder
        ``"small"`` or ``"fast"``.
    progress
        Shows how far it is.
    is_resumable
        Whether the folder will still be there for the same call to go on; otherwise an interrupted call leaves nothing.

    Raises
    ------
    ConfigError
        If an option does not fit, no file is small enough, or another run is at work on this output.
    FormatError
        If the folder cannot be read.
    OutputError
        If the file or what is kept beside it cannot be written.
    """
    limit = _limit(folder, target_bytes, target_ratio)
    require(coder in CHUNK_CODERS, f"coder: {coder} does not work on folders; choose {' or '.join(CHUNK_CODERS)}.")
    require(grids is None or limit is None, "grids: they decide about the size; give no budget.")
    check_tensors([*folder.carried.files, *folder.tensors])
    check_elements(tensor.shape for tensor in folder.tensors)
    selection = select(folder.tensors, include=include, exclude=exclude, grids=grids)
    job: Record = {
        "recipe": RECIPE,
        "folder": folder.fingerprint,
        "limit": limit,
        "quantized": [tensor.name for tensor in selection.quantized],
        "grids": None if grids is None else {name: _described(grids[name]) for name in sorted(grids)},
        "coder": coder,
    }
    with Reader() as reader, WorkFolder(out, job) as work:
        run = _Run(folder, selection, reader, work, coder, progress or NoProgress())
        try:
            if grids is not None:
                report = run.on_grids(out, grids)
            else:
                report = run.to_limit(out, limit) if limit is not None else run.at(out, DEFAULT_MULTIPLIER)
        except BaseException as error:
            # What cannot be done is not gone on with.
            if isinstance(error, ConfigError) or not is_resumable:
                work.remove()
            raise
        work.remove()
    return report


class _Run:
    """One run of :func:`compress_folder`."""

    def __init__(
        self,
        folder: ModelFolder,
        selection: FolderSelection,
        reader: Reader,
        work: WorkFolder,
        coder: str,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._reader = reader
        self._work = work
        self._coder = coder
        self._progress = progress
        self._reasons = dict(selection.reasons)
        self._chosen = selection.quantized

    def on_grids(self, out: Path, grids: Mapping[str, BucketGrid]) -> FolderReport:
        """Quantise on given grids."""
        attempt = self._work.attempt(0, "grids")
        parts = self._coded(GridQuantizer(self._reader, grids), attempt)
        return self._written(out, parts, attempt, None)

    def at(self, out: Path, multiplier: float) -> FolderReport:
        """Quantise for λ = `multiplier`."""
        found, rule, _ = self._looked_at()
        attempt = self._work.attempt(0, multiplier.hex())
        parts = self._coded(self._quantizer(found, rule, multiplier), attempt)
        return self._written(out, parts, attempt, multiplier)

    def to_limit(self, out: Path, limit: int) -> FolderReport:
        """Quantise so that the file has at most `limit` bytes, and hardly fewer."""
        found, rule, samples = self._looked_at()
        exact = [tensor for tensor in self._all_tensors() if tensor.name not in {each.name for each in self._chosen}]
        tries = Tries(self._work, RateModel(self._chosen, found, rule, samples, coder=self._coder), limit)
        while (current := tries.next(lambda: expected_bytes(self._reader, exact))) is not None:
            attempt = self._work.attempt(current.number, current.multiplier.hex())
            parts = self._coded(self._quantizer(found, rule, current.multiplier), attempt)
            file_bytes = _file_bytes(parts, _chunks(parts, attempt))
            attempt.close()
            tries.finish(current, file_bytes, file_bytes - _quantized_bytes(parts, _chunks(parts, attempt)))
        best = tries.best()
        attempt = self._work.attempt(best.number, best.multiplier.hex())
        parts = self._coded(self._quantizer(found, rule, best.multiplier), attempt)
        return self._written(out, parts, attempt, best.multiplier)

    def _looked_at(self) -> tuple[Survey, Rule, dict[str, NDArray[np.float64]]]:
        """What is known of the weights; those that are not finite are taken out of the chosen."""
        found = survey(self._reader, self._chosen, self._work, self._progress)
        finite = tuple(tensor for tensor in self._chosen if found.facts[tensor.name].is_finite)
        self._reasons |= {tensor.name: NOT_FINITE for tensor in self._chosen if tensor not in finite}
        self._chosen = finite
        samples = {
            tensor.name: np.concatenate([rows for _, rows in sampled_rows(self._reader, tensor, quota(tensor, finite))])
            for tensor in finite
        }
        return found, Rule(finite, found, samples), samples

    def _quantizer(self, found: Survey, rule: Rule, multiplier: float) -> RateQuantizer:
        return RateQuantizer(self._reader, found, self._chosen, rule.choices(multiplier))

    def _coded(self, quantizer: RateQuantizer | GridQuantizer, attempt: Attempt) -> Parts:
        tensors = self._all_tensors()
        self._progress.stage("compressing", sum(tensor.size_bytes for tensor in tensors))
        metadata = {carried.METADATA_KEY: carried.CONVENTION}
        job = Job(tensors=tensors, bases=quantizer.bases, metadata=metadata, coder=self._coder)
        return code(job, quantizer, self._reader, attempt, self._progress)

    def _all_tensors(self) -> list[StoredTensor]:
        return sorted([*self._folder.tensors, *self._folder.carried.files], key=lambda tensor: utf8(tensor.name))

    def _written(self, out: Path, parts: Parts, attempt: Attempt, multiplier: float | None) -> FolderReport:
        chunks = _chunks(parts, attempt)
        file_bytes = assemble(out, parts.head(chunks), chunks, attempt.payload)
        attempt.close()
        names = {tensor.name for tensor in self._folder.carried.files}
        tensors = [entry for entry in parts.entries if entry.name not in names]
        return FolderReport(
            file_bytes=file_bytes,
            carried_bytes=sum(entry.coded_bytes for entry in parts.placed(chunks) if entry.name in names),
            float_bytes=self._folder.float_bytes,
            weights=sum(tensor.count for tensor in self._folder.tensors),
            carried=tuple(carried.path_of(tensor.name) for tensor in self._folder.carried.files),
            left_out=self._folder.carried.left_out,
            coverage=measured((entry, entry.grid is not None) for entry in tensors).explained(self._reasons),
            multiplier=multiplier,
            has_discarded=self._work.discarded,
        )


def expected_bytes(reader: Reader, exact: Sequence[StoredTensor]) -> int:
    """About what tensors take that are kept exactly, and the header."""
    total = 0
    for tensor in exact:
        is_large = tensor.size_bytes > THOROUGH_BYTES
        total += HEADER_BYTES + (tensor.size_bytes if is_large else _packed_bytes(reader, tensor))
    return total


def _packed_bytes(reader: Reader, tensor: StoredTensor) -> int:
    _, payload = exact_payload(tensor.size_bytes, lambda start, stop: reader.raw(tensor, start, stop))
    return len(payload)


def _limit(folder: ModelFolder, target_bytes: int | None, target_ratio: float | None) -> int | None:
    """Most bytes, or None without a budget."""
    require(target_bytes is None or target_ratio is None, "budget: give one of target_bytes and target_ratio.")
    if target_bytes is not None:
        require(target_bytes > 0, f"target_bytes: {target_bytes} must be positive.")
        return target_bytes
    if target_ratio is None:
        return None
    require(math.isfinite(target_ratio) and target_ratio > 0, f"target_ratio: {target_ratio} must be positive.")
    return int(folder.float_bytes / target_ratio)


def _described(grid: BucketGrid) -> list[object]:
    return [grid.center.hex(), grid.radius.hex(), grid.count]


def _chunks(parts: Parts, attempt: Attempt) -> list[StoredChunk]:
    """The chunks of a finished attempt, in the order of the file."""
    return [attempt.chunks[number] for number in range(len(parts.plans()))]


def _file_bytes(parts: Parts, chunks: Sequence[StoredChunk]) -> int:
    return len(parts.head(chunks)) + sum(chunk.size_bytes for chunk in chunks) + CHECKSUM_BYTES


def _quantized_bytes(parts: Parts, chunks: Sequence[StoredChunk]) -> int:
    """Bytes of the chunks of bucket indices."""
    return sum(
        chunk.size_bytes for (coder, _), chunk in zip(parts.plans(), chunks, strict=True) if coder in CHUNK_CODERS
    )
