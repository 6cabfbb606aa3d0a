"""The first pass over a model: how large weights are, some rows of each tensor, and which tensors are no weights."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.model.norms import ENDINGS, TOLERANCE, rounded_norms
from metaq.model.opened import OpenedModel
from metaq.model.selection import RUNNING_STATISTICS
from metaq.model.stored import Reader, StoredTensor
from metaq.progress import Progress
from metaq.quantize.allocation import MIN_TRELLIS_ROW
from metaq.quantize.blocks import FLAT_ROW, as_rows
from metaq.quantize.rotation import is_tall, principal_basis, rotated_squares
from metaq.quantize.uniform import lossless_grid
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis
from metaq.tensors.scales import Scales

Floats = NDArray[np.float64]

BLOCK = 1 << 20
"""Weights that are read at once."""

MOMENT_ROWS_PER_COLUMN = 32
"""Rows that a second moment is taken of, for every column."""

MOST_VALUES = 16
"""A tensor that takes no more values, each many times, is a mask or a table, and kept as it is."""

LEAST_REPEATED, REPEATED = 8, 64
"""How often each of them is taken on average, at least: where they lie on a grid, and where they do not."""

RUNS = 8
"""Places of a tensor from which rows are taken."""

TOTAL = 1 << 20
"""About how many weights are taken of all tensors together."""

LEAST = 1 << 8
"""Fewest weights that are taken of a tensor, if there are not too many tensors."""

MAX_TRELLIS_ROW = 1 << 18
"""The search along a row takes 144 bytes a weight."""

FEWEST_IN_COMMON = 8
"""Of fewer weights nobody can tell whether they have something in common."""

HUGE = 1e5
"""From so many times the median of the others, a number is no weight, but stands for infinity in a mask."""

NOT_FINITE = "holds NaN, infinity or numbers near it"
TOO_SMALL = "holds nothing but numbers too near zero"
LEAST_SQUARES = 1e-280
"""Least mean square of a tensor that float64 can reckon with; that of float32's smallest numbers is 1e-90."""

FEW_VALUES = "takes few values, as masks do"
MONOTONE = "rises or falls all along, as tables do"
HOLDS_HUGE = "holds numbers far beyond its weights, as masks do"

