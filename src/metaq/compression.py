"""Post-training compression to a budget: one number says how much accuracy or how many bytes a file may cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq import checkpoint, container
from metaq.checkpoint import StateDict
from metaq.config import require
from metaq.curvature import Batch, Curvature, Loss, measure, sampled_label_loss
from metaq.errors import ConfigError
from metaq.pipeline import Source, alias_of, compressible_names, state_dict_of
from metaq.quantize.allocation import Target, allocate
from metaq.quantize.rdo import SCALAR_SLOPE, Choice, Importance, matrix_shape, squared_error_importance
from metaq.tensors import ExactTensor, Tensor
from metaq.weights import select_names

Accuracy = Callable[[StateDict], float]
"""From restored weights to a figure of merit, such as percent of images classified rightly; larger is better."""

SHRINKAGE = 0.3
"""Share of the mean in every element's curvature: what calibration hardly touched keeps some worth."""

OUTPUT_SHRINKAGE = 1e-3
"""As ``SHRINKAGE``, for outputs of layers."""

START_STEP = 0.5
"""Step, in standard deviations of the weights, whose λ is tried first."""

WIDENING = 8.0
WIDENINGS = 12
BISECTIONS = 8
NEIGHBOURS = (0.87, 0.93, 1.05, 1.1, 1.15, 1.2, 1.26, 1.32, 1.4, 1.5)
"""Shares of the λ found that are tried too, where accuracy is the budget."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Compressed:
    """A quantised model.

    Attributes
    ----------
    tensors
        All tensors, ready for :func:`metaq.container.write`.
    multiplier
        λ that was found: loss per bit; half a squared error per bit without calibration data.
    distortion
        Estimated gain of the loss; half the squared error without calibration data.
    accuracy, float_accuracy
        Of the quantised and of the original weights on the calibration data, if they were measured.
    """

    tensors: tuple[Tensor, ...]
    multiplier: float
    distortion: float
    accuracy: float | None = None
    float_accuracy: float | None = None

    def state_dict(self) -> StateDict:
        """The quantised weights, as they will be restored from a file."""
        return checkpoint.restore(list(self.tensors))


def compress(
    source: Source,
    budget: Budget,
    *,
    batches: Iterable[Batch] | None = None,
    loss: Loss = sampled_label_loss,
    accuracy: Accuracy | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    corrects_biases: bool = False,
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
        What calibration measures; :func:`metaq.curvature.random_projection_loss` for models that do not classify.
    accuracy
        Figure of merit on calibration data; needed for ``budget.max_drop``.
    include, exclude
        Name globs of the tensors to quantise; all others are kept exactly.
    corrects_biases
        Whether biases make up for the mean error of their layers' outputs, where calibration data are given.
    coder
        Coder of the file.

    Raises
    ------
    ConfigError
        If an option does not fit, or the budget cannot be met.
    """
    curvature: Mapping[str, Curvature] | None = None
    if batches is not None:
        require(isinstance(source, nn.Module), "batches: calibration needs the module, not its state dict.")
        assert isinstance(source, nn.Module)
        curvature = measure(source, batches, loss=loss)
    compressor = Compressor(
        source, curvature=curvature, include=include, exclude=exclude, corrects_biases=corrects_biases
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


class Compressor:
    """Quantises one model for any λ; see :func:`compress` for the arguments.

    Attributes
    ----------
    state_dict
        The original weights.
    """

    def __init__(
        self,
        source: Source,
        *,
        curvature: Mapping[str, Curvature] | None = None,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        corrects_biases: bool = False,
    ) -> None:
        self.state_dict = state_dict_of(source)
        names = select_names(compressible_names(source), include=include, exclude=exclude)
        self._alias = alias_of(self.state_dict, names)
        self._targets = {
            name: _target(name, self.state_dict[name], curvature) for name in names if self._alias[name] == name
        }
        self._inputs = _mean_inputs(self._targets, curvature or {}) if corrects_biases else {}
        self._exact = [
            ExactTensor(name=name, values=checkpoint.to_storage(name, tensor), dtype=checkpoint.dtype_of(name, tensor))
            for name, tensor in self.state_dict.items()
            if name not in self._alias
        ]

    @property
    def float_bytes(self) -> int:
        """Size of all tensors as the model holds them."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict.values())

    def at(self, multiplier: float) -> Compressed:
        """Quantise for λ = `multiplier`."""
        biases = {_bias_of(name) for name in self._inputs}
        weights = {name: target for name, target in self._targets.items() if name not in biases}
        choices = allocate(weights, multiplier=multiplier)
        corrected = {
            _bias_of(name): _corrected(self._targets[_bias_of(name)], weights[name], choices[name], mean)
            for name, mean in self._inputs.items()
        }
        choices |= allocate(corrected, multiplier=multiplier)
        quantized = [replace(choices[first].tensor, name=name) for name, first in self._alias.items()]
        return Compressed(
            tensors=(*quantized, *self._exact),
            multiplier=multiplier,
            distortion=sum(choice.distortion for choice in choices.values()),
        )

    def to_bytes(self, limit: int, *, coder: str = container.DEFAULT_CODER) -> Compressed:
        """The best quantisation whose file has at most `limit` bytes.

        Raises
        ------
        ConfigError
            If no file is that small.
        """

        def is_small(found: Compressed) -> bool:
            return len(container.encode(found.tensors, coder=coder)) <= limit

        _, small = self._boundary(is_small)
        if small is None:
            raise ConfigError(f"target_bytes: no file of {limit} bytes can be made of this model; allow more bytes.")
        return small

    def to_accuracy(self, lowest: float, accuracy: Accuracy, *, coder: str = container.DEFAULT_CODER) -> Compressed:
        """The smallest file found whose weights reach `lowest`.

        Raises
        ------
        ConfigError
            If even fine steps do not reach it.
        """
        figures: dict[float, float] = {}

        def is_worse(found: Compressed) -> bool:
            figures[found.multiplier] = accuracy(found.state_dict())
            return figures[found.multiplier] < lowest

        good, _ = self._boundary(is_worse)
        if good is None:
            raise ConfigError(f"max_drop: even fine steps do not keep {lowest:g} on the calibration data; allow more.")
        # Near the limit the accuracy is noisy in λ; the smallest of several files that keep it is taken.
        near = [self.at(good.multiplier * factor) for factor in NEIGHBOURS]
        kept = [good, *(found for found in near if not is_worse(found))]
        best = min(kept, key=lambda found: len(container.encode(found.tensors, coder=coder)))
        return replace(best, accuracy=figures[best.multiplier])

    def _boundary(self, is_beyond: Callable[[Compressed], bool]) -> tuple[Compressed | None, Compressed | None]:
        """The coarsest quantisation found on the near side of a limit, and the finest beyond it.

        `is_beyond` is false for small λ and true for large ones, but for noise.
        """
        found = self.at(self._first_multiplier())
        near, beyond = (None, found) if is_beyond(found) else (found, None)
        for _ in range(WIDENINGS):
            if near is not None and beyond is not None:
                break
            found = self.at(found.multiplier * (WIDENING if beyond is None else 1 / WIDENING))
            if is_beyond(found):
                beyond = found
            else:
                near = found
        for _ in range(BISECTIONS):
            if near is None or beyond is None:
                break
            found = self.at(math.sqrt(near.multiplier * beyond.multiplier))
            if is_beyond(found):
                beyond = found
            else:
                near = found
        return near, beyond

    def _first_multiplier(self) -> float:
        """λ that suits a step of ``START_STEP`` standard deviations of the weights, the median over all of them."""
        slopes = [
            target.importance.mean * float(np.var(target.values.astype(np.float64)) or 1.0)
            for target in self._targets.values()
        ]
        counts = [target.values.size for target in self._targets.values()]
        order = np.argsort(slopes)
        middle = order[np.searchsorted(np.cumsum(np.array(counts)[order]), sum(counts) / 2)]
        return float(max(SCALAR_SLOPE * START_STEP**2 * slopes[middle] / 2, 1e-300))


def _target(name: str, tensor: torch.Tensor, curvature: Mapping[str, Curvature] | None) -> Target:
    values = tensor.detach().double().cpu().numpy()
    require(bool(np.isfinite(values).all()), f"{name}: holds NaN or infinity, which cannot be quantised.")
    dtype = checkpoint.dtype_of(name, tensor)
    if curvature is None:
        return Target(name=name, values=values, dtype=dtype, importance=squared_error_importance(values.shape))
    require(name in curvature, f"{name}: there is no curvature for it; exclude it or calibrate the module it is in.")
    return Target(name=name, values=values, dtype=dtype, importance=_importance(curvature[name], values.shape))


def _importance(curvature: Curvature, shape: tuple[int, ...]) -> Importance:
    elements = curvature.diagonal.reshape(matrix_shape(shape))
    mean = max(float(elements.mean()), 1e-30)
    if elements.shape[0] > 1:
        # Single elements are too noisy to be trusted; rows and columns are not.
        elements = np.outer(elements.mean(axis=1), elements.mean(axis=0)) / mean
    smoothed = (1 - SHRINKAGE) * elements + SHRINKAGE * mean
    if curvature.inputs is None or curvature.outputs is None:
        return Importance(elements=smoothed)
    outputs = curvature.outputs + OUTPUT_SHRINKAGE * max(float(curvature.outputs.mean()), 1e-30)
    return Importance(elements=smoothed, inputs=curvature.inputs, outputs=outputs)


def _mean_inputs(targets: Mapping[str, Target], curvature: Mapping[str, Curvature]) -> dict[str, NDArray[np.float64]]:
    """Mean inputs of the layers whose biases are quantised too, by name of the weight."""
    return {
        name: found.mean_inputs
        for name, found in curvature.items()
        if found.mean_inputs is not None and name in targets and _bias_of(name) in targets
    }


def _bias_of(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def _corrected(bias: Target, weight: Target, choice: Choice, mean_inputs: NDArray[np.float64]) -> Target:
    errors = choice.tensor.values() - weight.values
    return replace(bias, values=bias.values - errors.reshape(len(errors), -1) @ mean_inputs)
