"""Any model as one file, to a goal: the one way there is, whatever the model and wherever it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from metaq.compression.calibrated import CalibratedModel
from metaq.compression.compressed import Compressed, Report
from metaq.compression.goal import Goal
from metaq.compression.planning import DEFAULT_MULTIPLIER
from metaq.compression.search import smallest_good
from metaq.compression.survey import look_at, sorted_out
from metaq.compression.uncalibrated import UncalibratedModel
from metaq.compression.work import Record, WorkFolder
from metaq.config import require
from metaq.container import DEFAULT_CODER, Metadata
from metaq.container.coders import CHUNK_CODERS
from metaq.container.fields import check_elements, check_tensors
from metaq.errors import ConfigError
from metaq.model.checkpoint import StateDict
from metaq.model.opened import AnyModel, OpenedModel, open_model
from metaq.model.selection import Selection, select, select_gridded
from metaq.model.stored import Reader
from metaq.model.weights import ANY, FilterFn
from metaq.progress import NoProgress, Progress
from metaq.quantize.curvature import Batch, Loss, categorical_loss, measure
from metaq.quantize.recovery import OutputLoss, Recovery
from metaq.tensors.coverage import coverage_of
from metaq.tensors.grid import BucketGrid

Found = TypeVar("Found")

Accuracy = Callable[[StateDict], float]
"""From restored weights to a figure of merit, such as percent of images classified rightly; larger is better."""

RECIPE = 4
"""Changes with the file that the same options give, or with what is kept of half a one: neither may be gone on with."""


def compress(
    source: AnyModel,
    *,
    target_bytes: int | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
    max_drop: float | None = None,
    accuracy: Accuracy | None = None,
    batches: Iterable[Batch] | None = None,
    loss: Loss = categorical_loss,
    training_loss: OutputLoss | None = None,
    recalibrates_norms: bool = False,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
    grids: Mapping[str, BucketGrid] | None = None,
    coder: str = DEFAULT_CODER,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Quantise a trained model and code it as one small file.

    Parameters
    ----------
    source
        A module or a state dict, which is not changed; or the path of a checkpoint or of a model folder.
    target_bytes, target_ratio, target_bits_per_weight, max_drop
        The goal, at most one: see :class:`metaq.compression.goal.Goal`. Without any, the default quality: small errors
        that most models do not feel.
    accuracy
        Figure of merit of a state dict; needed for `max_drop`, in whose unit it is.
    batches
        Inputs for calibration, which need no labels; `source` must be a module then. Errors count as far as they change
        the outputs; without batches, by their size alone. Without a goal, the file has the size that it has without
        batches.
    loss
        What calibration measures; :func:`~metaq.quantize.curvature.random_projection_loss` where nothing is classified.
    training_loss
        From the output for a batch and its number to the mean loss, such as cross-entropy with the batch's labels. With
        it, tensors are quantised one after the other, and those still to come make up for the loss.
    recalibrates_norms
        Whether running statistics of batch normalisation are measured anew on the batches.
    include, exclude, filter_fn
        The tensors to quantise, see :func:`~metaq.model.selection.select`. All others are kept exactly, but for running
        statistics of batch normalisation, which are rounded so that they harm outputs far less than the weights do.
    grids
        Bucket grids by name of the tensor instead of all that; tensors without one are kept exactly.
    coder
        ``"small"``, or ``"fast"``, which decodes many times faster and takes a few percent more.
    metadata
        Small free facts to keep in the file.
    progress
        Shows how far it is.

    Raises
    ------
    ConfigError
        If an option does not fit, or the goal cannot be met.
    FormatError
        If a file or folder cannot be read.
    """
    goal = Goal(
        target_bytes=target_bytes,
        target_ratio=target_ratio,
        target_bits_per_weight=target_bits_per_weight,
        max_drop=max_drop,
    )
    require(max_drop is None or accuracy is not None, "max_drop: needs a way to measure accuracy; give one.")
    require(
        batches is not None or (training_loss is None and not recalibrates_norms),
        "training_loss, recalibrates_norms: need calibration data; give batches.",
    )
    require(batches is None or grids is None, "grids: they leave nothing to calibrate; give no batches.")
    model = open_model(source)
    selection = _selection(model, goal, include=include, exclude=exclude, filter_fn=filter_fn, grids=grids)
    job = _Job(model, selection, goal, grids, coder, metadata or {}, progress or NoProgress())
    _check(model, coder)
    before = None if accuracy is None else accuracy(model.state_dict())
    lowest = None if before is None or max_drop is None else before - max_drop
    if batches is None:
        found = _without_data(job, accuracy, lowest)
    else:
        calibrated = _calibrated(job, list(batches), loss, training_loss, recalibrates_norms)
        found = _with_data(job, calibrated, accuracy, lowest)
    if accuracy is None:
        return found
    return replace(found, accuracy=accuracy(found.state_dict()), float_accuracy=before)


