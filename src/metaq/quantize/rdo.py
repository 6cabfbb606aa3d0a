"""Rate-distortion quantisation of one tensor: levels that minimise distortion + λ · bits; numpy only.

The distortion is the second-order estimate of what the loss gains by the error, ``0.5 * e F e`` with the curvature F of
:class:`Importance`. Code lengths are learned from the levels of the pass before (:mod:`metaq.quantize.rates`).
Where the second moment of a layer's inputs is known, columns are quantised one after the other and the error of each is
compensated in those still to come (Frantar et al., "Optimal brain compression", 2022; "GPTQ", 2023), here with the rate
in every choice. Where the curvature of a layer's outputs is known as a matrix too, rows are compensated likewise:
outputs that later layers add up, such as those of units that do the same, must not err together.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from os import cpu_count

import numpy as np
from numpy.typing import NDArray

from metaq.quantize.rates import initial_costs, learned_costs, scale_classes
from metaq.quantize.rotation import rotate, symmetric_grid
from metaq.quantize.search import choose_coupled, count_rows, search_rows
from metaq.tensors.quantized import Basis, Dtype, QuantizedTensor, matrix_shape
from metaq.tensors.trellis import continued_numerators, transitions

Floats = NDArray[np.float64]

PASSES = 2
DAMPING = 0.01
"""Share of every input's own second moment that is added to it: what inputs do together is not known exactly."""

COUPLED_DAMPING = 0.2
"""As ``DAMPING``, where rows are compensated too: matrices over outputs come from gradients, which are noisier."""

LEAST_DAMPING = 1e-6
"""Least of what is added, as a share of what it is on average."""

MIN_IMPORTANCE = 1e-6
"""Least importance of a weight relative to the mean of its tensor."""

FEEDBACK_BLOCK = 64
ROWS_AT_ONCE = 64
MAX_MAGNITUDE = 1 << 22
MAX_NARROW = 1 << 14
"""Levels up to this magnitude are held as int16."""

STEP_MANTISSA = 16
CENTER_MANTISSA = 1024
ATOM_SHARE = 0.05

SCALAR_SLOPE = 0.11
TRELLIS_SLOPE = 0.08
"""λ over importance times squared step, where steps of that size and λ suit each other; by experiment."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Importance:
    """Curvature of the loss for one tensor, seen as a matrix (first dimension, all others); one row for a vector.

    That of an element is the product of one number of its row and one of its column, `rows` and `columns`, float64; a
    product of 2.0 throughout makes the distortion the squared error. `inputs` is the second moment of the inputs,
    float32 or float64 (columns, columns); without it, `rows` and `columns` are used. With it, `outputs` is the
    curvature of the outputs, float64 (rows, rows), or its diagonal, (rows,).
    """

    rows: Floats
    columns: Floats
    inputs: NDArray[np.floating] | None = None
    outputs: Floats | None = None

    @classmethod
    def even(cls, shape: tuple[int, ...], value: float) -> "Importance":
        """The same for all elements of a tensor of this shape."""
        rows, columns = matrix_shape(shape)
        return cls(rows=np.full(rows, value), columns=np.ones(columns))

    @property
    def elements(self) -> Floats:
        """Curvature of every element by itself, float64 (rows, columns)."""
        return np.outer(self.rows, self.columns)

    @property
    def mean(self) -> float:
        """Mean curvature of an element."""
        if self.inputs is None or self.outputs is None:
            return float(self.rows.mean() * self.columns.mean())
        return float(np.diag(self.inputs).mean() * self.by_output.mean())

    def times(self, factor: float) -> "Importance":
        """The same for errors that count so many times as much."""
        outputs = None if self.outputs is None else factor * self.outputs
        return replace(self, rows=factor * self.rows, outputs=outputs)

    @property
    def by_output(self) -> Floats:
        """Curvature of every output by itself, float64 (rows,)."""
        assert self.outputs is not None
        return self.outputs if self.outputs.ndim == 1 else np.diag(self.outputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A quantised tensor, the estimated gain of the loss, and the estimated code length in bits."""

    tensor: QuantizedTensor
    distortion: float
    bits: float

    def cost(self, multiplier: float) -> float:
        """Distortion + `multiplier` · bits."""
        return self.distortion + multiplier * self.bits


def step_for(importance: Importance, multiplier: float, *, trellis_bits: int) -> float:
    """Step size that suits λ = `multiplier` (loss per bit)."""
    slope = TRELLIS_SLOPE if trellis_bits else SCALAR_SLOPE
    # Importances are second derivatives; the distortion has half of them.
    return float(np.sqrt(2 * multiplier / (slope * max(importance.mean, 1e-300))))


