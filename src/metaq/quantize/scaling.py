"""Steps that suit what every row and column of a tensor is worth to the loss; numpy only.

For the best use of bits, an error must cost the loss the same wherever it is made: steps grow with the inverse square
root of the curvature ("reverse water-filling" of rate-distortion theory). Where the errors of a column are compensated
in those still to come, what counts is the curvature that is left of it, the pivot of the Cholesky factor.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metaq.container.layout import LARGEST
from metaq.quantize.rdo import Floats, Importance, factor_of_inverse, unit_factors
from metaq.quantize.rotation import is_tall
from metaq.tensors.quantized import Dtype, matrix_shape
from metaq.tensors.scales import Scales, exponents_of, factors

LEAST_CURVATURE = 1e-3
"""Least curvature of a row or column that steps follow, over the mean of all."""

POWER = 0.9
"""Steps fall with this power of the square root of the curvature, as that is never known exactly."""

EXPONENT_BITS = 5.0
"""About what the exponent of a row or column takes in a file."""

LEAST_GAIN = 2.0
"""Estimated saving over cost, at least."""


def scales_for(values: NDArray[np.floating], importance: Importance, dtype: Dtype) -> Scales | None:
    """Scales by which one step suits all of a tensor of at least two dimensions, or None if they do not pay.

    Rows that may be rotated into a basis have one scale each, and their columns none.
    """
    by_row, by_column = _curvatures(importance)
    # Columns of the matrix that belong to one index of the second dimension have one scale.
    by_index = np.exp(np.log(by_column).reshape(values.shape[1], -1).mean(axis=1))
    scales = Scales(rows=_exponents(by_row, values.size), columns=_exponents(by_index, values.size))
    if importance.inputs is None and values.ndim == 2 and is_tall(*values.shape):
        scales = replace(scales, columns=np.zeros_like(scales.columns))
    if not scales.rows.any() and not scales.columns.any():
        return None
    return scales if scales.suit(float(np.abs(values).max()), LARGEST[dtype]) else None


def scaled_values(values: NDArray[np.floating], scales: Scales) -> Floats:
    """Values in the unit of their grid, float64 of the same shape."""
    rows, columns = _factors(values.shape, scales)
    divided: Floats = values.reshape(matrix_shape(values.shape)) / rows[:, None] / columns
    return divided.reshape(values.shape)


def scaled_importance(importance: Importance, shape: tuple[int, ...], scales: Scales) -> Importance:
    """Importance of errors in the unit of the grid of a tensor of this shape."""
    rows, columns = _factors(shape, scales)
    scaled = replace(importance, rows=importance.rows * rows**2, columns=importance.columns * columns**2)
    if importance.inputs is None or importance.outputs is None:
        return scaled
    squares = rows**2 if importance.outputs.ndim == 1 else np.outer(rows, rows)
    inputs = importance.inputs * columns[:, None] * columns
    return replace(scaled, inputs=inputs, outputs=importance.outputs * squares)


def _curvatures(importance: Importance) -> tuple[Floats, Floats]:
    """What a squared error costs by row and by column, float64 (rows,) and (columns,), none far below the mean."""
    if importance.inputs is None or importance.outputs is None:
        found = importance.rows * importance.columns.mean(), importance.columns * importance.rows.mean()
    elif importance.outputs.ndim == 2:
        found = unit_factors(importance.outputs)[1], unit_factors(importance.inputs)[1]
    else:
        found = importance.outputs, np.diag(factor_of_inverse(importance.inputs)) ** -2.0
    by_row, by_column = (np.maximum(each, max(LEAST_CURVATURE * float(each.mean()), 1e-300)) for each in found)
    return by_row, by_column


def _exponents(curvatures: Floats, weights: int) -> NDArray[np.int8]:
    """Exponents for rows or columns of these curvatures; zeros if they do not pay for a tensor of so many weights."""
    saved_bits = weights * (np.log2(curvatures.mean()) - np.log2(curvatures).mean()) / 2
    if saved_bits < LEAST_GAIN * EXPONENT_BITS * len(curvatures):
        return np.zeros(len(curvatures), dtype=np.int8)
    scales = curvatures ** (-POWER / 2)
    return exponents_of(scales / np.exp(np.log(scales).mean()))


def _factors(shape: tuple[int, ...], scales: Scales) -> tuple[Floats, Floats]:
    """Factors of the rows and columns of the matrix."""
    return factors(scales.rows), np.repeat(factors(scales.columns), matrix_shape(shape)[1] // shape[1])
