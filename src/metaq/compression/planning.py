"""How fine every tensor of a folder is quantised, from one number for all of them.

Without data nobody knows what an error of a weight costs. Two rules are common: every squared error counts the same, or
every error counts relative to the size of its tensor's weights. What is done here is the geometric mean of both, but
never more than a factor of ``MOST_UNLIKE`` from the second: tensors of a small scale, such as those whose inputs are
large, are neither spoilt nor spared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metaq.compression.survey import Facts, Survey
from metaq.container.layout import LARGEST
from metaq.model.stored import StoredTensor, is_matrix
from metaq.quantize.allocation import MIN_TRELLIS_ELEMENTS, TRELLIS_BITS
from metaq.quantize.blocks import Fineness
from metaq.quantize.rdo import MAX_MAGNITUDE, SCALAR_SLOPE, TRELLIS_SLOPE, rounded_step
from metaq.quantize.rotation import MIN_GAIN_BITS, pays, saved_bits
from metaq.tensors.quantized import Dtype

Floats = NDArray[np.float64]

DEFAULT_MULTIPLIER = 2e-3
"""λ that is used without a budget: squared error a bit, relative to the mean square of the weights."""

MOST_UNLIKE = 4.0
VECTOR_IMPORTANCE = 64.0
"""What an error of a bias, or of a scale of a normalisation, counts more: they are few, and each meets every input."""

MAX_VECTOR = 1 << 16
ROTATED_DTYPES = (Dtype.float32, Dtype.bfloat16, Dtype.float64)
MAX_ROTATED = 1e30
"""Up to this magnitude of weights combinations of a basis stay far below the largest number of the types above."""

MIN_SAMPLED_ROWS = 16
"""From fewer rows nobody can tell whether the basis of another tensor suits this one."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one tensor is quantised.

    Attributes
    ----------
    importance
        Second derivative of the distortion.
    multiplier
        λ, in the unit of the distortion a bit.
    step_size, trellis_bits
        See :class:`metaq.quantize.blocks.Fineness`.
    axes
        Number in :attr:`Survey.axes` of those whose basis is used, or None.
    """

    importance: float
    multiplier: float
    step_size: float
    trellis_bits: int
    axes: int | None = None

    def fineness(self, largest: float) -> Fineness:
        """For weights of at most the magnitude `largest`."""
        return Fineness(
            step_size=self.step_size,
            weight=self.step_size**2 * self.importance / (2 * self.multiplier),
            trellis_bits=self.trellis_bits,
            limit=math.ceil(min(largest / self.step_size, MAX_MAGNITUDE - 1)) + 1,
        )


class Rule:
    """Choices for any λ.

    Parameters
    ----------
    tensors
        Finite floating tensors.
    survey
        What is known of them.
    samples
        Some rows of every tensor, float64 (n, columns), by name: they tell whose basis suits others.
    """

    def __init__(self, tensors: Sequence[StoredTensor], survey: Survey, samples: Mapping[str, Floats]) -> None:
        self._tensors = tensors
        self._survey = survey
        self._samples = samples
        self._scale = typical_size(tensors, survey.facts)
        self._rotatable = {
            tensor.name
            for tensor in tensors
            if len(tensor.shape) == 2
            and is_matrix(tensor)
            and tensor.count >= MIN_TRELLIS_ELEMENTS
            and tensor.dtype in ROTATED_DTYPES
            and survey.facts[tensor.name].largest < MAX_ROTATED
        }

    def choices(self, multiplier: float) -> dict[str, Choice]:
        """How every tensor is quantised for a λ relative to the mean square of the weights."""
        plain = {tensor.name: self._plain(tensor, multiplier) for tensor in self._tensors}
        rows = {tensor.name: tensor.shape[0] for tensor in self._tensors if len(tensor.shape) == 2}
        # Axes are looked for where they may pay; whether they do depends on the step.
        paying = [
            number
            for number, axes in enumerate(self._survey.axes)
            if axes.name in self._rotatable
            and pays(rows[axes.name], axes.before, axes.after, plain[axes.name].step_size)
        ]
        own = {self._survey.axes[number].name: number for number in paying}
        return {
            tensor.name: replace(
                plain[tensor.name],
                axes=own.get(tensor.name, self._shared(tensor, paying, plain[tensor.name].step_size)),
            )
            for tensor in self._tensors
        }

    def _plain(self, tensor: StoredTensor, multiplier: float) -> Choice:
        size = math.sqrt(self._survey.facts[tensor.name].mean_square)
        importance = 2 * relative_importance(size, self._scale, tensor)
        loss_per_bit = multiplier * self._scale**2
        trellis_bits = TRELLIS_BITS if is_matrix(tensor) and tensor.count >= MIN_TRELLIS_ELEMENTS else 0
        slope = TRELLIS_SLOPE if trellis_bits else SCALAR_SLOPE
        # A step beyond the range of the weights leaves one level as well as that range does.
        widest = min(2 * self._survey.facts[tensor.name].largest or 1.0, LARGEST[tensor.dtype] / 2)
        return Choice(
            importance=importance,
            multiplier=loss_per_bit,
            step_size=rounded_step(min(math.sqrt(2 * loss_per_bit / (slope * importance)), widest)),
            trellis_bits=trellis_bits,
        )

    def _shared(self, tensor: StoredTensor, paying: Sequence[int], step_size: float) -> int | None:
        """The axes of another tensor that save most for this one, if any do."""
        if tensor.name not in self._rotatable or len(self._samples[tensor.name]) < MIN_SAMPLED_ROWS:
            return None
        fitting = [number for number in paying if self._survey.axes[number].basis.size == tensor.shape[1]]
        if not fitting:
            return None
        sample = self._samples[tensor.name]
        before = np.square(sample).mean(axis=0)
        gains = {
            number: saved_bits(before, np.square(sample @ self._survey.axes[number].inverse).mean(axis=0), step_size)
            for number in fitting
        }
        best = max(fitting, key=gains.__getitem__)
        return best if gains[best] >= MIN_GAIN_BITS else None


def typical_size(tensors: Sequence[StoredTensor], facts: Mapping[str, Facts]) -> float:
    """Geometric mean, weight by weight, of the root mean squares of tensors: the unit of what is relative.

    The scale of a tensor of eight bits is kept elsewhere, so that its weights tell nothing unless there are no others.
    """
    known = [tensor for tensor in tensors if facts[tensor.name].mean_square > 0]
    plain = [tensor for tensor in known if not tensor.dtype.is_float8] or known
    if not plain:
        return 1.0
    total = sum(tensor.count * math.log(facts[tensor.name].mean_square) / 2 for tensor in plain)
    return math.exp(total / sum(tensor.count for tensor in plain))


def relative_importance(size: float, scale: float, tensor: StoredTensor) -> float:
    """What a squared error in a tensor of root mean square `size` counts, where the typical one is `scale`."""
    ratio = scale / size if size > 0 else 1.0
    if tensor.dtype.is_float8:
        return ratio**2
    weight = min(max(ratio, ratio**2 / MOST_UNLIKE), ratio**2 * MOST_UNLIKE)
    is_vector = len(tensor.shape) < 2 and tensor.count <= MAX_VECTOR
    return weight * VECTOR_IMPORTANCE if is_vector else weight
