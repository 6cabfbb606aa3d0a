"""Equal slope: every tensor is quantised for the same λ, so that a bit saves as much wherever it is spent."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from os import cpu_count
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.coding.entropy import zero_order_entropy_bits
from metaq.config import require
from metaq.container.layout import fits
from metaq.model import checkpoint
from metaq.progress import NoProgress, Progress
from metaq.quantize.blocks import Fineness, learn
from metaq.quantize.curvature import Curvature
from metaq.quantize.rates import scale_classes
from metaq.quantize.rdo import (
    MAX_MAGNITUDE,
    Choice,
    Floats,
    Importance,
    central_value,
    damped,
    distortion,
    quantize,
    step_for,
)
from metaq.quantize.rotation import LowRank, best_shared, find_basis, rotate
from metaq.quantize.scaling import scaled_importance, scaled_values, scales_for
from metaq.tensors.quantized import Basis, Dtype, matrix_shape
from metaq.tensors.scales import Scales

STEP_FACTORS = (0.71, 0.84, 1.0, 1.19, 1.41, 1.68)
"""Steps tried around the one that suits λ, for tensors of up to ``SEARCHED_ELEMENTS``."""

SEARCHED_ELEMENTS = 1 << 18
SAMPLED_ELEMENTS = 1 << 14
"""Weights of a tensor, about, by which its bits are estimated."""

MIN_TRELLIS_ELEMENTS = 1 << 14
MIN_TRELLIS_ROW = 64
"""A path needs some symbols before the trellis pays."""

TRELLIS_BITS = 7
MAX_ROTATED_ZEROS = 1e-3
"""Share of exact zeros from which a matrix keeps them, as no combination of a basis does."""

SHRINKAGE, ROW_SHRINKAGE = 0.3, 0.7
"""Share of the mean in the curvature of elements of vectors, and of that of rows alike in elements of matrices: what
calibration hardly touched keeps some worth.
"""

ROWS_ALIKE, MOST_GROUPS = 64, 32
"""Rows that are compared with each other, at least, and groups of them."""

LEAST_SQUARE = 0.01
"""Least sum of squares of the weights of a row or column, over the mean."""

INPUT_SHRINKAGE, INPUT_SHARE = 0.1, 0.2
"""For the many inputs of layers that are not coupled: the share of themselves that is added to them, and what is added
beside one sample of all.
"""

_Number = TypeVar("_Number", bound=np.floating)


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A tensor to quantise: finite weights of any shape but empty; `center` is the central value of their grid (0 with
    a basis or scales).
    """

    name: str
    values: NDArray[np.floating]
    dtype: Dtype
    importance: Importance
    center: float = 0.0
    scales: Scales | None = None

    @cached_property
    def low_rank(self) -> LowRank | None:
        """Singular values and vectors, if it is a matrix that may be of low rank."""
        return LowRank.of(self.values) if self.values.ndim == 2 and not self.center else None

    @property
    def by_element(self) -> Importance:
        """The importance without what inputs and outputs have in common, the mean as it was."""
        plain = replace(self.importance, inputs=None, outputs=None)
        return plain.times(self.importance.mean / max(plain.mean, 1e-300))

    def rank_at(self, multiplier: float) -> tuple[int, float] | None:
        """Rank that suits λ = `multiplier`, and about the bits that it takes; None if it is of no low rank."""
        if self.low_rank is None:
            return None
        return self.low_rank.estimate(step_for(self.by_element, multiplier, trellis_bits=0))

    @property
    def in_units(self) -> "Target":
        """The same in the unit of its grid, without scales."""
        if self.scales is None:
            return self
        return replace(
            self,
            values=scaled_values(self.values, self.scales),
            importance=scaled_importance(self.importance, self.values.shape, self.scales),
            scales=None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RateSample:
    """Some rows of a tensor of `size` weights in the unit of its grid, float64 (n, columns), from which the bits that
    it takes are estimated.
    """

    rows: NDArray[np.float64]
    size: int
    importance: Importance
    whole: Target | None = None

    @classmethod
    def of(cls, target: Target) -> "RateSample":
        """Rows from all over the tensor, and the `whole` of it if it may be of low rank."""
        whole, target = target if target.low_rank is not None else None, target.in_units
        matrix = target.values.reshape(matrix_shape(target.values.shape))
        stride = max(len(matrix) * matrix.shape[1] // SAMPLED_ELEMENTS, 1)
        mean = Importance.even((1, 1), target.importance.mean)
        rows = matrix[::stride].astype(np.float64) - target.center
        return cls(rows=rows, size=target.values.size, importance=mean, whole=whole)

    def bits(self, multiplier: float) -> float:
        """About how many bits the tensor takes for λ = `multiplier`; a trellis takes as many, but is much slower."""
        of_low_rank = None if self.whole is None else self.whole.rank_at(multiplier)
        if of_low_rank is not None:
            return of_low_rank[1]
        step = step_for(self.importance, multiplier, trellis_bits=0)
        step = min(step, 2 * float(np.abs(self.rows).max()) or 1.0)
        weight = step**2 * self.importance.mean / (2 * multiplier)
        fineness = Fineness(step_size=step, weight=weight, trellis_bits=0)
        return self.size * learn([(self.rows, scale_classes(self.rows, step))], fineness)[1]


def target_of(name: str, tensor: torch.Tensor, curvature: Mapping[str, Curvature]) -> Target:
    """The tensor and its importance; :class:`ConfigError` if it is not finite, or `curvature` does not know it."""
    values = _as_stored(tensor)
    require(bool(np.isfinite(values).all()), f"{name}: holds NaN or infinity, which cannot be quantised.")
    require(name in curvature, f"{name}: there is no curvature for it; exclude it or calibrate the module it is in.")
    dtype = checkpoint.dtype_of(name, tensor)
    importance = _importance(curvature[name], values)
    center = central_value(values_of(tensor).reshape(matrix_shape(values.shape)))
    can_scale = values.ndim > 1 and not center and not dtype.is_float8
    scales = scales_for(values, importance, dtype) if can_scale else None
    return Target(name=name, values=values, dtype=dtype, importance=importance, center=center, scales=scales)


def values_of(tensor: torch.Tensor) -> NDArray[np.float64]:
    """The elements in float64."""
    values: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return values


def _as_stored(tensor: torch.Tensor) -> NDArray[np.floating]:
    """The elements in their own type, without a copy where NumPy has it, else in float32."""
    tensor = tensor.detach().cpu()
    is_wide = tensor.dtype in (torch.float32, torch.float64)
    values: NDArray[np.floating] = (tensor if is_wide else tensor.float()).numpy()
    return values


def allocate(
    targets: Mapping[str, Target], *, multiplier: float, progress: Progress | None = None
) -> dict[str, Choice]:
    """Quantise all `targets` for λ = `multiplier` (loss per bit), by name; `progress` advances by elements.

    Those are left out whose range is too wide for steps that suit λ, or whose grid would leave their type.
    """
    bases = _bases(targets, multiplier)
    with ThreadPoolExecutor(cpu_count()) as pool:
        found = pool.map(lambda name: _allocated(targets[name], multiplier, bases.get(name)), targets)
        choices = {}
        for (name, target), choice in zip(targets.items(), found, strict=True):
            (progress or NoProgress()).advance(target.values.size)
            if choice is not None:
                choices[name] = choice
        return choices


def _allocated(target: Target, multiplier: float, basis: Basis | None) -> Choice | None:
    """The tensor with the basis or, where combinations may leave its type, without; as one of low rank if that pays."""
    choice = allocate_one(target, multiplier, basis)
    choice = allocate_one(target, multiplier) if choice is None and basis is not None else choice
    has_scales = basis is not None and target.scales is not None
    low_rank = None if has_scales else _of_low_rank(target, multiplier)
    if choice is None or low_rank is None or low_rank.cost(multiplier) > choice.cost(multiplier):
        return choice
    return low_rank


def _of_low_rank(target: Target, multiplier: float) -> Choice | None:
    """A matrix as combinations of few rows, its bits with those of the rows; None if it is not of low rank."""
    estimate = target.rank_at(multiplier)
    if target.low_rank is None or estimate is None:
        return None
    basis = target.low_rank.basis(estimate[0], step_for(target.by_element, multiplier, trellis_bits=0))
    choice = allocate_one(replace(target, importance=target.by_element, scales=None), multiplier, basis)
    if choice is None:
        return None
    rows = basis.indices[: estimate[0]] - (basis.grid.count - 1) // 2
    errors = choice.tensor.values() - target.values
    return Choice(
        tensor=choice.tensor,
        distortion=distortion(errors, target.importance),
        bits=choice.bits + zero_order_entropy_bits(rows),
    )


def _bases(targets: Mapping[str, Target], multiplier: float) -> dict[str, Basis]:
    """A basis for every tensor that saves bits by one, its own or that of another."""
    matrices = {
        name: (target.values.astype(np.float64), step_for(target.importance, multiplier, trellis_bits=TRELLIS_BITS))
        for name, target in ((name, target.in_units) for name, target in targets.items() if may_rotate(target))
    }
    own = {name: find_basis(matrix, step) for name, (matrix, step) in matrices.items()}
    found = {name: basis for name, basis in own.items() if basis is not None}
    shareable = list(found.values())
    for name in matrices.keys() - found.keys():
        matrix, step = matrices[name]
        fitting = [basis for basis in shareable if basis.size == matrix.shape[1]]
        best = best_shared(matrix, (rotate(matrix, basis) for basis in fitting), step)
        if best is not None:
            found[name] = fitting[best]
    return found


def may_rotate(target: Target) -> bool:
    """Whether a basis is looked for."""
    return (
        target.values.ndim == 2
        and target.importance.inputs is None
        and suits_trellis(target)
        and int(np.count_nonzero(target.values == 0)) <= MAX_ROTATED_ZEROS * target.values.size
    )


def suits_trellis(target: Target) -> bool:
    """Whether dependent quantisation is used: for long rows of the scan of large tensors without coupled outputs."""
    if target.importance.outputs is not None and target.importance.outputs.ndim == 2:
        return False
    rows, columns = matrix_shape(target.values.shape)
    row_length = rows if target.importance.inputs is not None else columns
    return target.values.size >= MIN_TRELLIS_ELEMENTS and row_length >= MIN_TRELLIS_ROW


def allocate_one(
    target: Target, multiplier: float, basis: Basis | None = None, *, most_lost: float = math.inf
) -> Choice | None:
    """Quantise a tensor for λ = `multiplier`, as coefficients of the rows of `basis` if that is given.

    If some step leaves a distortion of no more than the share `most_lost` of what zeros would cost, one that does is
    taken. None if its range is too wide for steps that suit λ, or values may leave its type.
    """
    scales, target = target.scales, target.in_units
    trellis_bits = TRELLIS_BITS if suits_trellis(target) else 0
    suited = step_for(target.importance, multiplier, trellis_bits=trellis_bits)
    # A step beyond the range of the weights leaves one level as well as that range does.
    widest = 2 * _spread(target)
    if widest / min(suited, widest) >= MAX_MAGNITUDE / 2:
        return None
    factors = STEP_FACTORS if target.values.size <= SEARCHED_ELEMENTS else (1.0,)
    steps = sorted({min(suited * factor, widest) for factor in factors if basis is None or factor == 1.0})
    choices = [
        quantize(
            target.name,
            target.values,
            target.importance,
            step_size=step,
            multiplier=multiplier,
            trellis_bits=trellis_bits,
            dtype=target.dtype,
            center=0.0 if basis is not None else target.center,
            basis=basis,
        )
        for step in steps
    ]
    bound = math.inf if math.isinf(most_lost) else most_lost * _distortion_of_nothing(target)
    best = min(choices, key=lambda choice: (choice.distortion > bound, choice.cost(multiplier)))
    tensor = replace(best.tensor, scales=scales)
    return replace(best, tensor=tensor) if fits(tensor, target.dtype) else None


def _distortion_of_nothing(target: Target) -> float:
    """What it costs if a tensor has the central value alone."""
    matrix = target.values.astype(np.float64).reshape(matrix_shape(target.values.shape))
    return distortion(matrix - target.center, target.importance)


def _spread(target: Target) -> float:
    spread = float(np.abs(target.values - target.center).max())
    return spread or abs(target.center) or 1.0


def _importance(curvature: Curvature, values: NDArray[np.floating]) -> Importance:
    rows, columns = curvature.rows, curvature.columns
    matrix = values.reshape(len(rows), -1)
    by_row, by_column = (np.einsum(f"rc,rc->{kept}", matrix, matrix, dtype=np.float64) for kept in "rc")
    if len(rows) == 1:
        columns = (1 - SHRINKAGE) * columns + SHRINKAGE * max(float(columns.mean()), 1e-30)
    else:
        expected = _of_rows_alike(rows, by_row)
        rows = (1 - ROW_SHRINKAGE) * rows + ROW_SHRINKAGE * expected
    if curvature.inputs is None or curvature.outputs is None:
        return Importance(rows=rows, columns=columns)
    inputs, outputs = curvature.inputs, curvature.outputs
    is_coupled = outputs.ndim == 2
    if curvature.samples:
        one_more = 1 / curvature.samples
        inputs = _lifted(inputs, by_column, one_more if is_coupled else one_more + INPUT_SHARE)
        if len(outputs) > 1:
            outputs = _lifted(outputs, by_row, one_more)
    if not is_coupled:
        inputs = damped(inputs, INPUT_SHRINKAGE)
    return Importance(rows=rows, columns=columns, inputs=inputs, outputs=outputs)


def _lifted(moment: NDArray[_Number], squares: Floats, share: float) -> NDArray[_Number]:
    """`moment`, (n, n) or its diagonal, with a `share` of its size spread over the diagonal.

    It is spread so that all rows, or columns, do as much in it; `squares` are the sums of squares of their weights,
    (n,). What no sample has touched would be spoilt otherwise, and other inputs may need it.
    """
    squares = squares + LEAST_SQUARE * max(float(squares.mean()), 1e-30)
    result = moment.copy()
    diagonal = result if result.ndim == 1 else np.einsum("ii->i", result)
    diagonal += share * float((diagonal * squares).mean()) / squares
    return result


def _of_rows_alike(by_row: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean curvature of rows that are about as large, float64 (rows,): calibration reads few of the rows of a table."""
    expected = np.empty_like(by_row)
    for rows in np.array_split(np.argsort(squares), max(min(len(by_row) // ROWS_ALIKE, MOST_GROUPS), 1)):
        expected[rows] = by_row[rows].mean()
    return expected
