"""Passes over all weights of a model at once, O(n) each: everything else in training is O(C).

Every function takes lists of tensors, the number of the group each belongs to, and the grids of all groups, and goes
through all tensors in one call. There are two backends with one behaviour, chosen for every device and dtype by what
``benchmarks/dual.py`` measured: Numba loops for contiguous float32 and float64 tensors on a CPU, PyTorch operations for
everything else.
"""

from metaq.passes.dispatch import TensorPairs, add_slopes, bucket_counts, cell_sums, inner_products, restore, snap
from metaq.passes.grids import GridSet
from metaq.passes.watch import BucketWatch

__all__ = [
    "BucketWatch",
    "GridSet",
    "TensorPairs",
    "add_slopes",
    "bucket_counts",
    "cell_sums",
    "inner_products",
    "restore",
    "snap",
]
