"""Tensors on their way to a file and back: numpy arrays with the dtype and shape the user's model had."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np
from numpy.typing import NDArray

from metaq.errors import ConfigError
from metaq.grid import BucketGrid


class Dtype(Enum):
    """Element types a tensor may have; the value is the number written into files and never changes."""

    float32 = 0
    float16 = 1
    bfloat16 = 2
    float64 = 3
    int8 = 4
    uint8 = 5
    int16 = 6
    int32 = 7
    int64 = 8
    bool = 9
    uint16 = 10
    uint32 = 11
    uint64 = 12
    complex64 = 13
    complex128 = 14
    float8_e4m3fn = 15
    float8_e5m2 = 16

    @property
    def itemsize(self) -> int:
        """Size of one element in bytes."""
        return self.storage.itemsize

    @property
    def is_quantizable(self) -> builtins.bool:
        """Whether elements of this type can be restored from bucket indices."""
        return self in (Dtype.float32, Dtype.float16, Dtype.bfloat16, Dtype.float64)

    @property
    def storage(self) -> np.dtype[np.generic]:
        """Little-endian numpy type that holds the bits: types numpy lacks are held as unsigned integers."""
        name = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}.get(self.name, self.name)
        return np.dtype(name).newbyteorder("<")


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedTensor:
    """Bucket indices with the grid that gives them values.

    Attributes
    ----------
    name
        Key in the state dict.
    indices
        int64 bucket indices in ``[0, grid.count)``, shape of the tensor.
    grid
        Reference values of the buckets.
    dtype
        Element type that :meth:`restore` returns; a float type numpy can be asked for (see :class:`Dtype`).
    """

    name: str
    indices: NDArray[np.int64]
    grid: BucketGrid
    dtype: Dtype

    def __post_init__(self) -> None:
        if not self.dtype.is_quantizable:
            raise ConfigError(f"{self.name}: tensors of {self.dtype.name} are stored exactly, not quantised.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.indices.shape

    def restore(self) -> NDArray[np.generic]:
        """Quantised weights, as ``dtype.storage`` (bfloat16 as uint16 bit patterns)."""
        if self.dtype is Dtype.bfloat16:
            return bfloat16_bits(self.grid.values_of(self.indices).astype(np.float32))
        return self.grid.values_of(self.indices).astype(self.dtype.storage)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactTensor:
    """A tensor kept bit for bit.

    Attributes
    ----------
    name
        Key in the state dict.
    values
        Elements as ``dtype.storage``, shape of the tensor.
    dtype
        Element type in the user's model.
    """

    name: str
    values: NDArray[np.generic]
    dtype: Dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.values.shape

    def restore(self) -> NDArray[np.generic]:
        """The elements, as ``dtype.storage``."""
        return self.values


Tensor = QuantizedTensor | ExactTensor


def float_bytes(tensor: Tensor) -> int:
    """Size in bytes of the tensor as the model holds it."""
    return prod(tensor.shape) * tensor.dtype.itemsize


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 `values` to bfloat16, ties to even, and return the bit patterns."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")
