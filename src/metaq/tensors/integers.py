"""Values on a grid as small integers times a scale, as kernels for quantised weights take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.tensors.grid import BucketGrid
from metaq.tensors.scales import Scales, factors

WIDTHS = (4, 8)
"""Bits of the types that kernels multiply with."""

MAX_LEVEL = 1 << 20
"""Integers above it fit none of the types, whatever they have in common."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Integers:
    """What stands for the values ``(stored - zero_point) * scale``.

    `levels` are ``stored - zero_point``, int64 in the shape of the tensor; `width` has the bits of the signed type that
    `stored` fits; the zero point is 0 if that is possible.
    """

    levels: NDArray[np.int64]
    width: int
    zero_point: int
    scale: float

    @property
    def stored(self) -> NDArray[np.int64]:
        """The integers to be written, int64, shape of the tensor."""
        return np.asarray(self.levels + self.zero_point)


def on_grid(
    values: NDArray[np.float64], grid: BucketGrid, *, widths: Sequence[int] = WIDTHS
) -> Iterator[tuple[Integers, float]]:
    """Integers and an offset that together give `values`, at least one, if these lie on the grid.

    First multiples of a step, whose offset is 0, then multiples of a step and an offset, which may be narrower; only
    those of the types of `widths` bits. Since they come from the values rather than from the bucket indices, it does
    not matter whether a trellis moved them, nor which rows and columns were taken out. That the values do lie on the
    grid is not checked.
    """
    unit = grid.radius / grid.count
    numerators = np.rint((values - grid.center) / unit)
    # NaN is not below it either.
    if not bool((np.abs(numerators) < MAX_LEVEL).all()):
        return
    found, zero = numerators.astype(np.int64), grid.center / unit
    if abs(zero) < MAX_LEVEL:
        integers = divided(found + round(zero), unit, widths=widths)
        if integers is not None:
            yield integers, 0.0
    lowest = int(found.min())
    divisor = max(int(np.gcd.reduce(found - lowest, axis=None)), 1)
    middle = lowest + divisor * -((lowest - int(found.max())) // (2 * divisor))
    integers = divided(found - middle, unit, widths=widths)
    if integers is not None:
        yield integers, grid.center + unit * middle


def divided(levels: NDArray[np.int64], unit: float, *, widths: Sequence[int] = WIDTHS) -> Integers | None:
    """`levels`, at least one, in units of `unit`, over their greatest common divisor, in the narrowest of the types of
    `widths` bits; None if none holds them.
    """
    divisor = max(int(np.gcd.reduce(levels, axis=None)), 1)
    levels = levels // divisor
    lowest, highest = int(levels.min()), int(levels.max())
    for width in widths:
        least, most = -(1 << (width - 1)), (1 << (width - 1)) - 1
        lower, upper = max(least - lowest, least), min(most - highest, most)
        if lower <= upper:
            zero_point = min(max(0, lower), upper)
            return Integers(levels=levels, width=width, zero_point=zero_point, scale=unit * divisor)
    return None


def factors_of(scales: Scales | None, dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of rows and of columns that a tensor of so many dimensions can be multiplied with; those that are all the
    same are a single one, of shape ().
    """

    def along(axis: int, exponents: NDArray[np.int8]) -> NDArray[np.float64]:
        found = factors(exponents)
        shape = [1] * dimensions
        shape[axis] = -1
        return found[0].reshape(()) if (found == found[0]).all() else found.reshape(shape)

    one = np.array(1.0)
    return (one, one) if scales is None else (along(0, scales.rows), along(1, scales.columns))