def compress_to_file(
    model: OpenedModel,
    out: Path,
    goal: Goal,
    *,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    grids: Mapping[str, BucketGrid] | None = None,
    coder: str = DEFAULT_CODER,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
    is_resumable: bool = True,
) -> Report:
    """What :func:`compress` does without data, for models that need not fit into memory.

    Tensors are quantised one after the other. Memory is that of some blocks of weights, of the bases of tall matrices,
    and of the largest tensor that is kept exactly. What is done is kept beside the output until that is there, and the
    same call goes on from it.

    Parameters
    ----------
    model
        Of :func:`metaq.model.opened.open_model`.
    out
        The file; an older one is replaced.
    goal
        A size, or nothing.
    include, exclude, grids, coder, metadata, progress
        See :func:`compress`.
    is_resumable
        Whether the model will still be there for the same call to go on; otherwise an interrupted call leaves nothing.

    Raises
    ------
    ConfigError
        If an option does not fit, no file is small enough, or another run is at work on this output.
    FormatError
        If the model cannot be read.
    OutputError
        If the file or what is kept beside it cannot be written.
    """
    require(goal.max_drop is None, "max_drop: accuracy is measured on data; give a size, or nothing.")
    selection = _selection(model, goal, include=include, exclude=exclude, filter_fn=None, grids=grids)
    job = _Job(model, selection, goal, grids, coder, metadata or {}, progress or NoProgress())
    limit = job.limit_bytes
    _check(model, coder)
    record: Record = {
        "recipe": RECIPE,
        "model": model.fingerprint,
        "limit": limit,
        "quantized": sorted(selection.names),
        "grids": None
        if grids is None
        else {name: [grid.center.hex(), grid.radius.hex(), grid.count] for name, grid in sorted(grids.items())},
        "coder": coder,
    }
    with Reader() as reader, WorkFolder(out, record) as work:
        run = job.uncalibrated(reader, work)
        try:
            if grids is not None:
                report = run.on_grids(out, grids)
            else:
                report = run.at(out) if limit is None else run.to_limit(out, limit)
        except BaseException as error:
            # What cannot be done is not gone on with.
            if isinstance(error, ConfigError) or not is_resumable or model.fingerprint is None:
                work.remove()
            raise
        work.remove()
    return report


@dataclass(frozen=True, eq=False)
class _Job:
    """What is compressed, and how the file is made; see :func:`compress`."""

    model: OpenedModel
    selection: Selection
    goal: Goal
    grids: Mapping[str, BucketGrid] | None
    coder: str
    metadata: Metadata
    progress: Progress

    @property
    def limit_bytes(self) -> int | None:
        """Most bytes of the file, if the goal is a size."""
        return self.goal.limit_bytes(float_bytes=self.model.float_bytes, weights=self.model.weights)

    def uncalibrated(self, reader: Reader, work: WorkFolder) -> UncalibratedModel:
        """The model, ready to be quantised without data."""
        return UncalibratedModel(
            self.model,
            self.selection,
            reader,
            work,
            coder=self.coder,
            metadata=self.metadata,
            progress=self.progress,
        )


