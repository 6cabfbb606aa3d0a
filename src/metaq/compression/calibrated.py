"""Quantising one model for any λ, and the search for the λ that meets a limit of bytes or of accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from metaq import container
from metaq.compression.pipeline import exact_tensor, model_bytes, to_tensors
from metaq.config import require
from metaq.errors import ConfigError
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.norms import TOLERANCE, rounded_norms
from metaq.model.selection import RUNNING_STATISTICS, TOO_SMALL, Source, select, state_dict_of
from metaq.model.weights import ANY, FilterFn
from metaq.quantize.allocation import allocate
from metaq.quantize.curvature import Batch, Curvature
from metaq.quantize.rdo import SCALAR_SLOPE, Choice
from metaq.quantize.recalibration import recalibrated
from metaq.quantize.recovery import Recovery
from metaq.quantize.targets import bias_of, corrected, mean_inputs_of, target_of, values_of
from metaq.tensors.coverage import Coverage, coverage_of
from metaq.tensors.quantized import ExactTensor, QuantizedTensor, Tensor, TiedTensor

Accuracy = Callable[[StateDict], float]
"""From restored weights to a figure of merit, such as percent of images classified rightly; larger is better."""

START_STEP = 0.5
"""Step, in standard deviations of the weights, whose λ is tried first."""

WIDENING = 8.0
WIDENINGS = 12
BISECTIONS = 8
RECOVERED_WIDENING = 2.5
RECOVERED_BISECTIONS = 3
"""With recovery every λ takes gradients of the loss; fewer are tried."""

RECOVERED_TRIES = 8
SIZE_EXPONENT = 3.5
"""About how many percent λ changes for a percent of the file's size."""

SIZE_MARGIN = 0.985
"""Share of the limit from which a file is large enough."""

SMALLEST_GRID_BYTES = 4
"""Scalars, and tensors of no more bytes than a grid takes, are stored exactly."""

NORM_SHARE, LEAST_NORM_TOLERANCE = 0.1, 1e-4
"""By how much statistics of batch normalisation may falsify outputs, over what the weights do; and at least."""

