"""Weights as small integers that ``DequantizeLinear`` gives their values, or values close to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.tensors.integers import WIDTHS, Integers, divided, factors_of, on_grid
from metaq.tensors.quantized import QuantizedTensor, combined_unit

EXACT_WIDTHS = (*WIDTHS, 16)
"""Bits of the integer types that are tried where values must be kept; two bits are left out since onnxruntime 1.32 gets
them wrong.
"""

BASIS_WIDTHS = (16,)
"""onnxruntime would round what narrower ones are multiplied with."""

ROUNDED_WIDTH = 8
ROUNDED_LEVEL = 127
"""The largest integer of a weight that is rounded; its opposite is the smallest, so that 0 stays 0."""

NARROW = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Element types of files to which float32 values must be rounded."""

Factor = NDArray[np.float32]
"""One number, of shape (), or as many as fit along one dimension of a weight, of a shape that is broadcast to it."""

ONE = np.array(1, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerWeight:
    """How a weight is computed: from `integers` times `scale`, which ``DequantizeLinear`` gives, then from each of the
    others in this order where it is not None or empty.

    Their matrix times the matrix `basis`, times all `factors`, plus `offset`, rounded to the types of `casts` one after
    the other; `difference` is the largest absolute one from the weight of the model.
    """

    integers: Integers
    scale: Factor
    basis: Integers | None = None
    factors: tuple[Factor, ...] = ()
    offset: np.float32 | None = None
    casts: tuple[torch.dtype, ...] = ()
    difference: float = 0.0

    def with_scale_apart(self) -> IntegerWeight:
        """The same with a multiplication after ``DequantizeLinear``, and no scale there that depends on the place."""
        if self.factors and not self.scale.ndim:
            return self
        return replace(self, scale=ONE, factors=(self.scale, *self.factors))

    def computed(self) -> torch.Tensor:
        """What the graph computes, bit for bit."""
        values = self.integers.levels.astype(np.float32) * self.scale
        if self.basis is not None:
            values = values @ self.basis.levels.astype(np.float32)
        for factor in self.factors:
            values = values * factor
        found = torch.from_numpy(np.asarray(values if self.offset is None else values + self.offset))
        for dtype in self.casts:
            found = found.to(dtype)
        return found


def integer_weight(
    weight: torch.Tensor, tensor: QuantizedTensor, *, widths: Sequence[int] = WIDTHS
) -> IntegerWeight | None:
    """The way to compute `weight` from the narrowest integers of `widths` bits, or None if there is no equal one.

    Equal means: no element differs by more than two units in the last place of the largest one. Where the step of the
    grid has few digits, as learned steps have, none differs at all. `weight` is the model's floating tensor: restored
    from `tensor`, or what folding left of that. A product with a basis is one only where 16 bits are among the widths.
    """
    wanted = weight.detach().double().cpu()
    if not wanted.numel():
        return None
    casts = _casts(tensor.dtype.name, weight.dtype)
    tolerance = 2 * torch.finfo(weight.dtype).eps * float(wanted.abs().max())
    with np.errstate(all="ignore"):
        ways = _combined(wanted, tensor, widths) if tensor.basis is not None else _on_grid(wanted, tensor, widths)
        for way in sorted(ways, key=lambda way: way.integers.width):
            found = replace(way, casts=casts)
            difference = float((found.computed().double() - wanted).abs().max())
            if difference <= tolerance:
                return replace(found, difference=difference)
    return None


def rounded_weight(weight: torch.Tensor) -> IntegerWeight:
    """The way to compute what is close to a floating `weight` of at least two dimensions: integers of eight bits.

    Each row has a scale of its own, or each column, whichever makes the smaller squared error.
    """
    wanted = weight.detach().double().cpu().numpy()
    ways = []
    for axis in (0, 1):
        others = tuple(each for each in range(wanted.ndim) if each != axis)
        scale = (np.abs(wanted).max(axis=others, keepdims=True) / ROUNDED_LEVEL).astype(np.float32)
        # Smaller ones than float32 holds at its full precision would not keep integers small.
        scale[scale < np.finfo(np.float32).tiny] = 1
        levels = np.clip(np.rint(wanted / scale), -ROUNDED_LEVEL, ROUNDED_LEVEL).astype(np.int64)
        error = float(((levels * scale - wanted) ** 2).sum())
        integers = Integers(levels=levels, width=ROUNDED_WIDTH, zero_point=0, scale=1.0)
        scale = scale if scale.size > 1 else scale.reshape(())
        ways.append((error, IntegerWeight(integers=integers, scale=scale)))
    _, way = min(ways, key=lambda each: each[0])
    found = replace(way, casts=_casts("", weight.dtype))
    return replace(found, difference=float(np.abs(found.computed().double().numpy() - wanted).max()))


def _on_grid(wanted: torch.Tensor, tensor: QuantizedTensor, widths: Sequence[int]) -> Iterator[IntegerWeight]:
    """Multiples of a step, then multiples of a step and an offset: these may be narrower, but take an addition."""
    if tensor.scales is not None and wanted.shape != tensor.shape:
        return
    rows, columns = factors_of(tensor.scales, wanted.ndim)
    for integers, offset in on_grid(wanted.numpy() / rows / columns, tensor.grid, widths=widths):
        if offset and tensor.scales is not None:
            continue
        along, factors = (rows, (columns,)) if rows.ndim and columns.ndim else (rows * columns, ())
        yield IntegerWeight(
            integers=integers,
            scale=_float32(integers.scale * along),
            factors=tuple(map(_float32, factors)),
            offset=np.float32(offset) if offset else None,
        )


def _combined(wanted: torch.Tensor, tensor: QuantizedTensor, widths: Sequence[int]) -> Iterator[IntegerWeight]:
    """Rows of integers times a matrix of integers, whose sums are exact in float32 below 2^24, times factors."""
    basis = tensor.basis
    assert basis is not None
    if wanted.shape != tensor.shape or not set(BASIS_WIDTHS) <= set(widths):
        return
    numbers = divided(tensor.numerators().reshape(tensor.shape), 1.0, widths=widths)
    matrix = divided(basis.numerators().astype(np.int64), 1.0, widths=BASIS_WIDTHS)
    if numbers is None or matrix is None:
        return
    unit = combined_unit(tensor.grid, basis.grid) * numbers.scale * matrix.scale
    rows, columns = factors_of(tensor.scales, wanted.ndim)
    factors = (unit * rows, columns) if columns.ndim else (unit * rows * columns,)
    yield IntegerWeight(integers=numbers, scale=ONE, basis=matrix, factors=tuple(map(_float32, factors)))


def _float32(values: NDArray[np.float64] | np.float64) -> Factor:
    return np.asarray(values, dtype=np.float32)


def _casts(stored: str, computed: torch.dtype) -> tuple[torch.dtype, ...]:
    """Types that float32 values pass on their way: that of the file if it is narrow, and that of the model."""
    passed = [torch.float32, *([NARROW[stored]] if stored in NARROW else []), computed]
    return tuple(dtype for before, dtype in pairwise(passed) if dtype != before)
