"""What a level is going to cost: code lengths by context, learned from the levels of the pass before; numpy only."""

import numpy as np
from numpy.typing import NDArray

CLASSES = 24
MAX_LEVEL = 255
"""Larger levels are priced by extrapolation."""

SMALLEST_SCALE = 1 / 16
SIGN_BITS = 1.0
PSEUDO_COUNT = 4.0


def scale_classes(weights: NDArray[np.float64], step_size: float) -> NDArray[np.uint8]:
    """Class of the expected magnitude of every weight, uint8 of the shape of `weights` (rows, columns).

    The expected magnitude, in steps, is the mean of the row times that of the column over that of all, geometrically
    averaged with the mean of the neighbours to the left and above; two classes an octave.
    """
    sizes = np.abs(weights) / step_size
    return magnitude_classes(sizes, sizes.mean(axis=1), sizes.mean(axis=0), max(float(sizes.mean()), 1e-12))


def magnitude_classes(
    sizes: NDArray[np.float64],
    row_means: NDArray[np.float64],
    column_means: NDArray[np.float64],
    mean: float,
    above: NDArray[np.float64] | None = None,
) -> NDArray[np.uint8]:
    """As :func:`scale_classes` for some rows of a matrix, float64 of shape (n, columns), in steps.

    The means are of the magnitudes of these rows (n,), of the columns of the whole matrix (columns,), and of all, which
    is positive; `above` are magnitudes of the row before, (columns,), if there is one.
    """
    by_margins = np.outer(row_means, column_means) / mean
    near = np.full_like(sizes, mean)
    near[:, 1:] = sizes[:, :-1]
    near[1:] = (near[1:] + sizes[:-1]) / 2
    if above is not None and len(near):
        near[0] = (near[0] + above) / 2
    expected = by_margins**0.8 * ((near + by_margins) / 2) ** 0.2
    classes = 2 * np.log2(np.maximum(expected / SMALLEST_SCALE, 1))
    return np.minimum(np.round(classes), CLASSES - 1).astype(np.uint8)


def initial_costs() -> NDArray[np.float64]:
    """Bits of Laplacian levels by quantiser, class and magnitude, float64 (2, CLASSES, MAX_LEVEL + 1)."""
    scales = SMALLEST_SCALE * 2.0 ** (np.arange(CLASSES) / 2)
    decay = np.exp(-1 / scales)[:, None]
    magnitudes = np.arange(MAX_LEVEL + 1)
    zero = 1 - np.exp(-0.5 / scales)[:, None]
    masses = np.where(magnitudes == 0, zero, (1 - zero) * (1 - decay) * decay ** np.maximum(magnitudes - 1, 0))
    costs = -np.log2(np.maximum(masses, 1e-30)) + SIGN_BITS * (magnitudes > 0)
    return np.repeat(np.minimum(costs, 64)[None], 2, axis=0)


def learned_costs(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bits of a level from how often levels occurred, both arrays of shape (2, CLASSES, MAX_LEVEL + 1).

    Counts are smoothed towards the geometric tail of their class, as far as few were seen.
    """
    magnitudes = np.arange(MAX_LEVEL + 1)
    totals = counts.sum(axis=2, keepdims=True)
    nonzero = np.maximum(counts[:, :, 1:].sum(axis=2, keepdims=True), 0)
    mean = (counts * magnitudes).sum(axis=2, keepdims=True)
    stop = (nonzero + 1) / (np.maximum(mean, nonzero) + 2)
    zero = (totals - nonzero + 0.5) / (totals + 1)
    geometric = np.where(magnitudes == 0, zero, (1 - zero) * stop * (1 - stop) ** np.maximum(magnitudes - 1, 0))
    smoothed = (counts + PSEUDO_COUNT * geometric) / (totals + PSEUDO_COUNT)
    costs = -np.log2(np.maximum(smoothed, 1e-30)) + SIGN_BITS * (magnitudes > 0)
    tail = -np.log2(np.maximum(geometric, 1e-30)) + SIGN_BITS * (magnitudes > 0)
    limited: NDArray[np.float64] = np.minimum(np.where(counts > PSEUDO_COUNT, costs, (costs + tail) / 2), 64.0)
    return limited
