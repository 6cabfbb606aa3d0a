"""Quantising a model without data, tensor by tensor, wherever it lies; what is done is kept, and gone on with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from metaq.compression.coding import Coding, Job
from metaq.compression.compressed import Goal, Report
from metaq.compression.planning import TOO_WIDE, Rule, default_multiplier
from metaq.compression.quantizing import Quantizer
from metaq.compression.scaling import scaled
from metaq.compression.search import SizeSearch, Try
from metaq.compression.survey import SortedOut, Survey, sorted_out, statistics_grids, survey
from metaq.compression.work import Attempt, WorkFolder
from metaq.container import Metadata, carried
from metaq.container.coders import CHUNK_CODERS
from metaq.container.contents import coverage_of_entries
from metaq.container.fields import Parts, StoredChunk, utf8
from metaq.container.layout import CHECKSUM_BYTES
from metaq.container.writer import assemble, expected_exact_bytes
from metaq.model.applying import Model
from metaq.model.opened import OpenedModel
from metaq.model.selection import Selection
from metaq.model.stored import Reader, StoredTensor
from metaq.progress import Progress
from metaq.tensors.grid import BucketGrid
from metaq.tensors.inside import looks_like

HEADER_BYTES = 8
"""About what a tensor takes in the header."""

TRIES = "tries.json"

LEAST_LOOKED_INTO, LOOKED_INTO = 1 << 10, 1 << 16
"""Elements of tensors, and of each of them, that are looked into for a narrower type."""

NEARLY_ALL = 0.9


@dataclass(frozen=True, eq=False)
class Request:
    """What is compressed, and how the file is made; see :func:`metaq.compression.compressing.compress`. With a `base`,
    the file is an update of that.
    """

    model: OpenedModel
    selection: Selection
    goal: Goal
    grids: Mapping[str, BucketGrid] | None
    coder: str
    metadata: Metadata
    progress: Progress
    base: Model | None = None

    @property
    def limit_bytes(self) -> int | None:
        """Most bytes of the file, if the goal is a size."""
        return self.goal.limit_bytes(float_bytes=self.model.float_bytes, weights=self.model.weights)

    @property
    def file_metadata(self) -> Metadata:
        """Metadata of the file, which tell what it was made of."""
        return {**self.metadata, **self.model.rest.metadata}


class UncalibratedModel:
    """A model that is quantised for any λ, or on given grids; `work` keeps what is done."""

    def __init__(self, request: Request, reader: Reader, work: WorkFolder) -> None:
        model = request.model
        self._request = request
        self._model = model
        self._reader = reader
        self._work = work
        self._progress = request.progress
        self._reasons = dict(request.selection.reasons)
        names = {model.holders[name] for name in request.selection.names}
        self._chosen = [tensor for tensor in model.tensors if tensor.name in names]
        self._files = model.rest.files
        tied = [replace(model.tensor(name), name=name) for name in model.holders if name != model.holders[name]]
        tensors = sorted([*model.tensors, *tied, *self._files], key=lambda tensor: utf8(tensor.name))
        numbers = {tensor.name: number for number, tensor in enumerate(tensors)}
        self._job = Job(
            tensors=tensors,
            ties={tensor.name: numbers[model.holders[tensor.name]] for tensor in tied},
            metadata=request.file_metadata,
            coder=request.coder,
        )

    def write(self, out: Path) -> Report:
        """Write the file that is asked for: on the given grids, of a size, or of the default quality."""
        grids, limit = self._request.grids, self._request.limit_bytes
        if grids is not None:
            held = {self._model.holders[name]: grid for name, grid in grids.items()}
            return self._written(out, *self._coded(Quantizer(self._reader, held)))
        if limit is not None:
            return self._to_limit(out, limit)
        others = {self._model.holders[name] for name in self._model.reasons}
        weights = sum(tensor.count for tensor in self._model.tensors if tensor.name not in others)
        return self.at(out, default_multiplier(self._chosen, weights))

    def at(self, out: Path, multiplier: float, *, number: int = 0) -> Report:
        """Quantise for a λ relative to the mean square of the weights, and write the file."""
        return self._written(out, *self._coded(self._quantizer(multiplier), multiplier, number), multiplier)

    def _to_limit(self, out: Path, limit: int) -> Report:
        """Quantise so that the file has at most `limit` bytes, and hardly fewer, and write it."""
        quantized = {tensor.name for tensor in self._chosen}
        exact = [tensor for tensor in self._job.tensors if tensor.name not in quantized | self._job.ties.keys()]
        goal = self._request.goal.size_option
        search = SizeSearch(limit, self._looked_at[-1], self._known_tries(), goal=goal)
        while (current := search.next(lambda: _expected_bytes(self._reader, exact))) is not None:
            self._keep(search)
            parts, attempt = self._coded(self._quantizer(current.multiplier), current.multiplier, current.number)
            chunks = _chunks(parts, attempt)
            file_bytes = len(parts.head(chunks)) + sum(chunk.size_bytes for chunk in chunks) + CHECKSUM_BYTES
            attempt.close()
            search.finish(current, file_bytes, file_bytes - _quantized_bytes(parts, chunks))
            self._keep(search)
            for other in search.tries:
                if not search.fitting or other.number != search.fitting[-1].number:
                    self._work.remove_attempt(other.number)
        best = search.best()
        return self.at(out, best.multiplier, number=best.number)

    @cached_property
    def _looked_at(self) -> tuple[Survey, SortedOut, Rule]:
        """The weights of the model, and the rule for them."""
        seen = survey(self._reader, self._chosen, self._progress)
        found = sorted_out(self._reader, self._chosen, seen.facts)
        self._reasons |= self._model.under_all_names(found.reasons)
        seen, found = scaled(self._reader, seen, found, self._progress)
        return seen, found, Rule(found, seen, self._job.coder)

    def _quantizer(self, multiplier: float) -> Quantizer:
        seen, found, rule = self._looked_at
        plans = rule.plans(multiplier)
        too_wide = {tensor.name: TOO_WIDE for tensor in found.weights if tensor.name not in plans}
        self._reasons |= self._model.under_all_names(too_wide)
        quantized = plans.keys() | found.grids.keys()
        statistics = statistics_grids(self._model, self._reader, quantized, rule.relative_error(plans))
        return Quantizer(self._reader, {**found.grids, **statistics}, plans, seen, found.scales)

    def _coded(self, quantizer: Quantizer, multiplier: float | None = None, number: int = 0) -> tuple[Parts, Attempt]:
        """All of the file but its chunks, and the attempt that has these."""
        # Chunks hold combinations of the bases with which they were coded, and of no others.
        key = ["grids" if multiplier is None else multiplier.hex(), *(key.hex() for key in quantizer.bases)]
        attempt = self._work.attempt(number, " ".join(key))
        held = (tensor for tensor in self._job.tensors if tensor.name not in self._job.ties)
        self._progress.stage("compressing", sum(tensor.size_bytes for tensor in held))
        return Coding(self._job, quantizer, self._reader, attempt, self._progress).run(), attempt

    def _written(self, out: Path, parts: Parts, attempt: Attempt, multiplier: float | None = None) -> Report:
        chunks = _chunks(parts, attempt)
        file_bytes = assemble(out, parts.head(chunks), map(attempt.payload, range(len(chunks))))
        attempt.close()
        names = {tensor.name for tensor in self._files}
        coverage = coverage_of_entries(entry for entry in parts.entries if entry.name not in names)
        return Report(
            file_bytes=file_bytes,
            float_bytes=self._model.float_bytes,
            weights=self._model.weights,
            coverage=coverage.explained(self._reasons),
            multiplier=multiplier,
            relative_error=None if multiplier is None else self._relative_error(multiplier),
            carried=tuple(carried.path_of(tensor.name) for tensor in self._files),
            carried_bytes=sum(entry.coded_bytes for entry in parts.placed(chunks) if entry.name in names),
            left_out=dict(self._model.rest.left_out),
            notes=(*self._model.rest.notes, *self._inside()),
            has_discarded=self._work.discarded,
        )

    def _relative_error(self, multiplier: float) -> float:
        rule = self._looked_at[-1]
        return rule.relative_error(rule.plans(multiplier))

    def _inside(self) -> list[str]:
        """A sentence if nearly all weights are of a narrower type than they are kept in, or on grids, by a sample."""
        counts: Counter[str] = Counter()
        large = [t for t in self._model.tensors if t.dtype.is_quantizable and t.count >= LEAST_LOOKED_INTO]
        for tensor in large:
            elements = self._reader.elements(tensor, 0, min(tensor.count, LOOKED_INTO))
            found = looks_like(elements, tensor.dtype)
            if found is not None:
                counts[f"{tensor.dtype.name} weights that are {found.partition(' of ')[0]} inside"] += tensor.count
        total = sum(tensor.count for tensor in large)
        return [f"these are {what}" for what, count in counts.items() if count >= NEARLY_ALL * total]

    def _known_tries(self) -> list[Try]:
        return [
            Try(number=number, multiplier=float.fromhex(multiplier), file_bytes=file_bytes, fixed_bytes=fixed_bytes)
            for number, (multiplier, file_bytes, fixed_bytes) in enumerate(self._work.read(TRIES) or [])
        ]

    def _keep(self, search: SizeSearch) -> None:
        self._work.write(TRIES, [[each.multiplier.hex(), each.file_bytes, each.fixed_bytes] for each in search.tries])


def _expected_bytes(reader: Reader, exact: Sequence[StoredTensor]) -> int:
    """About what tensors take that are kept exactly, and the header."""
    return sum(
        HEADER_BYTES + expected_exact_bytes(tensor.dtype, tensor.shape, partial(reader.elements, tensor))
        for tensor in exact
    )


def _chunks(parts: Parts, attempt: Attempt) -> list[StoredChunk]:
    """The chunks of a finished attempt, in the order of the file."""
    return [attempt.chunks[number] for number in range(len(parts.plans()))]


def _quantized_bytes(parts: Parts, chunks: Sequence[StoredChunk]) -> int:
    """Bytes of the chunks of bucket indices."""
    return sum(
        chunk.size_bytes for (coder, _), chunk in zip(parts.plans(), chunks, strict=True) if coder in CHUNK_CODERS
    )
