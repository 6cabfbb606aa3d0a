"""The yardstick: how many bits a memoryless code with the stream's own frequencies would need."""

import numpy as np
from numpy.typing import NDArray


def zero_order_entropy_bits(symbols: NDArray[np.integer]) -> float:
    """Zero-order entropy of a whole stream in bits, ``-sum_i log2(n_i / n)``; 0 for an empty stream.

    Examples
    --------
    >>> zero_order_entropy_bits(np.array([0, 0, 1, 1]))
    4.0
    """
    counts = np.unique(symbols, return_counts=True)[1].astype(np.float64)
    # A single symbol has no uncertainty; the explicit branch also keeps -0.0 out of reports.
    if counts.size <= 1:
        return 0.0
    return float(counts @ (np.log2(counts.sum()) - np.log2(counts)))
