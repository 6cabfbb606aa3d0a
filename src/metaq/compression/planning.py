"""How finely every tensor is quantised where there are no data, from one number for all, and what that about takes.

Without data nobody knows what an error of a weight costs. Two rules are common: every squared error counts the same, or
every error counts relative to the size of its tensor's weights. This rule is the geometric mean of both, but never more
than a factor of ``MOST_UNLIKE`` from the second: tensors of a small scale, such as those whose inputs are large, are
neither spoilt nor spared. What counts is the error of the whole tensor, since the relative error of a layer's outputs
is about that of its weights, however many they are: an error of one of n weights counts in proportion to 1 / n.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metaq.compression.survey import SortedOut, Survey, is_matrix, median_magnitude
from metaq.container.layout import LARGEST, largest_factor
from metaq.model.stored import StoredTensor
from metaq.quantize.allocation import MAX_ROTATED_ZEROS, MIN_TRELLIS_ELEMENTS, TRELLIS_BITS
from metaq.quantize.blocks import Fineness, learn
from metaq.quantize.rates import scale_classes
from metaq.quantize.rdo import MAX_MAGNITUDE, SCALAR_SLOPE, TRELLIS_SLOPE, rounded_step
from metaq.quantize.rotation import BASIS_BITS, best_shared, is_tall, pays
from metaq.tensors.quantized import Dtype

UNIFORM = 12.0
"""A squared step over the mean square of its rounding errors."""

DEFAULT_MULTIPLIER = 2.2e-3
"""λ that is used without a budget: squared error a bit, relative to the mean square of the weights."""

LARGE_MODEL = 20_000_000
"""Models of fewer weights have fewer to spare: λ falls with the square root of their number."""

LEAST_DEPTHWISE, LARGEST_KERNEL, SEPARABLE_SHARE = 3, 49, 1 / 4
"""With so many convolutions of single channels, a model is taken for one of depthwise separable layers, which bear
errors worse: λ is so much smaller.
"""

MOST_UNLIKE = 4.0
CHEAP_IMPORTANCE = 1024.0
"""What an error counts more in a bias, in a scale of a normalisation, and in the smallest tensors: these are few."""

CHEAP_SHARE = 0.02
"""Share of all weights that the smallest tensors have together whose errors count more."""

MOST_OF_ITSELF = 0.7
"""λ over the mean square of a matrix, each counted as its errors are, beyond which a matrix counts no less than usual:
small errors add up, but one that is as large as the matrix itself ends all that goes through it.
"""

HEADS, HEAD_IMPORTANCE = ("lm_head", "embed_out"), 8.0
"""Names of the layers that give a word's logits, and what errors count more in them: nothing after them evens out."""

MAX_VECTOR = 1 << 16
ROTATED_DTYPES = (Dtype.float32, Dtype.bfloat16, Dtype.float64)
MAX_ROTATED = 1e30
"""Up to this magnitude of weights combinations of a basis stay far below the largest number of the types above."""

MOST_OUTLYING = 6.0
"""A few outliers make the size of a tensor no larger than so many times the median of its weights."""

MOST_IN_COMMON = 2.0
"""What weights have in common makes the size of a tensor no larger than so many times their deviation from it: rows of
a table that lie far from zero are told apart by what differs in them. Vectors are kept fine enough as it is.
"""

MIN_SAMPLED_ROWS = 16
"""From fewer rows nobody can tell whether the basis of another tensor suits this one."""

EXCESS = {"small": 1.02, "fast": 1.045}
"""What coders take beyond the code lengths that are learned from a sample, about, by their names."""

