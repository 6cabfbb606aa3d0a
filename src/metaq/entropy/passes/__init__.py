"""Passes over all weights of a model at once, O(n) each: everything else in training is O(C).

Every function takes lists of tensors, the number of the group each belongs to, and the grids of all groups, and goes
through all tensors in one call. There are two backends with one behaviour, chosen for every device and dtype by what
``benchmarks/dual.py`` measured: Numba loops for contiguous float32 and float64 tensors on a CPU, PyTorch operations for
everything else. Where the grids are on a device, everything stays there.
"""

from metaq.entropy.passes.dispatch import (
    TensorPairs,
    add_slopes,
    begin,
    bucket_counts,
    cell_sums,
    inner_products,
    require_finite,
    restore,
    snap,
)
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.entropy.passes.watch import BucketWatch

__all__ = [
    "CPU",
    "BucketWatch",
    "GridSet",
    "TensorPairs",
    "add_slopes",
    "begin",
    "bucket_counts",
    "cell_sums",
    "inner_products",
    "require_finite",
    "restore",
    "snap",
]
