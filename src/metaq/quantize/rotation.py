"""Rotating rows into a basis in which columns are uncorrelated, where that saves more than the basis costs; numpy only.

The Karhunen-Loève transform (Goyal, "Theoretical foundations of transform coding", 2001) of a tall matrix, such as a
table of embeddings: many rows of few columns. The basis is quantised first, and the rows are then expressed in the
quantised basis, so that its rounding costs nothing but a little of the gain.
"""

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
    """Rows of `matrix` expressed in the basis."""
    return np.ascontiguousarray(np.linalg.solve(basis.values().T, matrix.T).T, dtype=np.float64)


def saved_bits(before: Floats, after: Floats, step_size: float) -> float:
    """Estimated bits per weight saved where the mean squares of the columns change from `before` to `after`."""
    noise = NOISE * step_size**2
    return float((np.log2(1 + before / noise) - np.log2(1 + after / noise)).mean() / 2)