TOO_WIDE = "its range is too wide for steps this small"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one tensor is quantised; see :class:`metaq.quantize.blocks.Fineness` too.

    `importance` is the second derivative of the distortion, `multiplier` λ in the unit of the distortion per bit. With
    `is_centered`, the grid is symmetric around zero whatever value many weights share, so that zeros stay zero. `axes`
    is the number in :attr:`Survey.axes` of those whose basis is used, or None.
    """

    importance: float
    multiplier: float
    step_size: float
    trellis_bits: int
    is_centered: bool
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
    """Plans for any λ for the weights among sorted tensors, and about how many bytes they give with a coder.

    It is a :class:`metaq.compression.search.SizeEstimate` too.
    """

    usual = DEFAULT_MULTIPLIER

    def __init__(self, found: SortedOut, survey: Survey, coder: str) -> None:
        self._tensors = tensors = found.weights
        self._samples = found.samples
        self._scales = found.scales
        self._survey = survey
        self._excess = EXCESS[coder]
        self._known: dict[float, float] = {}
        self._cheap = cheap_ones(tensors)
        self._sizes = {tensor.name: self._size(tensor) for tensor in tensors}
        self.typical_size = typical_size(tensors, self._sizes)
        self._count = typical_size(tensors, {tensor.name: tensor.count for tensor in tensors})
        worths = {tensor.name: self._worth(tensor) for tensor in tensors}
        self._typical_worth = typical_size(tensors, worths)
        self._rotatable = {
            tensor.name
            for tensor in tensors
            if len(tensor.shape) == 2
            and is_matrix(tensor)
            and tensor.count >= MIN_TRELLIS_ELEMENTS
            and tensor.dtype in ROTATED_DTYPES
            and survey.facts[tensor.name].largest * largest_factor(found.scales.get(tensor.name)) < MAX_ROTATED
            and survey.facts[tensor.name].zero_share <= MAX_ROTATED_ZEROS
        }

    def plans(self, multiplier: float) -> dict[str, Plan]:
        """How every tensor is quantised for a λ relative to the mean square of the weights; left out if its range is
        too wide.
        """
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
            if self._survey.facts[tensor.name].largest / plain[tensor.name].step_size < MAX_MAGNITUDE / 2
        }

    def relative_error(self, plans: Mapping[str, Plan]) -> float:
        """About the root mean square error of the weights over their root mean square."""
        errors = squares = 0.0
        for tensor in self._tensors:
            square = self._survey.facts[tensor.name].mean_square
            squares += tensor.count * square
            if tensor.name in plans:
                errors += tensor.count * min(plans[tensor.name].step_size ** 2 / UNIFORM, square)
        return math.sqrt(errors / squares) if squares else 0.0

    def size_bytes(self, multiplier: float) -> float:
        """About how many bytes the tensors take for a λ as in :meth:`plans`."""
        if multiplier not in self._known:
            plans = self.plans(multiplier)
            bits = 0.0
            for tensor in self._tensors:
                plan = plans.get(tensor.name)
                bits += 8 * tensor.size_bytes if plan is None else tensor.count * self._bits(tensor, plan)
            used = {plan.axes for plan in plans.values() if plan.axes is not None}
            bits += sum(BASIS_BITS * self._survey.axes[number].basis.size ** 2 for number in used)
            self._known[multiplier] = self._excess * bits / 8
        return self._known[multiplier]

    def _bits(self, tensor: StoredTensor, plan: Plan) -> float:
        """Bits a weight."""
        sample = self._samples[tensor.name]
        if plan.axes is not None:
            sample = sample @ self._survey.axes[plan.axes].inverse
        fineness = plan.fineness(float(np.abs(sample).max()))
        return learn([(sample, scale_classes(sample, fineness.step_size))], fineness)[1]

    def _size(self, tensor: StoredTensor) -> float:
        """Root mean square of a tensor, outliers and what all weights have in common held back."""
        facts = self._survey.facts[tensor.name]
        size = math.sqrt(facts.mean_square)
        size = min(size, MOST_OUTLYING * median_magnitude(self._samples[tensor.name]) or size)
        return size if len(tensor.shape) < 2 else min(size, MOST_IN_COMMON * facts.spread or size)

    def importance(self, tensor: StoredTensor) -> float:
        """Second derivative of the distortion by an element of the tensor."""
        importance = 2 * relative_importance(self._sizes[tensor.name], self.typical_size, tensor)
        by_count = importance_of_count(tensor, self._count)
        return importance * (max(by_count, CHEAP_IMPORTANCE) if tensor.name in self._cheap else by_count)

    def _worth(self, tensor: StoredTensor) -> float:
        """What the error counts of having no weights at all, over their number."""
        return self.importance(tensor) * self._sizes[tensor.name] ** 2 / 2

    def _plain(self, tensor: StoredTensor, multiplier: float) -> Plan:
        facts = self._survey.facts[tensor.name]
        importance, worth = self.importance(tensor), self._worth(tensor)
        loss_per_bit = multiplier * self.typical_size**2
        least = min(loss_per_bit / MOST_OF_ITSELF, self._typical_worth)
        if 0 < worth < least and len(tensor.shape) > 1:
            importance *= least / worth
        trellis_bits = TRELLIS_BITS if is_matrix(tensor) and tensor.count >= MIN_TRELLIS_ELEMENTS else 0
        slope = TRELLIS_SLOPE if trellis_bits else SCALAR_SLOPE
        # A step beyond the range of the weights leaves one level as well as that range does.
        widest = min(2 * facts.largest or 1.0, LARGEST[tensor.dtype] / 2)
        return Plan(
            importance=importance,
            multiplier=loss_per_bit,
            step_size=rounded_step(min(math.sqrt(2 * loss_per_bit / (slope * importance)), widest)),
            trellis_bits=trellis_bits,
            is_centered=facts.zero_share > 0 or tensor.name in self._scales,
        )

    def _shared(self, tensor: StoredTensor, paying: Sequence[int], step_size: float) -> int | None:
        """The axes of another tensor that save most for this one, if any do."""
        sample = self._samples[tensor.name]
        if tensor.name not in self._rotatable or len(sample) < MIN_SAMPLED_ROWS:
            return None
        fitting = [number for number in paying if self._survey.axes[number].basis.size == tensor.shape[1]]
        best = best_shared(sample, (sample @ self._survey.axes[number].inverse for number in fitting), step_size)
        return None if best is None else fitting[best]


def default_multiplier(tensors: Sequence[StoredTensor], weights: int) -> float:
    """λ for a model of so many weights in `tensors` where no goal is given."""
    multiplier = DEFAULT_MULTIPLIER * math.sqrt(min(weights / LARGE_MODEL, 1.0))
    is_separable = sum(_is_depthwise(tensor.shape) for tensor in tensors) >= LEAST_DEPTHWISE
    return multiplier * SEPARABLE_SHARE if is_separable else multiplier


def _is_depthwise(shape: tuple[int, ...]) -> bool:
    """Whether it may be a convolution of every channel by itself."""
    return len(shape) > 2 and shape[0] > 1 and shape[1] == 1 and 1 < math.prod(shape[2:]) <= LARGEST_KERNEL


def typical_size(tensors: Sequence[StoredTensor], sizes: Mapping[str, float]) -> float:
    """Geometric mean, weight by weight, of the sizes of tensors: the unit of what is relative.

    The scale of a tensor of eight bits is kept elsewhere, so that its weights tell nothing unless there are no others.
    """
    known = [tensor for tensor in tensors if sizes[tensor.name] > 0]
    plain = [tensor for tensor in known if not tensor.dtype.is_float8] or known
    if not plain:
        return 1.0
    total = sum(tensor.count * math.log(sizes[tensor.name]) for tensor in plain)
    return math.exp(total / sum(tensor.count for tensor in plain))


def relative_importance(size: float, scale: float, tensor: StoredTensor) -> float:
    """What a squared error in a tensor of root mean square `size` counts, where the typical one is `scale`."""
    ratio = scale / size if size > 0 else 1.0
    if tensor.dtype.is_float8:
        return ratio**2
    return min(max(ratio, ratio**2 / MOST_UNLIKE), ratio**2 * MOST_UNLIKE)


def importance_of_count(tensor: StoredTensor, typical_count: float) -> float:
    """What a squared error in a tensor of so many weights counts, where `typical_count` is usual."""
    ratio = typical_count / tensor.count
    is_table = len(tensor.shape) == 2 and is_tall(*tensor.shape)
    is_head = tensor.name.removesuffix(".weight").rpartition(".")[2] in HEADS
    return (math.sqrt(ratio) if is_table else ratio) * (HEAD_IMPORTANCE if is_head else 1.0)


def cheap_ones(tensors: Sequence[StoredTensor]) -> set[str]:
    """Names of the vectors, and of the smallest tensors of a model, all of a size or none: they cost hardly a byte."""
    plain = [tensor for tensor in tensors if not tensor.dtype.is_float8]
    names = {tensor.name for tensor in plain if len(tensor.shape) < 2 and tensor.count <= MAX_VECTOR}
    left = CHEAP_SHARE * sum(tensor.count for tensor in plain)
    for count, number in sorted(Counter(tensor.count for tensor in plain).items()):
        left -= count * number
        names |= {tensor.name for tensor in plain if tensor.count == count and left >= 0}
    return names
