"""Floating tensors that hold less than their type could: values of a narrower type, or a grid of few levels."""

import numpy as np
from numpy.typing import NDArray

from metaq.tensors.narrow_floats import float8_values
from metaq.tensors.quantized import Dtype, values_of

NARROWER = {
    Dtype.float64: (Dtype.bfloat16, Dtype.float16, Dtype.float32),
    Dtype.float32: (Dtype.bfloat16, Dtype.float16),
    Dtype.float16: (Dtype.float8_e4m3fn, Dtype.float8_e5m2),
    Dtype.bfloat16: (Dtype.float8_e4m3fn, Dtype.float8_e5m2),
}
"""By type those that may be inside, in the order in which they are named."""

SAMPLE = 1 << 12
MOST_LEVELS = 1 << 12
"""Of a grid that is worth a word."""

TOLERANCE = 0.01
"""Values are on a grid if they are no further from it than this many steps: products of float32 are rounded."""


def looks_like(elements: NDArray[np.generic], dtype: Dtype) -> str | None:
    """What a tensor could be kept as: ``"bfloat16"`` or another type that holds all of its values exactly, or
    ``"a grid of 255 levels"``, multiples of a step.

    None if it is nothing less than its type, is no floating tensor, or has fewer than two values or one that is not
    finite. `elements` are given as ``dtype.storage``, in any shape.

    Examples
    --------
    >>> weights = np.random.default_rng(0).normal(size=1000).astype("<f2").astype("<f4")
    >>> looks_like(weights, Dtype.float32)
    'float16'
    >>> looks_like(np.float32(0.1) * (np.arange(1000, dtype="<f4") % 200 - 100), Dtype.float32)
    'a grid of 200 levels'
    """
    if dtype not in NARROWER:
        return None
    flat = np.ascontiguousarray(elements).reshape(-1)
    sample = values_of(flat[:: max(flat.size // SAMPLE, 1)], dtype)
    candidates = [narrow for narrow in NARROWER[dtype] if _fits(sample, narrow)]
    may_be_grid = np.unique(sample).size <= MOST_LEVELS // 2 or sample.size < SAMPLE
    if not candidates and not may_be_grid:
        return None
    values = values_of(flat, dtype)
    if not bool(np.isfinite(values).all()) or values.size == 0 or values.min() == values.max():
        return None
    levels = _levels(values) if may_be_grid else None
    if levels is not None:
        return f"a grid of {levels} levels"
    return next((narrow.name for narrow in candidates if _fits(values, narrow)), None)


def _fits(values: NDArray[np.float64], dtype: Dtype) -> bool:
    """Whether the type holds all `values`."""
    if dtype.is_float8:
        finite = float8_values(np.arange(256, dtype=np.uint8), dtype.name)
        return bool(np.isin(values, finite[np.isfinite(finite)]).all())
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float16 if dtype is Dtype.float16 else np.float32)
    bits = np.zeros(1, dtype=np.uint32) if dtype is not Dtype.bfloat16 else narrow.view(np.uint32) & 0xFFFF
    return bool((narrow == values).all()) and not bits.any()


def _levels(values: NDArray[np.float64]) -> int | None:
    """Levels from the lowest value to the highest if all are multiples of one step, and these fewer than the values."""
    different = np.unique(values)
    if different.size > min(MOST_LEVELS, values.size // 2):
        return None
    span = different[-1] - different[0]
    steps = round(span / float(np.diff(different).min()))
    if steps >= MOST_LEVELS:
        return None
    multiples = different * (steps / span)
    is_on_grid = float(np.abs(multiples - np.rint(multiples)).max()) <= TOLERANCE
    return steps + 1 if is_on_grid else None
