"""What the supergradient methods share: the dual function, the best point so far, and when to look at the gap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.config import require
from metaq.entropy.dual.primal import attainable_counts

CHECK_EVERY = 10
"""Steps between two looks at the gap."""


def check_limits(tolerance: float, max_iterations: int) -> None:
    """Refuse a tolerance or an iteration cap outside its range."""
    require(tolerance > 0, f"tolerance: {tolerance} is not positive.")
    require(max_iterations >= 1, f"max_iterations: {max_iterations} is below 1.")


@compiled
def gap_is_closed(
    step: int,
    value: float,
    wanted: NDArray[np.float64],
    s: NDArray[np.float64],
    c_min: float,
    c_max: float,
    tolerance: float,
) -> bool:
    """Whether attainable counts near `wanted` prove `value` within `tolerance` bits; looks every so many steps, never
    for a negative tolerance."""
    if tolerance < 0 or (step + 1) % CHECK_EVERY:
        return False
    return bool(attainable_counts(wanted, s, c_min, c_max)[1] - value <= tolerance)