def quantize(
    name: str,
    values: NDArray[np.floating],
    importance: Importance,
    *,
    step_size: float,
    multiplier: float,
    trellis_bits: int,
    dtype: Dtype,
    center: float = 0.0,
    basis: Basis | None = None,
) -> Choice:
    """Quantise finite weights of any shape, at least one, to the step size, rounded to five binary digits.

    λ, the multiplier, is what a bit may cost in distortion; `trellis_bits` is 0, or the binary logarithm of the number
    of trellis states; `center` is the central reference value, such as :func:`central_value`. If a basis is given, the
    rows are quantised as coefficients of its rows; then there are no `inputs`, and the centre is 0.
    """
    matrix = values.astype(np.float64).reshape(matrix_shape(values.shape))
    step = rounded_step(step_size)
    coefficients = matrix if basis is None else rotate(matrix, basis)
    search = _Search(
        targets=(coefficients - center) / step,
        # Half the second derivative, per squared step, in bits.
        weight=step * step / (2 * multiplier),
        importance=importance,
        trellis_bits=trellis_bits,
        rotated=basis is not None,
    )
    levels, bits = search.run()
    limit = max(int(np.abs(levels).max()), 1)
    grid = symmetric_grid(center, step, limit)
    indices: NDArray[np.integer] = levels + np.int32(limit)
    if limit < MAX_NARROW:
        indices = indices.astype(np.int16)
    tensor = QuantizedTensor(
        name=name,
        indices=indices.reshape(values.shape),
        grid=grid,
        dtype=dtype,
        scan="columns" if trellis_bits and importance.inputs is not None and values.ndim > 1 else "rows",
        trellis_bits=trellis_bits,
        basis=basis,
    )
    errors = tensor.values().reshape(matrix.shape) - matrix
    return Choice(tensor=tensor, distortion=distortion(errors, importance), bits=bits)


def distortion(errors: Floats, importance: Importance) -> float:
    """Estimated gain of the loss by `errors`, float64 of the shape of the matrix."""
    if importance.inputs is None or importance.outputs is None:
        return 0.5 * float(importance.rows @ (errors**2 @ importance.columns))
    weighted = errors @ importance.inputs
    if importance.outputs.ndim == 1:
        return 0.5 * float((importance.outputs * (weighted * errors).sum(axis=1)).sum())
    return 0.5 * float(((importance.outputs @ errors) * weighted).sum())


def central_value(matrix: Floats) -> float:
    """The value that many weights share, if none is exactly zero, else 0; rounded to eleven binary digits."""
    if not matrix.all():
        # Zeros stay zero.
        return 0.0
    values, counts = np.unique(np.round(matrix, 4), return_counts=True)
    if counts.max() < max(ATOM_SHARE * matrix.size, 2):
        return 0.0
    return _rounded(float(values[counts.argmax()]), CENTER_MANTISSA)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """Levels of one matrix for a fixed step and λ; `weight` is what a squared step of error is worth."""

    targets: Floats
    weight: float
    importance: Importance
    trellis_bits: int
    rotated: bool

    def run(self) -> tuple[NDArray[np.int32], float]:
        """Levels in the shape of the matrix, and their bits."""
        by_columns = self.importance.inputs is not None
        search = self._direct
        if self.importance.outputs is not None:
            is_coupled = self.importance.outputs.ndim == 2 and not self.trellis_bits
            search = self._coupled if is_coupled else self._with_feedback
        scanned = np.ascontiguousarray(self.targets.T) if by_columns else self.targets
        classes = scale_classes(scanned, 1.0)
        (levels,), _, bits = learned_levels([classes], lambda costs: [search(classes, costs)], self.trellis_bits)
        return (np.ascontiguousarray(levels.T) if by_columns else levels), bits

    def _direct(self, classes: NDArray[np.uint8], costs: Floats) -> NDArray[np.int32]:
        importance = self.importance
        if self.rotated:
            importance = replace(importance, columns=np.full_like(importance.columns, importance.columns.mean()))
        weights = np.maximum(importance.elements, MIN_IMPORTANCE * max(importance.mean, 1e-300)) * self.weight
        return search_all(self.targets, weights, classes, costs, MAX_MAGNITUDE, predecessors(self.trellis_bits))

    def _with_feedback(self, classes: NDArray[np.uint8], costs: Floats) -> NDArray[np.int32]:
        assert self.importance.inputs is not None
        assert self.importance.outputs is not None
        factor = factor_of_inverse(self.importance.inputs)
        outputs = self.importance.by_output
        outputs = np.maximum(outputs, MIN_IMPORTANCE * max(float(outputs.mean()), 1e-300)) * self.weight
        remaining = np.ascontiguousarray(self.targets.T)
        # What is exactly zero stays so, whatever the errors before it.
        is_zero = remaining == 0
        columns, rows = remaining.shape
        levels = np.zeros((columns, rows), dtype=np.int32)
        ways = predecessors(self.trellis_bits)
        for start in range(0, columns, FEEDBACK_BLOCK):
            stop = min(start + FEEDBACK_BLOCK, columns)
            errors = np.zeros((stop - start, rows))
            for column in range(start, stop):
                pivot = factor[column, column]
                here = slice(column, column + 1)
                remaining[column][is_zero[column]] = 0.0
                search_rows(
                    remaining[here],
                    (outputs / pivot**2)[None],
                    classes[here],
                    costs,
                    MAX_MAGNITUDE,
                    ways,
                    levels[here],
                )
                errors[column - start] = (remaining[column] - self._chosen(levels[column])) / pivot
                remaining[column + 1 : stop] -= np.outer(factor[column, column + 1 : stop], errors[column - start])
            remaining[stop:] -= factor[start:stop, stop:].T @ errors
        return levels

    def _coupled(self, classes: NDArray[np.uint8], costs: Floats) -> NDArray[np.int32]:
        assert self.importance.inputs is not None
        assert self.importance.outputs is not None
        column_coupling, column_weights = unit_factors(self.importance.inputs)
        row_coupling, row_weights = unit_factors(self.importance.outputs)
        targets = np.ascontiguousarray(self.targets.T)
        levels = np.zeros(targets.shape, dtype=np.int32)
        choose_coupled(
            targets,
            column_weights,
            row_weights * self.weight,
            column_coupling,
            row_coupling,
            classes,
            costs,
            MAX_MAGNITUDE,
            levels,
        )
        return levels

    def _chosen(self, levels: NDArray[np.int32]) -> Floats:
        """What the levels of one row of the scan stand for, in steps."""
        numerators, _ = continued_numerators(levels, 1, self.trellis_bits, row_length=levels.size, start=0, state=0)
        return numerators / 2