def _without_data(job: _Job, accuracy: Accuracy | None, lowest: float | None) -> Compressed:
    limit = job.limit_bytes
    with TemporaryDirectory() as folder, Reader() as reader:
        out = Path(folder) / "model.metaq"
        with WorkFolder(out, {}) as work:
            model = job.uncalibrated(reader, work)

            def at(multiplier: float) -> Compressed:
                return _read(out, model.at(out, multiplier))

            if job.grids is not None:
                return _read(out, model.on_grids(out, job.grids))
            if limit is not None:
                return _read(out, model.to_limit(out, limit))
            if accuracy is None or lowest is None:
                return at(DEFAULT_MULTIPLIER)
            best = smallest_good(at, lambda found: accuracy(found.state_dict()) >= lowest, DEFAULT_MULTIPLIER)
            return _reached(best, lowest)


def _with_data(job: _Job, model: CalibratedModel, accuracy: Accuracy | None, lowest: float | None) -> Compressed:
    if accuracy is not None and lowest is not None:
        best = model.to_quality(lambda found: accuracy(found.state_dict) >= lowest)
        found = _reached(best, lowest)
    else:
        found = model.to_bytes(job.limit_bytes or _without_data(job, None, None).file_bytes)
    reasons = {**job.selection.reasons, **model.reasons}
    return Compressed(
        data=found.data,
        file_bytes=found.file_bytes,
        float_bytes=job.model.float_bytes,
        weights=job.model.weights,
        coverage=coverage_of(found.tensors).explained(reasons),
        multiplier=found.multiplier,
    )


def _calibrated(
    job: _Job, batches: list[Batch], loss: Loss, training_loss: OutputLoss | None, recalibrates_norms: bool
) -> CalibratedModel:
    module = job.model.module
    if module is None:
        raise ConfigError("batches: calibration needs the module, not its weights alone.")
    names = {job.model.holders[name] for name in job.selection.names}
    chosen = [tensor for tensor in job.model.tensors if tensor.name in names]
    with Reader() as reader:
        facts = {tensor.name: look_at(reader, tensor, job.progress)[0] for tensor in chosen}
        found = sorted_out(reader, chosen, facts)
    return CalibratedModel(
        job.model,
        found,
        curvature=measure(module, batches, loss=loss),
        recovery=None if training_loss is None else Recovery(module, batches, training_loss),
        norm_batches=batches if recalibrates_norms else (),
        coder=job.coder,
        metadata=job.metadata,
    )


def _read(out: Path, report: Report) -> Compressed:
    """The file that was just written, in memory."""
    told = {field.name: getattr(report, field.name) for field in fields(report)}
    return Compressed(**told, data=out.read_bytes())


def _reached(best: Found | None, lowest: float) -> Found:
    if best is None:
        raise ConfigError(f"max_drop: even fine steps do not keep {lowest:g}; allow more.")
    return best


def _selection(
    model: OpenedModel,
    goal: Goal,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    filter_fn: FilterFn | None,
    grids: Mapping[str, BucketGrid] | None,
) -> Selection:
    if grids is None:
        return select(model, include=include, exclude=exclude, filter_fn=filter_fn)
    require(goal == Goal(), "grids: they decide about the size; give no goal.")
    return select_gridded(model, grids)


def _check(model: OpenedModel, coder: str) -> None:
    """Raise :class:`ConfigError` where no file can hold the model, or there is no such coder."""
    require(coder in CHUNK_CODERS, f"coder: there is no coder {coder!r}; choose {' or '.join(CHUNK_CODERS)}.")
    files = () if model.carried is None else model.carried.files
    check_tensors([*files, *model.tensors])
    check_elements(tensor.shape for tensor in model.tensors)
