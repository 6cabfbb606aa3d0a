"""The first pass over a model: how large weights are, which values they take, and which bases may pay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from metaq.compression.work import WorkFolder
from metaq.model.stored import Reader, StoredTensor
from metaq.progress import Progress
from metaq.quantize.rotation import is_tall, principal_basis, rotated_squares
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis

Floats = NDArray[np.float64]

BLOCK = 1 << 20
"""Weights that are read at once."""

MOMENT_ROWS_PER_COLUMN = 32
"""Rows that a second moment is taken of, for every column."""

SURVEY = "survey.json"

FEW_VALUES = 16
"""A tensor that takes no more values, each many times, is a mask or a table, and kept as it is."""

REPEATED = 8
"""How often each of them is taken on average, at least."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the weights of a tensor.

    It is finite if no weight is NaN or infinite, and no square of one is too large for float64. `values` are those that
    they take in increasing order, if these are few, else empty. `zero_share` leaves out zeros of rows without any other
    weight. A vector of rising or of falling numbers is monotone, as tables of frequencies and positions are.
    """

    mean_square: float
    largest: float
    is_finite: bool
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


def survey(reader: Reader, tensors: Sequence[StoredTensor], work: WorkFolder, progress: Progress) -> Survey:
    """Pass over floating `tensors` once, or take over what an earlier run found."""
    known = _known(work)
    if known is not None:
        return known
    progress.stage("looking at weights", sum(tensor.size_bytes for tensor in tensors))
    facts: dict[str, Facts] = {}
    axes: list[Axes] = []
    for tensor in tensors:
        facts[tensor.name], moment = look_at(reader, tensor, progress)
        basis = None if moment is None or not facts[tensor.name].is_finite else principal_basis(moment)
        if basis is not None and moment is not None:
            after = rotated_squares(moment, basis)
            axes.append(Axes(name=tensor.name, basis=basis, before=np.diag(moment).copy(), after=after))
    found = Survey(facts=facts, axes=tuple(axes))
    _keep(found, work)
    return found


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
    for number, (start, stop) in enumerate(blocks):
        values = reader.values(tensor, start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            squares += float(values @ values)
        largest = max(largest, float(np.abs(values).max()))
        if not math.isfinite(squares):
            # NaN compares as false, so that the largest would miss it.
            progress.advance(tensor.size_bytes - start * tensor.dtype.itemsize)
            return Facts(mean_square=0.0, largest=0.0, is_finite=False), None
        if distinct.size <= FEW_VALUES:
            distinct = _distinct(distinct, values)
            has_negative_zero = has_negative_zero or bool(np.signbit(values[values == 0]).any())
        zeros += _scattered_zeros(values.reshape(-1, length))
        if moment is not None and number % every == 0:
            matrix = values.reshape(-1, columns)
            moment += matrix.T @ matrix
            moment_rows += len(matrix)
        progress.advance((stop - start) * tensor.dtype.itemsize)
    is_table = distinct.size <= FEW_VALUES and tensor.count >= REPEATED * distinct.size
    if has_negative_zero:
        distinct = np.where(distinct == 0, -0.0, distinct)
    facts = Facts(
        mean_square=squares / tensor.count,
        largest=largest,
        is_finite=True,
        values=tuple(distinct.tolist()) if is_table else (),
        zero_share=zeros / tensor.count,
        is_monotone=len(tensor.shape) == 1 and len(blocks) == 1 and _is_monotone(values),
    )
    return facts, None if moment is None else moment / moment_rows


def _distinct(known: Floats, values: Floats) -> Floats:
    """The `known` values and those of a block in increasing order; no more than that it is too many of them."""
    few = np.unique(values[: 4 * FEW_VALUES])
    return few if few.size > FEW_VALUES else np.union1d(known, values)


def _is_monotone(values: Floats) -> bool:
    steps = np.diff(values)
    return values.size >= FEW_VALUES and bool((steps > 0).all() or (steps < 0).all())


def _scattered_zeros(rows: Floats) -> int:
    is_zero = rows == 0
    found = int(np.count_nonzero(is_zero))
    return found - rows.shape[1] * int(np.count_nonzero(is_zero.all(axis=1))) if found and rows.shape[1] > 1 else found


def _keep(found: Survey, work: WorkFolder) -> None:
    for number, axes in enumerate(found.axes):
        work.write_array(f"basis-{number}.npy", axes.basis.indices)
    work.write(
        SURVEY,
        {
            "facts": {name: asdict(facts) for name, facts in found.facts.items()},
            "axes": [
                {
                    "name": axes.name,
                    "radius": axes.basis.grid.radius,
                    "count": axes.basis.grid.count,
                    "before": axes.before.tolist(),
                    "after": axes.after.tolist(),
                }
                for axes in found.axes
            ],
        },
    )


def _known(work: WorkFolder) -> Survey | None:
    """What an earlier run found, if all of it is there."""
    kept = work.read(SURVEY)
    if kept is None:
        return None
    facts = {name: Facts(**{**told, "values": tuple(told["values"])}) for name, told in kept["facts"].items()}
    axes = []
    for number, record in enumerate(kept["axes"]):
        indices = work.read_array(f"basis-{number}.npy")
        if indices is None:
            return None
        grid = BucketGrid(center=0.0, radius=record["radius"], count=record["count"])
        basis = Basis(indices=indices, grid=grid)
        before, after = np.array(record["before"]), np.array(record["after"])
        axes.append(Axes(name=record["name"], basis=basis, before=before, after=after))
    return Survey(facts=facts, axes=tuple(axes))