def learned_levels(
    classes: Sequence[NDArray[np.uint8]], search: Callable[[Floats], list[NDArray[np.int32]]], trellis_bits: int
) -> tuple[list[NDArray[np.int32]], Floats, float]:
    """Levels of blocks with these `classes`, the code lengths learned from them, and the bits that they take by these.

    `search` gives the levels of all blocks for code lengths, at first those of Laplacian levels.
    """
    costs = initial_costs()
    counts = np.zeros(costs.shape, dtype=np.int64)
    trellis = transitions(trellis_bits) if trellis_bits else np.zeros(0, dtype=np.int32)
    levels: list[NDArray[np.int32]] = []
    for _ in range(PASSES):
        levels = search(costs)
        counts[:] = 0
        for found, its_classes in zip(levels, classes, strict=True):
            count_rows(found, its_classes, trellis, counts)
        costs = learned_costs(counts)
    return levels, costs, float((counts * costs).sum())


def search_all(
    targets: Floats,
    weights: Floats | float,
    classes: NDArray[np.uint8],
    costs: Floats,
    limit: int,
    ways: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Levels of all rows, some of them at once; see :func:`metaq.quantize.search.search_rows`."""
    levels = np.zeros(targets.shape, dtype=np.int32)

    def search(start: int) -> None:
        rows = slice(start, start + ROWS_AT_ONCE)
        own = weights[rows] if isinstance(weights, np.ndarray) else np.full(targets[rows].shape, weights)
        search_rows(targets[rows], own, classes[rows], costs, limit, ways, levels[rows])

    starts = range(0, len(levels), ROWS_AT_ONCE)
    if len(starts) == 1:
        # A pool takes longer than the few weights of most tensors.
        search(0)
        return levels
    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(search, starts))
    return levels


def damped(matrix: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    """`matrix` with `share` of its diagonal added to that, in its own type; positive definite.

    A share of their own, and not of the mean, is the same to rows and columns in whatever units they are.
    """
    diagonal = np.diag(matrix)
    result = matrix.copy()
    np.fill_diagonal(result, (1 + share) * diagonal + max(LEAST_DAMPING * share * float(diagonal.mean()), 1e-30))
    return result


def factor_of_inverse(inputs: NDArray[np.floating]) -> Floats:
    """Upper Cholesky factor of the inverse of damped `inputs`, (columns, columns): row j compensates column j."""
    factor: Floats = np.linalg.cholesky(np.linalg.inv(damped(inputs.astype(np.float64), DAMPING))).T
    return factor


def unit_factors(matrix: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """U, unit upper triangular (n, n), and d, positive (n,), with ``U diag(d) Uᵀ`` the damped `matrix`."""
    factor = np.linalg.cholesky(damped(matrix.astype(np.float64), COUPLED_DAMPING)[::-1, ::-1])[::-1, ::-1]
    scales = np.diag(factor)
    return np.ascontiguousarray(factor / scales), scales**2


@cache
def predecessors(trellis_bits: int) -> NDArray[np.int32]:
    """The two ways into every state, each as ``2 * state + parity``, int32 (2 * states,); none without bits."""
    if not trellis_bits:
        return np.zeros(0, dtype=np.int32)
    following = transitions(trellis_bits)
    return np.argsort(following, kind="stable").astype(np.int32)


def rounded_step(step_size: float) -> float:
    """`step_size` to five binary digits, so that a file tells it in few bytes."""
    return _rounded(step_size, STEP_MANTISSA)


def _rounded(value: float, mantissa: int) -> float:
    fraction, exponent = np.frexp(value)
    return float(np.ldexp(np.round(fraction * 2 * mantissa) / (2 * mantissa), exponent))
