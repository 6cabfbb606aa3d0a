"""Passes over all weights of a model at once, O(n) each: everything else in training is O(C).

Every function takes lists of tensors, the number of the group each belongs to, and the grids of all groups, and goes
through all tensors in one call. There are two backends with one behaviour, chosen for every device and dtype by what
``benchmarks/dual.py`` measured: Numba loops for contiguous float32 and float64 tensors on a CPU, PyTorch operations for
everything else. Where the grids are on a device, everything stays there.
"""