NORM_SHARE, LEAST_NORM_TOLERANCE = 0.1, 1e-4
"""By how much statistics of batch normalisation may falsify outputs, over what the weights do; and at least."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the weights of a tensor.

    It is finite if no weight is NaN or infinite, and squares are within what float64 holds, neither one too large nor
    all too small. `spread` is the standard deviation of weights from what they have in common: all of them, those of a
    row or those of a column, whichever tells most. `values` are those that they take in increasing order, if these are
    few, else empty.
    `zero_share` leaves out zeros of rows without any other weight. A vector of rising or of falling numbers is
    monotone, as tables of frequencies and positions are.
    """

    mean_square: float
    largest: float
    is_finite: bool
    spread: float = 0.0
    values: tuple[float, ...] = ()
    zero_share: float = 0.0
    is_monotone: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """Quantised principal axes of a tall matrix; mean squares of its columns without and with them, (columns,)."""

    name: str
    basis: Basis
    before: Floats
    after: Floats

    @cached_property
    def inverse(self) -> Floats:
        """What a matrix is multiplied by to express its rows in the basis, float64 (columns, columns)."""
        return np.asarray(np.linalg.inv(self.basis.values()), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What the first pass found, by name of the tensor, and axes in the order of the tensors."""

    facts: dict[str, Facts]
    axes: tuple[Axes, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class SortedOut:
    """Chosen tensors by what becomes of them.

    `weights` are quantised as λ asks for, with `samples` of their rows, float64 (n, columns), by name. Tensors of few
    values lie exactly on `grids`. The others are kept exactly for `reasons`. Samples and facts
    of weights with `scales` are those before these multiply them.
    """

    weights: tuple[StoredTensor, ...]
    samples: dict[str, Floats]
    grids: dict[str, BucketGrid]
    reasons: dict[str, str]
    scales: dict[str, Scales] = field(default_factory=dict)


def survey(reader: Reader, tensors: Sequence[StoredTensor], progress: Progress) -> Survey:
    """Pass over floating `tensors` once."""
    progress.stage("looking at weights", sum(tensor.size_bytes for tensor in tensors))
    facts: dict[str, Facts] = {}
    axes: list[Axes] = []
    for tensor in tensors:
        facts[tensor.name], moment = look_at(reader, tensor, progress)
        basis = None if moment is None or not facts[tensor.name].is_finite else principal_basis(moment)
        if basis is not None and moment is not None:
            after = rotated_squares(moment, basis)
            axes.append(Axes(name=tensor.name, basis=basis, before=np.diag(moment).copy(), after=after))
    return Survey(facts=facts, axes=tuple(axes))


def blocks_of(tensor: StoredTensor, row_length: int = 1) -> Iterator[tuple[int, int]]:
    """First and last element of the blocks that a tensor is read in, each of whole rows."""
    step = max(BLOCK // row_length, 1) * row_length
    for start in range(0, tensor.count, step):
        yield start, min(start + step, tensor.count)


def look_at(reader: Reader, tensor: StoredTensor, progress: Progress) -> tuple[Facts, Floats | None]:
    """Facts of a tensor, and the second moment of its rows if they may have a basis."""
    rows, columns = (tensor.shape[0], tensor.shape[1]) if len(tensor.shape) == 2 else (1, 0)
    has_axes = is_tall(rows, columns)
    length = tensor.row_length if 0 < tensor.row_length <= BLOCK else 1
    blocks = list(blocks_of(tensor, length))
    # Every so many blocks are enough for the moment.
    every = max(rows // (MOMENT_ROWS_PER_COLUMN * columns), 1) if has_axes else 1
    moment = np.zeros((columns, columns)) if has_axes else None
    squares, largest, moment_rows, zeros = 0.0, 0.0, 0, 0
    distinct, has_negative_zero = np.zeros(0), False
    common = _Common(length)
    for number, (start, stop) in enumerate(blocks):
        values = reader.values(tensor, start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            squares += float(values @ values)
        largest = max(largest, float(np.abs(values).max()))
        if not math.isfinite(squares):
            # NaN compares as false, so that the largest would miss it.
            progress.advance(tensor.size_bytes - start * tensor.dtype.itemsize)
            return Facts(mean_square=0.0, largest=0.0, is_finite=False), None
        if distinct.size <= MOST_VALUES:
            distinct = _distinct(distinct, values)
            has_negative_zero = has_negative_zero or bool(np.signbit(values[values == 0]).any())
        zeros += _scattered_zeros(values.reshape(-1, length))
        common.add(values.reshape(-1, length))
        if moment is not None and number % every == 0:
            matrix = values.reshape(-1, columns)
            moment += matrix.T @ matrix
            moment_rows += len(matrix)
        progress.advance((stop - start) * tensor.dtype.itemsize)
    if largest and squares < LEAST_SQUARES * tensor.count:
        return Facts(mean_square=0.0, largest=largest, is_finite=False), None
    is_table = distinct.size <= MOST_VALUES and tensor.count >= LEAST_REPEATED * distinct.size
    if has_negative_zero:
        distinct = np.where(distinct == 0, -0.0, distinct)
    facts = Facts(
        mean_square=squares / tensor.count,
        largest=largest,
        is_finite=True,
        spread=common.deviation(),
        values=tuple(distinct.tolist()) if is_table else (),
        zero_share=zeros / tensor.count,
        is_monotone=len(tensor.shape) == 1 and len(blocks) == 1 and _is_monotone(values),
    )
    return facts, None if moment is None else moment / moment_rows


def is_matrix(tensor: StoredTensor) -> bool:
    """Whether its rows are long enough for a trellis, and short enough for one that is searched row by row."""
    return MIN_TRELLIS_ROW <= tensor.row_length <= MAX_TRELLIS_ROW


def quotas(tensors: Sequence[StoredTensor]) -> dict[str, int]:
    """How many weights are taken of the tensors of a model, by name."""
    total = max(sum(tensor.count for tensor in tensors), 1)
    least = min(LEAST, TOTAL // max(len(tensors), 1))
    return {tensor.name: min(max(TOTAL * tensor.count // total, least), tensor.count) for tensor in tensors}


def sampled_rows(reader: Reader, tensor: StoredTensor, weights: int) -> list[tuple[int, Floats]]:
    """Runs of whole rows, about `weights` weights in all, each with the number of its first row.

    A tensor without rows worth the name is cut into rows, see :func:`metaq.quantize.blocks.as_rows`.
    """
    length = tensor.row_length if is_matrix(tensor) else FLAT_ROW
    rows = -(-tensor.count // length)
    taken = min(max(-(-weights // length), 1), rows)
    runs = min(RUNS, taken)
    found = []
    for run in range(runs):
        first = run * rows // runs
        last = min(first + -(-taken // runs), (run + 1) * rows // runs)
        values = reader.values(tensor, first * length, min(last * length, tensor.count))
        found.append((first, values.reshape(-1, length) if is_matrix(tensor) else as_rows(values)))
    return found


def sample_of(reader: Reader, tensor: StoredTensor, quota: int) -> Floats:
    """Rows of a tensor of a model, about `quota` weights, float64 (n, columns)."""
    return np.concatenate([rows for _, rows in sampled_rows(reader, tensor, quota)])


def sorted_out(reader: Reader, tensors: Sequence[StoredTensor], facts: Mapping[str, Facts]) -> SortedOut:
    """Tell weights from masks and tables by `facts` of them."""
    grids: dict[str, BucketGrid] = {}
    reasons: dict[str, str] = {}
    for tensor in tensors:
        values = facts[tensor.name].values
        grid = lossless_grid(values, tensor.dtype) if values else None
        if grid is not None:
            grids[tensor.name] = grid
        elif not facts[tensor.name].is_finite:
            reasons[tensor.name] = TOO_SMALL if facts[tensor.name].largest else NOT_FINITE
        elif facts[tensor.name].is_monotone:
            reasons[tensor.name] = MONOTONE
        elif values and tensor.count >= REPEATED * len(values):
            reasons[tensor.name] = FEW_VALUES
    left = [tensor for tensor in tensors if tensor.name not in grids and tensor.name not in reasons]
    taken = quotas(left)
    samples = {tensor.name: sample_of(reader, tensor, taken[tensor.name]) for tensor in left}
    for tensor in left:
        median = median_magnitude(samples[tensor.name])
        if median and facts[tensor.name].largest > HUGE * median:
            reasons[tensor.name] = HOLDS_HUGE
    weights = tuple(tensor for tensor in left if tensor.name not in reasons)
    return SortedOut(weights=weights, samples=samples, grids=grids, reasons=reasons)


def median_magnitude(sample: Floats) -> float:
    """Median of the magnitudes other than zero; 0 if there are none."""
    sizes = np.abs(sample[sample != 0])
    return float(np.median(sizes)) if sizes.size else 0.0


def statistics_grids(
    model: OpenedModel, reader: Reader, quantized: Iterable[str], relative_error: float
) -> dict[str, BucketGrid]:
    """Grids for running statistics of batch normalisation, as fine as weights with this relative error deserve.

    `quantized` are names of the tensors that have grids, `relative_error` the root mean square error of the weights
    over their root mean square.
    """
    stems = {name.removesuffix(ENDINGS["mean"]) for name in model.holders if name.endswith(ENDINGS["mean"])}
    names = [stem + ending for stem in sorted(stems) for ending in ENDINGS.values()]
    vectors = {}
    for name in (name for name in names if name in model.holders):
        tensor = model.tensor(name)
        if tensor.dtype.is_quantizable and tensor.count:
            vectors[name] = torch.from_numpy(reader.values(tensor, 0, tensor.count).copy())
    free = {name for name in vectors if name.rpartition(".")[2] in RUNNING_STATISTICS} - set(quantized)
    rounded = rounded_norms(vectors, taken=vectors.keys() - free, tolerance=norm_tolerance(relative_error))
    return {model.holders[name]: grid for name, grid in rounded.grids.items()}


def norm_tolerance(relative_error: float) -> float:
    """By how much rounded statistics may falsify outputs where weights have this error."""
    return min(TOLERANCE, max(LEAST_NORM_TOLERANCE, NORM_SHARE * relative_error))


class _Common:
    """What weights that come in rows have in common, and how far they deviate from it."""

    def __init__(self, length: int) -> None:
        self._rows, self._within_rows = 0, 0.0
        # Seen from the first weight and the first row, so that no large number hides small ones.
        self._first, self._sums, self._squares = np.zeros(length), np.zeros(length), np.zeros(length)

    def add(self, rows: Floats) -> None:
        """More rows, float64 (n, length)."""
        if not self._rows:
            self._first = rows[0].copy()
        self._rows += len(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            self._within_rows += float(rows.var(axis=1).sum())
            moved = rows - self._first
            self._sums += moved.sum(axis=0)
            self._squares += np.square(moved).sum(axis=0)

    def deviation(self) -> float:
        """Standard deviation from the mean of all weights, of their row or of their column, the smallest; 0 if it is no
        number.
        """
        rows, length = self._rows, self._first.size
        with np.errstate(over="ignore", invalid="ignore"):
            means = self._sums / rows
            within_columns = float((self._squares / rows - np.square(means)).mean())
            found = within_columns + float(np.var(self._first - self._first[0] + means))
            # Means of few numbers are never quite zero, whatever these are.
            if rows >= FEWEST_IN_COMMON:
                found = min(found, within_columns * rows / (rows - 1))
            if length >= FEWEST_IN_COMMON:
                found = min(found, self._within_rows / rows * length / (length - 1))
        return math.sqrt(found) if 0 < found < math.inf else 0.0


def _distinct(known: Floats, values: Floats) -> Floats:
    """The `known` values and those of a block in increasing order; no more than that it is too many of them."""
    few = np.unique(values[: 4 * MOST_VALUES])
    return few if few.size > MOST_VALUES else np.union1d(known, values)


def _is_monotone(values: Floats) -> bool:
    steps = np.diff(values)
    return values.size >= MOST_VALUES and bool((steps > 0).all() or (steps < 0).all())


def _scattered_zeros(rows: Floats) -> int:
    is_zero = rows == 0
    found = int(np.count_nonzero(is_zero))
    return found - rows.shape[1] * int(np.count_nonzero(is_zero.all(axis=1))) if found and rows.shape[1] > 1 else found
