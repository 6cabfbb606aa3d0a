"""Rotating rows into a basis in which columns are uncorrelated, where that saves more than the basis costs; numpy only.

The Karhunen-Loève transform (Goyal, "Theoretical foundations of transform coding", 2001) of a tall matrix, such as a
table of embeddings: many rows of few columns. The basis is quantised first, and the rows are then expressed in the
quantised basis, so that its rounding costs nothing but a little of the gain.

A matrix of low rank, such as what a merged LoRA (Hu et al., 2022) adds to weights, takes few rows of a basis, which pay
for much smaller matrices. The other rows are zero, and so are their coefficients: they cost hardly a byte.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

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

PROBED_ROWS, MAX_RANK = 256, 128
"""Rows of a matrix that are looked at first, and the greatest rank that is low, if it is not half of these rows."""

LEFT_ENERGY = 0.05
"""Share of the squares of these rows that may be left beside that rank."""

LEAST_SAVED = 0.8
"""Bits estimated with a basis of low rank over those without, below which it is tried."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """What is known of a matrix that may be of low rank.

    Attributes
    ----------
    squares
        Squared singular values, falling, float64 of shape (n,).
    vectors
        Unit vectors of the rows for the first of these, float64 of shape (rank, columns).
    by_row, by_column
        Mean squares of rows and of columns, float64 of shapes (rows,) and (columns,).
    """

    squares: Floats
    vectors: Floats
    by_row: Floats
    by_column: Floats

    @classmethod
    def of(cls, weights: NDArray[np.floating]) -> "LowRank | None":
        """None if a look at some rows of `weights`, of shape (rows, columns), tells that they are of no low rank."""
        rows, columns = weights.shape
        if not (MIN_COLUMNS <= columns <= MAX_COLUMNS and rows >= MIN_COLUMNS):
            return None
        some = weights[:: -(-rows // PROBED_ROWS)].astype(np.float64)
        probed = np.square(np.linalg.svd(some, compute_uv=False))
        most = min(len(probed) // 2, MAX_RANK)
        if probed[most:].sum() >= LEFT_ENERGY * probed.sum():
            return None
        matrix = weights.astype(np.float64)
        squares, vectors = _principal(matrix, most)
        by_row, by_column = (np.square(matrix).mean(axis=axis) for axis in (1, 0))
        return cls(squares=squares, vectors=vectors, by_row=by_row, by_column=by_column)

    def estimate(self, step_size: float) -> tuple[int, float] | None:
        """Rank, and about the bits of coefficients and of rows of the basis; None if these do not pay."""
        noise, rows, columns = NOISE * step_size**2, len(self.by_row), len(self.by_column)
        # What is left out is an error, and so worth bits.
        left_out = np.maximum(self.squares.sum() - np.cumsum(self.squares), 0.0) / (2 * math.log(2) * noise)
        bits = [
            _bits(self.squares[:rank] / rows, noise, rows) + _bits(np.full(columns, self._entry(rank)), noise, rank)
            for rank in range(1, len(self.vectors) + 1)
        ]
        rank = int(np.argmin(bits + left_out[: len(bits)])) + 1
        without = min(_bits(self.by_row, noise, columns), _bits(self.by_column, noise, rows))
        return (rank, bits[rank - 1]) if bits[rank - 1] + left_out[rank - 1] < LEAST_SAVED * without else None

    def basis(self, rank: int, step_size: float) -> Basis:
        """A basis of so many rows, orthogonal ones, the others zero, for coefficients of `step_size`.

        The step of its grid is such that its errors cost about what those of coefficients do.
        """
        columns = len(self.by_column)
        step = float(2.0 ** np.round(np.log2(step_size / np.sqrt(self.squares[:rank].mean()))))
        levels = np.zeros((columns, columns), dtype=np.int64)
        levels[:rank] = np.round(self.vectors[:rank] / step)
        limit = max(int(np.abs(levels).max()), 1)
        return Basis(indices=levels + limit, grid=symmetric_grid(0.0, step, limit))

    def _entry(self, rank: int) -> float:
        """Mean square of an entry of so many rows of the basis, where its step is that of coefficients."""
        return float(self.squares[:rank].mean()) / len(self.by_column)


def _principal(matrix: Floats, most: int) -> tuple[Floats, Floats]:
    """Squared singular values, falling, and unit vectors of rows for the first `most` of them that are not zero."""
    is_tall = matrix.shape[1] <= matrix.shape[0]
    squares, vectors = np.linalg.eigh(matrix.T @ matrix if is_tall else matrix @ matrix.T)
    squares, vectors = np.maximum(squares[::-1], 0.0), vectors[:, ::-1][:, :most].T
    kept = vectors[squares[:most] > np.finfo(float).eps * squares[0]]
    if not is_tall:
        kept = kept @ matrix
        kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    return squares, kept


def _bits(mean_squares: Floats, noise: float, count: int) -> float:
    """About what so many vectors of `count` numbers with these mean squares take."""
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
