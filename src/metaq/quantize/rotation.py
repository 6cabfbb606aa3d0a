"""Rotating rows into a basis in which columns are uncorrelated, where that saves more than the basis costs; numpy only.

The Karhunen-Loève transform (Goyal, "Theoretical foundations of transform coding", 2001) of a tall matrix, such as a
table of embeddings: many rows of few columns. The basis is quantised first, and the rows are then expressed in the
quantised basis, so that its rounding costs nothing but a little of the gain.

A matrix of low rank, such as what a merged LoRA (Hu et al., 2022) adds to weights, takes few rows of a basis, which pay
for much smaller matrices. The other rows are zero, and so are their coefficients: they cost hardly a byte.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis

Floats = NDArray[np.float64]

MIN_COLUMNS = 16
MAX_COLUMNS = 4096
MIN_ROWS_PER_COLUMN = 8
BASIS_STEP = 1 / 128
BASIS_BITS = 4.8
"""About what an element of a basis of some hundred columns takes at that step."""

NOISE = 0.07
"""Squared error of a weight in squared steps, about, at moderate rates."""

MIN_GAIN_BITS = 0.02

PROBED_ROWS, PROBED_RANK = 64, 24
"""Rows of a matrix that are looked at first, and the rank of these from which it is taken for no matrix of low rank."""

LEFT_ENERGY = 4.0
"""What these rows may have beside that rank, over the squared error of quantisation."""

LEAST_COMPARED = 0.8
"""Bits estimated with a basis of low rank over those without, from which it is not tried."""


def symmetric_grid(center: float, step_size: float, limit: int) -> BucketGrid:
    """Grid of all levels of at most the magnitude `limit`."""
    count = 2 * limit + 1
    return BucketGrid(center=center, radius=step_size * count / 2, count=count)


def find_basis(matrix: Floats, step_size: float) -> Basis | None:
    """A basis of its own for `matrix`, float64 (rows, columns), if that saves bits at `step_size`; else None."""
    rows, columns = matrix.shape
    if not is_tall(rows, columns):
        return None
    second_moment = matrix.T @ matrix / rows
    basis = principal_basis(second_moment)
    if basis is None:
        return None
    after = rotated_squares(second_moment, basis)
    return basis if pays(rows, np.diag(second_moment), after, step_size) else None


def find_low_rank(matrix: Floats, step_size: float) -> Basis | None:
    """A basis of few rows, the others zero, for `matrix`, float64 (rows, columns), if it may save bits at `step_size`.

    Its rows are orthogonal. The step of its grid is such that its errors cost about what those of coefficients cost.
    """
    rows, columns = matrix.shape
    if not (MIN_COLUMNS <= columns <= MAX_COLUMNS and rows >= MIN_COLUMNS):
        return None
    noise = NOISE * step_size**2
    probed = matrix[:: -(-rows // PROBED_ROWS)]
    beside = np.square(np.linalg.svd(probed, compute_uv=False)[PROBED_RANK:]).sum()
    if beside > LEFT_ENERGY * noise * probed.size:
        return None
    squares, vectors = _principal(matrix)
    if squares[0] <= 0:
        return None
    tails = squares.sum() - np.cumsum(squares)
    known = [
        _bits(squares[:rank] / rows, noise, rows)
        + rank * columns * _basis_bits(squares[:rank], columns, noise)
        # What is left out is an error, and so worth bits.
        + tails[rank - 1] / (2 * math.log(2) * noise)
        for rank in range(1, len(squares) // 2 + 1)
        if squares[rank - 1] > noise
    ]
    without = min(_bits(np.square(matrix).mean(axis=axis), noise, matrix.shape[axis]) for axis in (0, 1))
    rank = int(np.argmin(known)) + 1 if known else 0
    if not rank or known[rank - 1] > LEAST_COMPARED * without:
        return None
    step = _low_rank_step(squares[:rank], step_size)
    levels = np.zeros((columns, columns), dtype=np.int64)
    levels[:rank] = np.round(vectors[:rank] / step)
    limit = int(np.abs(levels).max())
    return Basis(indices=levels + limit, grid=symmetric_grid(0.0, step, limit)) if limit else None


def low_rank_bits(basis: Basis) -> float:
    """About how many bits the rows of a basis take that are not zero."""
    rows = basis.indices[(basis.indices != (basis.grid.count - 1) // 2).any(axis=1)] - (basis.grid.count - 1) // 2
    return _bits(np.square(rows).mean(axis=1, dtype=np.float64), NOISE, rows.shape[1])


def _principal(matrix: Floats) -> tuple[Floats, Floats]:
    """Squared singular values, falling, and the unit vectors of the rows, float64 (n,) and (n, columns)."""
    rows, columns = matrix.shape
    if columns <= rows:
        squares, vectors = np.linalg.eigh(matrix.T @ matrix)
        return np.maximum(squares[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1].T)
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    squares = np.maximum(squares[::-1], 0.0)
    sizes = np.sqrt(np.maximum(squares, np.finfo(float).tiny))
    return squares, (vectors[:, ::-1].T @ matrix) / sizes[:, None]


def _low_rank_step(squares: Floats, step_size: float) -> float:
    """Of a basis for these squared singular values, where coefficients have `step_size`: a power of two."""
    return float(2.0 ** np.round(np.log2(step_size / np.sqrt(squares.mean()))))


def _basis_bits(squares: Floats, columns: int, noise: float) -> float:
    """About what an element takes of a basis for these squared singular values."""
    return float(np.log2(1 + squares.mean() / (columns * noise))) / 2


def _bits(mean_squares: Floats, noise: float, count: int) -> float:
    """About what columns of `count` weights with these mean squares take."""
    return count * float(np.log2(1 + mean_squares / noise).sum()) / 2


def is_tall(rows: int, columns: int) -> bool:
    """Whether a matrix has so many rows of so few columns that a basis of its own may pay."""
    return MIN_COLUMNS <= columns <= MAX_COLUMNS and rows >= MIN_ROWS_PER_COLUMN * columns


def principal_basis(second_moment: Floats) -> Basis | None:
    """Principal axes, quantised, of rows with this second moment, float64 (columns, columns); None where rounding them
    spoils them.
    """
    _, vectors = np.linalg.eigh(second_moment)
    levels = np.round(vectors[:, ::-1].T / BASIS_STEP).astype(np.int64)
    limit = int(np.abs(levels).max())
    basis = Basis(indices=levels + limit, grid=symmetric_grid(0.0, BASIS_STEP, limit))
    return basis if np.linalg.cond(basis.values()) <= 2 else None


def rotated_squares(second_moment: Floats, basis: Basis) -> Floats:
    """Mean squares of the columns, float64 (columns,), of rows with this second moment when expressed in the basis."""
    inverse = np.linalg.inv(basis.values())
    squares: Floats = np.einsum("ij,ij->j", inverse, second_moment @ inverse)
    return squares


def pays(rows: int, before: Floats, after: Floats, step_size: float) -> bool:
    """Whether a basis saves more than it costs for `rows` rows, by the mean squares of columns without and with it."""
    return rows * len(before) * saved_bits(before, after, step_size) > 2 * BASIS_BITS * len(before) ** 2


def best_shared(matrix: Floats, rotated: Iterable[Floats], step_size: float) -> int | None:
    """Which basis of another tensor saves most for `matrix`, if any does, by rows of it `rotated` into each of them."""
    before = np.square(matrix).mean(axis=0)
    gains = [saved_bits(before, np.square(each).mean(axis=0), step_size) for each in rotated]
    best = max(range(len(gains)), key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] >= MIN_GAIN_BITS else None


def rotate(matrix: Floats, basis: Basis) -> Floats:
    """Rows of `matrix` expressed in the basis, those of it that are zero left out."""
    values = basis.values()
    is_used = values.any(axis=1)
    if is_used.all():
        return np.ascontiguousarray(np.linalg.solve(values.T, matrix.T).T, dtype=np.float64)
    coefficients = np.zeros((len(matrix), basis.size))
    coefficients[:, is_used] = np.linalg.lstsq(values[is_used].T, matrix.T, rcond=None)[0].T
    return coefficients


def saved_bits(before: Floats, after: Floats, step_size: float) -> float:
    """Estimated bits per weight saved where the mean squares of the columns change from `before` to `after`."""
    noise = NOISE * step_size**2
    return float((np.log2(1 + before / noise) - np.log2(1 + after / noise)).mean() / 2)
