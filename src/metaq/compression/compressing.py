"""Any model as one file, to a goal: the one way there is, whatever the model and wherever it lies."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from reprlib import repr as shortened
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from metaq.compression.batches import held_out, prepared
from metaq.compression.belonging import require_on_grids
from metaq.compression.calibrated import CalibratedModel, are_near
from metaq.compression.compressed import Compressed, Goal, Report
from metaq.compression.figure import Accuracy, Figure
from metaq.compression.network import Network, packed
from metaq.compression.options import (
    globs,
    require_coder,
    require_functions,
    require_metadata,
    require_model,
    require_progress,
)
from metaq.compression.pipeline import exact_tensor, on_grid
from metaq.compression.planning import DEFAULT_MULTIPLIER, Rule, default_multiplier
from metaq.compression.quality import Kept, kept, kept_by_each
from metaq.compression.search import smallest_good, smallest_keeping
from metaq.compression.survey import look_at, sorted_out, survey
from metaq.compression.uncalibrated import Request, UncalibratedModel
from metaq.compression.updating import Update, update_of
from metaq.compression.work import Record, WorkFolder
from metaq.config import require
from metaq.container import DEFAULT_CODER, Metadata
from metaq.container.fields import check_elements, check_tensors
from metaq.errors import ConfigError
from metaq.model.applying import Model, is_packed, model_of
from metaq.model.checkpoint import StateDict
from metaq.model.opened import AnyModel, OpenedModel, open_model
from metaq.model.selection import LOSSLESS, Selection, fitted_grids, select, select_gridded
from metaq.model.stored import Reader
from metaq.model.weights import ANY, FilterFn
from metaq.progress import NoProgress, Progress, tracked
from metaq.quantize.curvature import (
    Batch,
    Curvature,
    Loss,
    categorical_loss,
    measure,
    random_projection_loss,
    require_gradients,
)
from metaq.quantize.recovery import OutputLoss, Recovery
from metaq.tensors.coverage import coverage_of
from metaq.tensors.grid import BucketGrid, TrainedGrids
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, matrix_shape, under_all_names

UNREACHED_SHARE = 0.25
"""What a relative error counts in a tensor on which no output depends, over the median of the others."""

WEIGHING_BATCHES = 8
"""Batches that tell how much errors of each kind of tensor matter."""

FEW_SAMPLES = 200
"""Of fewer that are held out, a failure of some in a hundred is easily missed; then those that calibrate count, too."""

USUAL_OF_CHANGES = 4.0
"""λ of an update without a goal over that of steps of half a standard deviation of the changes."""

SHARPNESS_OF_CHANGES = 0.5
"""Power of what errors count in a tensor of weights: halfway to where all errors of changes count the same."""

FEW_BYTES = 2
"""A change of numbers of so many bytes may take fewer bytes exactly than with an error."""

TYPICAL_IMPORTANCE = 2.0
"""Of an element by the rule for weights without data, about."""

PACKED_OPTIONS = {"coder", "metadata", "progress"}
"""Options of an update of a model that is compressed already."""

LEAST_GRADIENTS = 32
"""About how many gradients of batches curvature is measured with, at least."""

RECIPE = 10
"""Changes with the file that the same options give, or with what is kept of half a one: neither may be gone on with."""


def compress(
    source: AnyModel | OpenedModel,
    *,
    key: str | None = None,
    keep_all: bool = False,
    lossless: bool = False,
    target_bytes: int | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
    max_drop: float | None = None,
    target_value: float | None = None,
    keep: float | None = None,
    larger_is_better: bool | None = None,
    accuracy: Accuracy | None = None,
    batches: Iterable[object] | None = None,
    module: nn.Module | None = None,
    loss: Loss | None = None,
    training_loss: OutputLoss | None = None,
    recalibrates_norms: bool = False,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
    grids: Mapping[str, BucketGrid] | None = None,
    coder: str = DEFAULT_CODER,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
    base: AnyModel | Model | None = None,
) -> Compressed:
    """Quantise a trained model and code it as one small file.

    Parameters
    ----------
    source
        A module or a state dict, which is not changed; or the path of a model file or of a folder.
    key, keep_all
        Of files, see :func:`metaq.model.opened.open_model`.
    lossless
        Whether all tensors are kept bit for bit, and of a file everything else, too.
    target_bytes, target_ratio, target_bits_per_weight, max_drop, target_value, keep
        The goal, at most one: see :class:`metaq.compression.compressed.Goal`. Without any, the default quality: small
        errors that most models do not feel.
    accuracy
        Figure of merit of a state dict; needed for `max_drop` and `target_value`, in whose unit it is. Of the original
        weights it must be a finite number. It may load the weights into the model itself, or into `module`: what their
        tensors held is put back after every call, for which a copy of them is kept.
    larger_is_better
        Of that figure, which is an accuracy by default; False for a loss.
    batches
        Inputs for calibration, which need no labels: a data loader, a list or a generator of tensors, of tuples of
        positional or mappings of keyword arguments, or a single tensor; numpy's arrays will do
        (:func:`metaq.compression.batches.prepared`). Errors count as far as they change the outputs; without batches,
        by their size alone. A batch that makes NaN or infinity of that is refused. Without a goal, the file has the
        size that it has without batches. Every fourth batch, or sample of a single batch, is held out and tells how
        much of the outputs is kept (:mod:`metaq.compression.quality`); unless `accuracy` or `training_loss` tell how
        good the weights are, and `keep` does not ask for it.
    module
        What computes with the tensors of `source` on the batches, if that is no module; it has been given their values.
        Its names may be others.
    loss
        What calibration measures. By default, the squared error of all tensors of the output; of a matrix of logits,
        where `accuracy` or `training_loss` say that it is one, the divergence of classes
        (:func:`~metaq.quantize.curvature.categorical_loss`).
    training_loss
        From the output for a batch and its number to the mean loss, such as cross-entropy with the batch's labels. With
        it, tensors are quantised one after the other, and those still to come make up for the loss.
    recalibrates_norms
        Whether running statistics of batch normalisation are measured anew on the batches.
    include, exclude, filter_fn
        The tensors to quantise, see :func:`~metaq.model.selection.select`. All others are kept exactly, but for running
        statistics of batch normalisation, which are rounded so that they harm outputs far less than the weights do.
    grids
        Bucket grids by name of the tensor instead of all that; tensors without one are kept exactly. Weights are
        rounded to them, unless they are those of a training, of which they must be.
    coder
        ``"small"``, or ``"fast"``, which decodes many times faster and takes a few percent more.
    metadata
        Small free facts to keep in the file.
    progress
        Shows how far it is.
    base
        A model that whoever reads the file has already: the file is an update of it, see :func:`diff`.

    Raises
    ------
    ConfigError
        If an option does not fit, the goal cannot be met, or weights are not on the grids of the training that are
        given for them.
    FormatError
        If a file or folder cannot be read.
    """
    goal = Goal(
        target_bytes=target_bytes,
        target_ratio=target_ratio,
        target_bits_per_weight=target_bits_per_weight,
        max_drop=max_drop,
        target_value=target_value,
        keep=keep,
        larger_is_better=larger_is_better,
    )
    require(keep is None or batches is not None, "keep: outputs are compared on inputs; give batches of them.")
    require(module is None or batches is not None, "module: only calibration needs it; give batches, too.")
    require(keep is None or training_loss is None, "keep: takes no labels; give no training_loss, or max_drop.")
    require(not goal.is_quality or accuracy is not None, "max_drop, target_value: need a figure; give accuracy.")
    require(
        batches is not None or (training_loss is None and not recalibrates_norms),
        "training_loss, recalibrates_norms: need calibration data; give batches.",
    )
    require(batches is None or grids is None, "grids: they leave nothing to calibrate; give no batches.")
    require_model("source", source, OpenedModel)
    if base is not None:
        require_model("base", base, Model, bytes)
    require_functions(accuracy=accuracy, loss=loss, training_loss=training_loss)
    require(
        module is None or isinstance(module, nn.Module),
        f"module: {shortened(module)} is no module; give the network that computes with the weights.",
    )
    model = source
    if not isinstance(model, OpenedModel):
        # Of an update, lossless speaks of tensors alone.
        model = open_model(model, key=key, keep_all=keep_all, lossless=lossless and base is None)
    require(not lossless or batches is None, "lossless: leaves nothing to calibrate; give no batches.")
    request = _request(
        model,
        goal,
        lossless=lossless,
        include=include,
        exclude=exclude,
        filter_fn=filter_fn,
        grids=grids,
        coder=coder,
        metadata=metadata,
        progress=progress,
        base=None if base is None else model_of(base),
    )
    require(base is None or training_loss is None, "training_loss: updates are not recovered; leave it out.")
    calibrating_module = module or model.module
    if batches is not None and calibrating_module is not None:
        require_gradients(calibrating_module)
    figure = None if accuracy is None else Figure(accuracy, model, module, request.progress)
    before = None if figure is None else figure.of_original()
    is_good = None
    if figure is not None and before is not None and goal.is_quality:
        judged, bound = figure, goal.bound(before)
        is_good = lambda weights: goal.keeps(judged(weights), bound)  # noqa: E731
    if batches is None:
        found = _without_data(request, is_good)
    else:
        has_labels = figure is not None or training_loss is not None
        network = Network(request, module)
        # Labels go by the number of the batch, so that with them a single tensor is not cut.
        given = prepared(module or network.module, batches, is_whole=training_loss is not None)
        calibrating, others = (given, []) if has_labels and keep is None else held_out(module or network.module, given)
        require(keep is None or bool(others), "keep: nothing is left to compare outputs on; give two samples.")
        calibrated = _calibrated(
            network,
            calibrating,
            batch_names=_batch_names(batches, given, calibrating),
            loss=loss or partial(_usual_loss, is_classifier=has_labels),
            recovery=None if training_loss is None else Recovery(network.module, calibrating, training_loss),
            norm_batches=calibrating if recalibrates_norms else (),
            base=network.base,
        )
        limit = request.limit_bytes
        if limit is None and is_good is None and keep is None:
            usual = _without_data(request, None)
            assert usual is not None
            limit = usual.file_bytes
        if not has_labels and loss in (None, random_projection_loss):
            _weigh(network, calibrated, calibrating, limit)
        found = _with_data(request, network, calibrated, calibrating, others, limit, is_good)
    if found is None and is_good is not None:
        raise ConfigError(f"max_drop, target_value: even fine steps do not keep {bound:g}; allow more.")
    if found is None:
        raise ConfigError(f"keep: even fine steps do not keep {keep:g}; ask for less.")
    if figure is None:
        return found
    return replace(found, accuracy=figure(found.state_dict()), float_accuracy=before)


def diff(
    base: AnyModel | Model, new: AnyModel | Model | OpenedModel, *, lossless: bool = False, **options: Any
) -> Update:
    """What has changed between two models, as one small file: an update of `base`.

    :func:`metaq.load` restores it with the same base, and ``metaq apply`` from the command line. Tensors that are as
    the base has them cost nothing. Of a `new` model that is compressed already, every bit comes back; of another one,
    the change is quantised as :func:`compress` quantises weights, or kept bit for bit.

    Parameters
    ----------
    base
        A module, a state dict, or the path of a file or folder; tensors go by their names. Whoever reads the update
        must have the same one, bit for bit, in whatever form.
    new
        The same.
    lossless
        Whether every tensor comes back bit for bit.
    options
        Of :func:`compress`: a goal, `batches`, `module`, `include`, …; of a model that is compressed already, `coder`
        and `metadata` alone.

    Raises
    ------
    ConfigError, FormatError
        As by :func:`compress`.
    """
    require_model("base", base, Model, bytes)
    require_model("new", new, Model, OpenedModel, bytes)
    known = model_of(base)
    if not is_packed(new):
        found = compress(new, lossless=lossless, base=known, **options)  # type: ignore[arg-type]
        assert isinstance(found, Update)
        return found
    left = sorted(options.keys() - PACKED_OPTIONS)
    require(not left, f"{', '.join(left)}: the new model is compressed already; leave it out.")
    require_metadata(options.get("metadata"))
    require_coder(options.get("coder", DEFAULT_CODER))
    packed_model = model_of(new)  # type: ignore[arg-type]
    metadata = {**packed_model.metadata, **(options.pop("metadata", None) or {})}
    options.pop("progress", None)
    elements = packed_model.elements.values()
    return update_of(
        known,
        packed_model.tensors,
        metadata,
        float_bytes=sum(tensor.values.nbytes for tensor in elements),
        weights=sum(tensor.values.size for tensor in elements),
        coverage=coverage_of(packed_model.tensors),
        **options,
    )


def compress_to_file(
    model: OpenedModel,
    out: Path,
    goal: Goal,
    *,
    lossless: bool = False,
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
    lossless, include, exclude, grids, coder, metadata, progress
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
    require(not goal.is_quality, "max_drop, target_value: are measured on data; give a size, or nothing.")
    request = _request(
        model,
        goal,
        lossless=lossless,
        include=include,
        exclude=exclude,
        filter_fn=None,
        grids=grids,
        coder=coder,
        metadata=metadata,
        progress=progress,
    )
    record: Record = {
        "recipe": RECIPE,
        "model": model.fingerprint,
        "limit": request.limit_bytes,
        "quantized": sorted(request.selection.names),
        "grids": None
        if request.grids is None
        else {name: [grid.center.hex(), grid.radius.hex(), grid.count] for name, grid in sorted(request.grids.items())},
        "coder": coder,
    }
    with Reader() as reader, WorkFolder(out, record) as work:
        try:
            report = UncalibratedModel(request, reader, work).write(out)
        except BaseException as error:
            # What cannot be done is not gone on with.
            if isinstance(error, ConfigError) or not is_resumable or model.fingerprint is None:
                work.remove()
            raise
        work.remove()
    return report


def _request(
    model: OpenedModel,
    goal: Goal,
    *,
    lossless: bool,
    include: Sequence[str],
    exclude: Sequence[str],
    filter_fn: FilterFn | None,
    grids: Mapping[str, BucketGrid] | None,
    coder: str,
    metadata: Metadata | None,
    progress: Progress | None,
    base: Model | None = None,
) -> Request:
    """What is asked for, checked: a file can hold it, and the options go together."""
    require_progress(progress)
    require_functions(filter_fn=filter_fn)
    require_metadata(metadata)
    require_coder(coder)
    include, exclude = globs("include", include), globs("exclude", exclude)
    if lossless:
        is_plain = grids is None and filter_fn is None and include == ANY and not exclude and goal == Goal()
        require(is_plain, "lossless: all tensors are kept as they are; give no goal and nothing to quantise.")
        grids, selection = {}, Selection(names=(), reasons=dict.fromkeys(model.holders, LOSSLESS))
    elif grids is None:
        selection = select(model, include=include, exclude=exclude, filter_fn=filter_fn)
    else:
        require(goal == Goal(), "grids: they decide about the size; give no goal.")
        grids = fitted_grids(model, grids)
        selection = select_gridded(model, grids)
    if isinstance(grids, TrainedGrids):
        require_on_grids(model, grids)
    if goal.limit_bytes(float_bytes=model.float_bytes, weights=model.weights) == 0:
        raise ConfigError(
            f"{goal.size_option}: {getattr(goal, goal.size_option):g} leaves no byte for a file of this model, whose "
            f"tensors have {model.float_bytes:,} bytes; ask for a larger file."
        )
    check_tensors([*model.rest.files, *model.tensors])
    check_elements(tensor.shape for tensor in model.tensors)
    return Request(model, selection, goal, grids, coder, metadata or {}, progress or NoProgress(), base)


def _without_data(request: Request, is_good: Callable[[StateDict], bool] | None) -> Compressed | None:
    if request.base is not None:
        return _change_without_data(request, request.base, is_good)
    with TemporaryDirectory() as folder, Reader() as reader:
        out = Path(folder) / "model.metaq"
        with WorkFolder(out, {}) as work:
            model = UncalibratedModel(request, reader, work)
            if is_good is None:
                return _read(out, model.write(out))
            return smallest_good(
                lambda multiplier: _read(out, model.at(out, multiplier)),
                lambda found: is_good(found.state_dict()),
                DEFAULT_MULTIPLIER,
            )


def _change_without_data(
    request: Request, base: Model, is_good: Callable[[StateDict], bool] | None
) -> Compressed | None:
    """An update, in memory: errors of the change count nearly as those of the weights would."""
    model = request.model
    if request.grids is not None:
        return _change_on_grids(request, request.grids)
    names = {model.holders[name] for name in request.selection.names}
    chosen = [tensor for tensor in model.tensors if tensor.name in names]
    with Reader() as reader:
        seen = survey(reader, chosen, request.progress)
        found = sorted_out(reader, chosen, seen.facts)
    rule = Rule(found, seen, request.coder)
    weights, known = model.state_dict(), base.state_dict()
    curvature = {}
    for tensor in found.weights:
        name = model.first(tensor.name)
        held = [known.get(each) for each in model.holders if model.first(each) == name]
        # Whole tensors, which the base has not, deserve no less than in a file of their own.
        importance = rule.importance(tensor) / TYPICAL_IMPORTANCE
        importance = TYPICAL_IMPORTANCE**SHARPNESS_OF_CHANGES * (
            importance**SHARPNESS_OF_CHANGES if are_near(held, weights[name]) else importance
        )
        rows, columns = matrix_shape(tensor.shape)
        curvature[name] = Curvature(rows=np.full(rows, importance), columns=np.ones(columns))
    change = CalibratedModel(request, found, partial(packed, request), curvature=curvature, base=known)
    if is_good is not None:
        return change.to_quality(lambda tried: is_good(tried.state_dict()))
    limit = request.limit_bytes
    whole = (
        default_multiplier(chosen, model.weights)
        * rule.typical_size**2
        * TYPICAL_IMPORTANCE ** (SHARPNESS_OF_CHANGES - 1)
    )
    usual = min(USUAL_OF_CHANGES * change.usual, whole)
    made = change.at(usual) if limit is None else change.to_bytes(limit)
    if limit is None and any(tensor.dtype.itemsize <= FEW_BYTES for tensor in chosen):
        # Numbers of few bits may differ by less than what an error is told with.
        exact = _change_on_grids(request, {})
        made = exact if exact.file_bytes <= made.file_bytes else made
    return replace(made, relative_error=_error_of_change(known, weights, made.state_dict()))


def _change_on_grids(request: Request, grids: Mapping[str, BucketGrid]) -> Compressed:
    """An update whose tensors are on these grids by their names, and exact without one."""
    model = request.model
    held = {model.holders[name]: grid for name, grid in grids.items()}
    weights = model.state_dict()
    tensors: dict[str, QuantizedTensor | ExactTensor] = {
        tensor.name: on_grid(tensor.name, weights[tensor.name], held[tensor.name])
        if tensor.name in held
        else exact_tensor(tensor.name, weights[tensor.name])
        for tensor in model.tensors
    }
    return packed(request, under_all_names(tensors, model.holders), request.selection.reasons, None)


def _error_of_change(base: StateDict, wanted: StateDict, made: StateDict) -> float | None:
    """Root mean square error of the tensors that changed over the root mean square of the change."""
    errors = squares = 0.0
    for name, tensor in wanted.items():
        if tensor.is_floating_point() and name in base and base[name].shape == tensor.shape:
            squares += float((tensor.double() - base[name].double()).square().sum())
            errors += float((tensor.double() - made[name].double()).square().sum())
    return math.sqrt(errors / squares) if 0 < squares < math.inf else None


def _with_data(
    request: Request,
    network: Network,
    model: CalibratedModel,
    calibrating: Sequence[Batch],
    others: Sequence[Batch],
    limit: int | None,
    is_good: Callable[[StateDict], bool] | None,
) -> Compressed | None:
    keep = request.goal.keep

    def measured(found: Compressed) -> Compressed:
        if not others:
            return found
        weights = network.weights(found)

        def compared(batches: Sequence[Batch]) -> Kept:
            return kept(network.module, weights, tracked(batches, request.progress, "comparing outputs"))

        told = compared(others)
        if keep is not None and keep <= told.score and told.samples < FEW_SAMPLES:
            told = min(told, compared(calibrating), key=lambda each: each.score)
        return replace(found, kept=told.score, kept_error=told.error)

    if is_good is not None:
        return model.to_quality(lambda found: is_good(found.state_dict()))
    if keep is not None:
        return smallest_keeping(
            lambda multiplier: measured(model.at(multiplier)),
            lambda found: 1 - (found.kept or 0),
            1 - keep,
            model.usual,
        )
    assert limit is not None
    return measured(model.to_bytes(limit))


def _calibrated(
    network: Network,
    batches: list[Batch],
    *,
    batch_names: Sequence[str],
    loss: Loss,
    recovery: Recovery | None,
    norm_batches: Sequence[Batch],
    base: StateDict | None = None,
) -> CalibratedModel:
    request, model = network.request, network.request.model
    names = {model.holders[name] for name in request.selection.names}
    chosen = [tensor for tensor in model.tensors if tensor.name in names]
    request.progress.stage("looking at weights", sum(tensor.size_bytes for tensor in chosen))
    with Reader() as reader:
        facts = {tensor.name: look_at(reader, tensor, request.progress)[0] for tensor in chosen}
        found = sorted_out(reader, chosen, facts)
    measured = measure(
        network.module,
        tracked(batches, request.progress, "measuring curvature"),
        loss=loss,
        draws=max(LEAST_GRADIENTS // max(len(batches), 1), 1),
        batch_names=batch_names,
        needed={model.first(tensor.name) for tensor in found.weights},
    )
    squares = {model.first(name): each.mean_square for name, each in facts.items()}
    curvature = _completed(measured, squares, network.transposed)
    del measured
    return CalibratedModel(
        request,
        found,
        network.packed,
        curvature=curvature,
        recovery=recovery,
        norm_batches=norm_batches,
        base=base,
    )


def _weigh(network: Network, model: CalibratedModel, batches: Sequence[Batch], limit: int | None) -> None:
    def losses(tries: Sequence[StateDict]) -> list[float]:
        # Batches may come sorted by length.
        some = tracked(batches[:: -(-len(batches) // WEIGHING_BATCHES)], network.request.progress, "comparing outputs")
        return [1 - each.score for each in kept_by_each(network.module, tries, some)]

    model.weigh(losses, limit)


def _completed(
    curvature: Mapping[str, Curvature], mean_squares: Mapping[str, float], transposed: Collection[str]
) -> dict[str, Curvature]:
    """The same, with some worth for tensors that no output depended on: errors count relative to the size of weights.

    What is not calibrated must not be spoilt: other inputs may need it. Matrices that the module has `transposed` get a
    matrix over inputs, with which they take no basis.
    """
    worths = {name: curvature[name].mean * square for name, square in mean_squares.items()}
    reached = [worth for worth in worths.values() if worth > 0]
    usual = UNREACHED_SHARE * float(np.median(reached)) if reached else 1.0
    made = {
        name: Curvature(
            rows=np.full_like(curvature[name].rows, usual / mean_squares[name]),
            columns=np.ones_like(curvature[name].columns),
        )
        for name, worth in worths.items()
        if worth == 0 and mean_squares[name] > 0
    }
    for name in made.keys() & transposed:
        own = made[name]
        made[name] = replace(own, inputs=np.eye(len(own.columns), dtype=np.float32), outputs=own.rows)
    return {**curvature, **made}


def _usual_loss(output: object, generator: torch.Generator, *, is_classifier: bool) -> tuple[torch.Tensor, int]:
    """What calibration measures by default."""
    is_logits = isinstance(output, torch.Tensor) and output.ndim == 2 and output.shape[1] > 1
    return (categorical_loss if is_classifier and is_logits else random_projection_loss)(output, generator)


def _batch_names(batches: object, given: Sequence[Batch], calibrating: Sequence[Batch]) -> list[str]:
    """What messages call those of the `given` batches that calibrate; `batches` are what they were made of."""
    names = [f"number {number}" for number in range(1, len(given) + 1)]
    if isinstance(batches, torch.Tensor | np.ndarray) and len(given) > 1:
        ends = accumulate(map(len, given))
        names = [f"the part [{end - len(batch)}:{end}]" for batch, end in zip(given, ends, strict=True)]
    known = {id(batch): name for batch, name in zip(given, names, strict=True)}
    # What a single batch was cut into has its name.
    return [known.get(id(batch), names[0]) for batch in calibrating]


def _read(out: Path, report: Report) -> Compressed:
    """The file that was just written, in memory."""
    told = {field.name: getattr(report, field.name) for field in fields(report)}
    return Compressed(**told, data=out.read_bytes())
