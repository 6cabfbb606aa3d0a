"""Weights on a grid as small integers that ``DequantizeLinear`` gives their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.tensors.quantized import QuantizedTensor, combined_unit

WIDTHS = (4, 8, 16)
"""Bits of the integer types that are tried; two bits are left out since onnxruntime 1.32 gets them wrong."""

BASIS_WIDTHS = (16,)
"""onnxruntime would round what narrower ones are multiplied with."""

MAX_LEVEL = 1 << 20
"""Integers above it fit none of the types, whatever they have in common."""

NARROW = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Element types of files to which float32 values must be rounded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Integers:
    """What ``DequantizeLinear`` computes ``(stored - zero_point) * scale`` from, in float32.

    `levels` are ``stored - zero_point``, int64 in the shape of the tensor; `width` has the bits of the signed type that
    `stored` fits; the zero point is 0 if that is possible.
    """

    levels: NDArray[np.int64]
    width: int
    zero_point: int
    scale: np.float32

    @property
    def stored(self) -> NDArray[np.int64]:
        """The integers to be written, int64, shape of the tensor."""
        return self.levels + self.zero_point

    def dequantized(self) -> NDArray[np.float32]:
        """What ``DequantizeLinear`` gives, bit for bit."""
        return self.levels.astype(np.float32) * self.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerWeight:
    """How a weight is computed: from `integers`, then each of the others in this order where it is not None or empty.

    Their matrix times the matrix `basis`, times `factor`, plus `offset`, rounded to the types of `casts` one after the
    other; `difference` is the largest absolute one from the weight of the model.
    """

    integers: Integers
    basis: Integers | None = None
    factor: np.float32 | None = None
    offset: np.float32 | None = None
    casts: tuple[torch.dtype, ...] = ()
    difference: float = 0.0

    def with_scale_apart(self) -> IntegerWeight:
        """The same, with the scale as the factor."""
        if self.factor is not None:
            return self
        return replace(self, integers=replace(self.integers, scale=np.float32(1)), factor=self.integers.scale)


def integer_weight(weight: torch.Tensor, tensor: QuantizedTensor) -> IntegerWeight | None:
    """The way to compute `weight` from the narrowest integers, or None if there is no equal one.

    Equal means: no element differs by more than two units in the last place of the largest one. Where the step of the
    grid has few digits, as learned steps have, none differs at all. `weight` is the model's floating tensor: restored
    from `tensor`, or what folding left of that.
    """
    wanted = weight.detach().double().cpu()
    if not wanted.numel():
        return None
    casts = _casts(tensor.dtype.name, weight.dtype)
    tolerance = 2 * torch.finfo(weight.dtype).eps * float(wanted.abs().max())
    with np.errstate(all="ignore"):
        ways = _combined(wanted, tensor) if tensor.basis is not None else _on_grid(wanted.numpy(), tensor)
        for way in sorted(ways, key=lambda way: way.integers.width):
            difference = float((_rounded(_float32(way), casts).double() - wanted).abs().max())
            if difference <= tolerance:
                return replace(way, casts=casts, difference=difference)
    return None


def _on_grid(wanted: NDArray[np.float64], tensor: QuantizedTensor) -> Iterator[IntegerWeight]:
    """Multiples of a step, then multiples of a step and an offset: these may be narrower, but take an addition.

    The numbers come from the values rather than from the bucket indices, so that it does not matter whether a trellis
    moved them and which rows and columns folding took out.
    """
    grid = tensor.grid
    unit = grid.radius / grid.count
    numerators = np.rint((wanted - grid.center) / unit)
    if not bool((np.abs(numerators) < MAX_LEVEL).all()):
        return
    found = numerators.astype(np.int64)
    zero = round(grid.center / unit)
    if abs(zero) < MAX_LEVEL:
        integers = _divided(found + zero, unit)
        if integers is not None:
            yield IntegerWeight(integers=integers)
    lowest = int(found.min())
    divisor = max(int(np.gcd.reduce(found - lowest, axis=None)), 1)
    middle = lowest + divisor * -((lowest - int(found.max())) // (2 * divisor))
    integers = _divided(found - middle, unit)
    if integers is not None:
        yield IntegerWeight(integers=integers, offset=np.float32(grid.center + unit * middle))


def _combined(wanted: torch.Tensor, tensor: QuantizedTensor) -> Iterator[IntegerWeight]:
    """Rows of integers times a matrix of integers, whose sums are exact in float32 below 2^24, times a factor."""
    basis = tensor.basis
    assert basis is not None
    if wanted.shape != tensor.shape:
        return
    rows = _divided(tensor.numerators().reshape(tensor.shape), 1.0)
    matrix = _divided(basis.numerators().astype(np.int64), 1.0, widths=BASIS_WIDTHS)
    if rows is None or matrix is None:
        return
    factor = np.float32(combined_unit(tensor.grid, basis.grid) * float(rows.scale) * float(matrix.scale))
    one = np.float32(1)
    yield IntegerWeight(integers=replace(rows, scale=one), basis=replace(matrix, scale=one), factor=factor)


def _divided(levels: NDArray[np.int64], unit: float, *, widths: Sequence[int] = WIDTHS) -> Integers | None:
    """`levels`, in units of `unit`, over their greatest common divisor; None if no type holds them."""
    divisor = max(int(np.gcd.reduce(levels, axis=None)), 1)
    levels = levels // divisor
    lowest, highest = int(levels.min()), int(levels.max())
    for width in widths:
        least, most = -(1 << (width - 1)), (1 << (width - 1)) - 1
        lower, upper = max(least - lowest, least), min(most - highest, most)
        if lower <= upper:
            zero_point = min(max(0, lower), upper)
            return Integers(levels=levels, width=width, zero_point=zero_point, scale=np.float32(unit * divisor))
    return None


def _float32(way: IntegerWeight) -> NDArray[np.float32]:
    """What the graph computes before it rounds to narrower types."""
    values = way.integers.dequantized()
    if way.basis is not None:
        values = values @ way.basis.dequantized()
    if way.factor is not None:
        values = values * way.factor
    return values if way.offset is None else values + way.offset


def _casts(stored: str, computed: torch.dtype) -> tuple[torch.dtype, ...]:
    """Types that float32 values pass on their way: that of the file if it is narrow, and that of the model."""
    passed = [torch.float32, *([NARROW[stored]] if stored in NARROW else []), computed]
    return tuple(dtype for before, dtype in pairwise(passed) if dtype != before)


def _rounded(values: NDArray[np.float32], casts: tuple[torch.dtype, ...]) -> torch.Tensor:
    rounded = torch.from_numpy(np.asarray(values))
    for dtype in casts:
        rounded = rounded.to(dtype)
    return rounded
