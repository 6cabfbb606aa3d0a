"""Rows of a stream that are alike, for tables of their own: by their scale, or by their mean."""

import numpy as np

from metaq.coding.chunks import StreamShape
from metaq.coding.context import fast_kernel as kernel
from metaq.compiled import Floats, Integers, Symbols

MAX_CLASSES = 8
MIN_CLASSED_COUNT = 1 << 13
CLASS_WIDTH = 0.35
"""Rows of a class differ less than this in the binary logarithm of their scale; within it a table loses under 1 %."""

SHIFT_WIDTH = 0.2
"""Rows of a class differ less than this in their mean, in standard deviations within rows."""

ROUNDING_VARIANCE = 1 / 12
"""The least that symbols of a row are taken to vary."""

OUTLIERS = 0.005
"""Share of rows at either end whose means do not make the classes of all others wider."""

WORTHWHILE_BITS = 128.0
"""Classes are not worth a look if they promise no more than two tables take."""


def row_classes(values: Symbols, shape: StreamShape) -> list[Integers]:
    """Classes of all rows that promise something, int64 of shape (rows,) each: by the scale of rows, by their means."""
    if not shape.usable_row or shape.count < MIN_CLASSED_COUNT:
        return []
    rows = shape.count // shape.row_length
    magnitudes, sums = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    squares = float(kernel.row_sums(values, shape.row_length, magnitudes, sums))
    by_mean = None if shape.trellis_bits else _classes_by_mean(shape, sums / shape.row_length, squares / shape.count)
    found = [_classes_by_scale(shape, magnitudes / shape.row_length), by_mean]
    return [classes for classes in found if classes is not None]


def _classes_by_scale(shape: StreamShape, magnitudes: Floats) -> Integers | None:
    """For streams around the central symbol, such as bucket indices."""
    # A tenth keeps rows of nothing but central symbols finite, and near the others.
    levels = np.log2(magnitudes + 0.1)
    gain_bits = shape.count * (np.log2(np.exp2(levels).mean()) - levels.mean())
    if gain_bits < 4 * levels.size + WORTHWHILE_BITS:
        return None
    return _in_steps(levels, levels.min(), max(float(np.ptp(levels)) / MAX_CLASSES, CLASS_WIDTH))


def _classes_by_mean(shape: StreamShape, means: Floats, mean_square: float) -> Integers | None:
    """For streams whose rows are shifted, such as exponents."""
    within = max(mean_square - float((means**2).mean()), ROUNDING_VARIANCE)
    gain_bits = 0.5 * shape.count * np.log2(1 + float(means.var()) / within)
    if gain_bits < 4 * means.size + WORTHWHILE_BITS:
        return None
    lowest, highest = np.quantile(means, [OUTLIERS, 1 - OUTLIERS])
    return _in_steps(means, lowest, max((highest - lowest) / MAX_CLASSES, SHIFT_WIDTH * np.sqrt(within)))


def _in_steps(levels: Floats, lowest: float, width: float) -> Integers:
    """Classes of `levels` from the `lowest` on, numbered without gaps."""
    classes = np.floor((levels - lowest) / width).astype(np.int64).clip(0, MAX_CLASSES - 1)
    return np.unique(classes, return_inverse=True)[1].reshape(-1).astype(np.int64)