NEIGHBOURS = (0.87, 0.93, 1.05, 1.1, 1.15, 1.2, 1.26, 1.32, 1.4, 1.5)
"""Shares of the λ found that are tried too, where accuracy is the budget."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compressed:
    """A quantised model.

    Attributes
    ----------
    tensors
        All tensors, ready for :func:`metaq.container.write`.
    multiplier
        λ that was found: loss per bit; squared error per bit without calibration data.
    distortion
        Estimated gain of the loss; the squared error without calibration data. With a training loss it is counted from
        the weights that had made up for others.
    accuracy, float_accuracy
        Of the quantised and of the original weights on the calibration data, if they were measured.
    reasons
        Why tensors are stored exactly, by name.
    """

    tensors: tuple[Tensor, ...]
    multiplier: float
    distortion: float
    accuracy: float | None = None
    float_accuracy: float | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def coverage(self) -> Coverage:
        """How much of the model is quantised, and what is not and why."""
        return coverage_of(self.tensors).explained(self.reasons)

    def state_dict(self) -> StateDict:
        """The quantised weights, as they will be restored from a file."""
        return checkpoint.restore(list(self.tensors))


class Compressor:
    """Quantises one model for any λ; see :func:`metaq.compression.budget.compress` for the arguments.

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
        recovery: Recovery | None = None,
        include: Sequence[str] = ANY,
        exclude: Sequence[str] = (),
        filter_fn: FilterFn | None = None,
        corrects_biases: bool = False,
        norm_batches: Sequence[Batch] = (),
    ) -> None:
        require(recovery is None or not corrects_biases, "corrects_biases: is part of training_loss; give one of them.")
        self._source = source
        self._recovery = recovery
        self._norm_batches = norm_batches
        self.state_dict = state_dict_of(source)
        selection = select(source, include=include, exclude=exclude, filter_fn=filter_fn)
        self._alias = selection.alias
        small = {name for name in selection.names if selection.is_default and _is_small(self.state_dict[name])}
        self._targets = {
            name: target_of(name, self.state_dict[name], curvature) for name in selection.names if name not in small
        }
        require(bool(self._targets), f"include: every floating tensor is {TOO_SMALL}; name those to quantise.")
        self._inputs = mean_inputs_of(self._targets, curvature or {}) if corrects_biases else {}
        self._exact = {
            first: exact_tensor(first, self.state_dict[first])
            for first in set(self._alias.values()) - self._targets.keys()
        }
        self._reasons = selection.reasons_without(self._targets)

    @property
    def float_bytes(self) -> int:
        """Size of all tensors as the model holds them, tied ones once."""
        return model_bytes(self.state_dict)

    def at(self, multiplier: float) -> Compressed:
        """Quantise for λ = `multiplier`."""
        if self._recovery is None:
            return self._compressed(multiplier, self._at_once(multiplier))
        return self._compressed(multiplier, self._one_after_another(multiplier, self._recovery))

    def _compressed(self, multiplier: float, choices: Mapping[str, Choice]) -> Compressed:
        quantized = {name: choice.tensor for name, choice in choices.items()}
        found = Compressed(
            tensors=self._under_all_names({**quantized, **self._exact}),
            multiplier=multiplier,
            distortion=sum(choice.distortion for choice in choices.values()),
            reasons=self._reasons,
        )
        statistics = self._statistics(found.state_dict())
        return replace(found, tensors=self._under_all_names({**quantized, **self._exact, **statistics}))

    def _under_all_names(self, held: Mapping[str, QuantizedTensor | ExactTensor]) -> tuple[Tensor, ...]:
        """The tensors that are `held`, and those tied to them."""
        return tuple(
            held[name] if name == first else TiedTensor(name=name, first=held[first])
            for name, first in self._alias.items()
        )

    def _statistics(self, weights: StateDict) -> dict[str, QuantizedTensor | ExactTensor]:
        """Running statistics of batch normalisation under quantised `weights`: measured anew if asked for, rounded."""
        if self._norm_batches:
            assert isinstance(self._source, nn.Module)
            weights = weights | recalibrated(self._source, self._norm_batches, weights)
        free = {name for name in self._exact if name.rpartition(".")[2] in RUNNING_STATISTICS}
        tolerance = min(TOLERANCE, max(LEAST_NORM_TOLERANCE, NORM_SHARE * self._relative_error(weights)))
        norms = rounded_norms(weights, taken=weights.keys() - free, tolerance=tolerance)
        values = {name: weights[name] for name in free} | norms.values
        held = to_tensors(values, grids=norms.grids)
        return {tensor.name: tensor for tensor in held if not isinstance(tensor, TiedTensor)}

    def _relative_error(self, weights: StateDict) -> float:
        """Root mean square error of the quantised weights over their root mean square."""
        pairs = [(values_of(weights[name]), values_of(self.state_dict[name])) for name in self._targets]
        squares = sum(float(np.square(before).sum()) for _, before in pairs)
        errors = sum(float(np.square(after - before).sum()) for after, before in pairs)
        return math.sqrt(errors / squares) if squares else 0.0

    def _at_once(self, multiplier: float) -> dict[str, Choice]:
        biases = {bias_of(name) for name in self._inputs}
        weights = {name: target for name, target in self._targets.items() if name not in biases}
        choices = allocate(weights, multiplier=multiplier)
        biases_left = {
            bias_of(name): corrected(self._targets[bias_of(name)], weights[name], choices[name], mean)
            for name, mean in self._inputs.items()
        }
        return choices | allocate(biases_left, multiplier=multiplier)

    def _one_after_another(self, multiplier: float, recovery: Recovery) -> dict[str, Choice]:
        """Matrices in the order of the model, then all vectors; what is still to come makes up for what is done."""
        vectors = [name for name, target in self._targets.items() if target.values.ndim < 2]
        groups = [[name] for name, target in self._targets.items() if target.values.ndim > 1]
        left = dict(self._targets)
        weights = dict(self.state_dict)
        choices: dict[str, Choice] = {}
        for group in [*groups, *([vectors] if vectors else [])]:
            targets = {name: replace(left.pop(name), values=values_of(weights[name])) for name in group}
            choices |= allocate(targets, multiplier=multiplier)
            weights |= checkpoint.restore([choices[name].tensor for name in group])
            weights = self._tied(weights)
            if left:
                free = {name: target.importance for name, target in left.items()}
                weights = self._tied(recovery.improved(weights, free))
        return choices

    def _tied(self, weights: StateDict) -> StateDict:
        return {**weights, **{name: weights[first] for name, first in self._alias.items()}}

    def to_bytes(self, limit: int, *, coder: str = container.DEFAULT_CODER) -> Compressed:
        """The best quantisation whose file has at most `limit` bytes.

        Raises
        ------
        ConfigError
            If no file is that small.
        """

        def size(found: Compressed) -> int:
            return len(container.encode(found.tensors, coder=coder))

        _, small = self._boundary(
            lambda found: size(found) <= limit,
            lambda multiplier: self._compressed(multiplier, self._at_once(multiplier)),
        )
        if small is None:
            raise ConfigError(f"target_bytes: no file of {limit} bytes can be made of this model; allow more bytes.")
        if self._recovery is None:
            return small
        multiplier, most = small.multiplier, 0
        too_fine, coarse_enough = 0.0, math.inf
        for _ in range(RECOVERED_TRIES):
            found = self.at(multiplier)
            reached = size(found)
            if most < reached <= limit:
                small, most = found, reached
            if SIZE_MARGIN * limit <= reached <= limit:
                break
            if reached > limit:
                too_fine = multiplier
            else:
                coarse_enough = multiplier
            multiplier *= (reached / (math.sqrt(SIZE_MARGIN) * limit)) ** SIZE_EXPONENT
            # Where the size jumps, or hardly changes, its power of λ misleads.
            if not too_fine < multiplier < coarse_enough:
                multiplier = math.sqrt(too_fine * coarse_enough)
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

        rough = self._recovery is not None
        good, _ = self._boundary(
            is_worse,
            self.at,
            widening=RECOVERED_WIDENING if rough else WIDENING,
            bisections=RECOVERED_BISECTIONS if rough else BISECTIONS,
        )
        if good is None:
            raise ConfigError(f"max_drop: even fine steps do not keep {lowest:g} on the calibration data; allow more.")
        # Near the limit the accuracy is noisy in λ; the smallest of several files that keep it is taken.
        near = [self.at(good.multiplier * factor) for factor in (() if rough else NEIGHBOURS)]
        kept = [good, *(found for found in near if not is_worse(found))]
        best = min(kept, key=lambda found: len(container.encode(found.tensors, coder=coder)))
        return replace(best, accuracy=figures[best.multiplier])

    def _boundary(
        self,
        is_beyond: Callable[[Compressed], bool],
        at: Callable[[float], Compressed],
        *,
        widening: float = WIDENING,
        bisections: int = BISECTIONS,
    ) -> tuple[Compressed | None, Compressed | None]:
        """The coarsest quantisation found on the near side of a limit, and the finest beyond it.

        `is_beyond` is false for small λ and true for large ones, but for noise.
        """
        found = at(self._first_multiplier())
        near, beyond = (None, found) if is_beyond(found) else (found, None)
        for _ in range(WIDENINGS):
            if near is not None and beyond is not None:
                break
            found = at(found.multiplier * (widening if beyond is None else 1 / widening))
            if is_beyond(found):
                beyond = found
            else:
                near = found
        for _ in range(bisections):
            if near is None or beyond is None:
                break
            found = at(math.sqrt(near.multiplier * beyond.multiplier))
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


def _is_small(tensor: torch.Tensor) -> bool:
    return tensor.numel() == 1 or tensor.numel() * tensor.element_size() <= SMALLEST_GRID_BYTES
