"""Post-training compression to a budget: one number says how much accuracy or how many bytes a file may cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from metaq import container
from metaq.compression.compressor import Accuracy, Compressed, Compressor
from metaq.config import require
from metaq.model.selection import Source
from metaq.model.weights import ANY, FilterFn
from metaq.quantize.curvature import Batch, Curvature, Loss, categorical_loss, measure
from metaq.quantize.recovery import OutputLoss, Recovery


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How small, or how good, the file has to be; exactly one is given.

    Attributes
    ----------
    max_drop
        Points of accuracy on the calibration data that may be lost.
    target_bytes
        Largest size of the file.
    target_ratio
        Least ratio of the tensors' bytes to the file's.

    Raises
    ------
    ConfigError
        If not exactly one is given, or it is out of range.
    """

    max_drop: float | None = None
    target_bytes: int | None = None
    target_ratio: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.max_drop, self.target_bytes, self.target_ratio) if value is not None]
        require(len(given) == 1, "budget: give one of max_drop, target_bytes and target_ratio.")
        require(math.isfinite(given[0]) and given[0] >= 0, f"budget: {given[0]} must not be negative.")
        require(self.target_ratio is None or self.target_ratio > 0, "target_ratio: must be positive.")


def compress(
    source: Source,
    budget: Budget,
    *,
    batches: Iterable[Batch] | None = None,
    loss: Loss = categorical_loss,
    training_loss: OutputLoss | None = None,
    accuracy: Accuracy | None = None,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
    corrects_biases: bool = False,
    recalibrates_norms: bool = False,
    coder: str = container.DEFAULT_CODER,
) -> Compressed:
    """Quantise a trained model to a budget.

    Parameters
    ----------
    source
        A module or a state dict; it is not changed.
    budget
        What to reach.
    batches
        Inputs for calibration, which need no labels; `source` must be a module then. Without them every squared error
        counts the same.
    loss
        What calibration measures; :func:`~metaq.quantize.curvature.random_projection_loss` where nothing is classified.
    training_loss
        From the output for a batch and its number to the mean loss, such as cross-entropy with the batch's labels. With
        it, tensors are quantised one after the other, and those still to come make up for the loss.
    accuracy
        Figure of merit on calibration data; needed for ``budget.max_drop``.
    include, exclude, filter_fn
        The tensors to quantise, see :func:`~metaq.model.selection.select`; where neither `include` nor `filter_fn` is
        given, scalars and tensors of no more bytes than a grid takes are not. All others are kept exactly, but for
        running statistics of batch normalisation, which are rounded so that they harm outputs far less than the weights
        do.
    corrects_biases
        Whether biases make up for the mean error of their layers' outputs, where calibration data are given; not with
        `training_loss`, which sees to it.
    recalibrates_norms
        Whether running statistics of batch normalisation are measured anew on the calibration data.
    coder
        Coder of the file.

    Raises
    ------
    ConfigError
        If an option does not fit, or the budget cannot be met.
    """
    require(
        batches is not None or (training_loss is None and not recalibrates_norms),
        "training_loss, recalibrates_norms: need calibration data; give batches.",
    )
    curvature: Mapping[str, Curvature] | None = None
    recovery: Recovery | None = None
    given: list[Batch] = [] if batches is None else list(batches)
    if batches is not None:
        require(isinstance(source, nn.Module), "batches: calibration needs the module, not its state dict.")
        assert isinstance(source, nn.Module)
        curvature = measure(source, given, loss=loss)
        recovery = None if training_loss is None else Recovery(source, given, training_loss)
    compressor = Compressor(
        source,
        curvature=curvature,
        recovery=recovery,
        include=include,
        exclude=exclude,
        filter_fn=filter_fn,
        corrects_biases=corrects_biases,
        norm_batches=given if recalibrates_norms else (),
    )
    if budget.max_drop is not None:
        require(accuracy is not None, "max_drop: needs a way to measure accuracy; give one, or a budget in bytes.")
        assert accuracy is not None
        before = accuracy(compressor.state_dict)
        found = compressor.to_accuracy(before - budget.max_drop, accuracy, coder=coder)
        return replace(found, float_accuracy=before)
    limit = budget.target_bytes
    if limit is None:
        assert budget.target_ratio is not None
        limit = int(compressor.float_bytes / budget.target_ratio)
    found = compressor.to_bytes(limit, coder=coder)
    if accuracy is None:
        return found
    return replace(found, accuracy=accuracy(found.state_dict()), float_accuracy=accuracy(compressor.state_dict))
