"""Counts that the weights can attain, near those a dual point asks for: an upper bound of the optimum.

Counts c are attainable if and only if they dominate the linear-binning counts s in convex order (Strassen 1965; METHOD,
section 1):
Σ c = Σ s, Σ b c_b = Σ b s_b, and Σ_b (b - k)_+ c_b ≥ Σ_b (b - k)_+ s_b for every interior bucket k.
"""

import numpy as np

from metaq.compiled import Floats, compiled

ROUNDING = 1e-12
"""What a hinge sum Σ_b (b - k)_+ c_b or a count may miss its bound by, over n C."""


@compiled
def hinge_sums(counts: Floats) -> Floats:
    """Σ_b (b - k)_+ c_b for every k: float64 of shape (C,)."""
    sums = np.zeros(counts.size)
    sums[:-1] = counts[:0:-1].cumsum().cumsum()[::-1]
    return sums


@compiled
def spread_counts(s: Floats) -> Floats:
    """Attainable counts with weights on every bucket: the mean of all sharings between one bucket and both ends."""
    last = s.size - 1
    counts = np.zeros(s.size)
    below, below_moment = s[0], 0.0
    total, moment = s.sum(), (np.arange(s.size) * s).sum()
    for k in range(1, last):
        above = total - below - s[k]
        above_distance = last * above - (moment - below_moment - k * s[k])
        from_left = below_moment / k
        from_right = above_distance / (last - k)
        counts[k] += from_left + s[k] + from_right
        counts[0] += below - from_left
        counts[last] += above - from_right
        below += s[k]
        below_moment += k * s[k]
    return counts / (last - 1) if last > 1 else s.copy()


@compiled
def _completed(counts: Floats, s: Floats) -> Floats:
    """`counts` with as much on the two end buckets as their sum and mean need to be those of `s`."""
    completed, missing = counts.copy(), s - counts
    on_last = (np.arange(s.size) * missing).sum() / (s.size - 1)
    completed[-1] += on_last
    completed[0] += missing.sum() - on_last
    return completed


@compiled
def attainable_counts(wanted: Floats, s: Floats, c_min: float, c_max: float) -> tuple[Floats, float]:
    """Attainable counts within the bounds, as near `wanted` as a mixture with :func:`spread_counts` allows.

    Returns the counts (shape (C,)) and their value Σ c log2 c in bits, infinite if the mixture has none. O(C).
    """
    count = s.size
    n = s.sum()
    inner = spread_counts(s)
    outer = _completed(wanted, s)
    least, most = 0.0, 1.0
    slack = ROUNDING * n * count
    hinge_s, hinge_inner, hinge_outer = hinge_sums(s), hinge_sums(inner), hinge_sums(outer)
    all_inside = np.concatenate(((hinge_inner - hinge_s)[1:], inner - c_min, c_max - inner)) + slack
    all_outside = np.concatenate(((hinge_outer - hinge_s)[1:], outer - c_min, c_max - outer)) + slack
    for k in range(all_inside.size):
        inside, outside = all_inside[k], all_outside[k]
        if inside >= 0 and outside < 0:
            most = min(most, inside / (inside - outside))
        elif inside < 0 and outside >= 0:
            least = max(least, inside / (inside - outside))
        elif inside < 0:
            return inner, np.inf
    if least > most:
        return inner, np.inf
    counts = np.minimum(np.maximum(inner + most * (outer - inner), c_min), c_max)
    return counts, (counts * np.log2(counts)).sum()


@compiled
def bounds_are_attainable(s: Floats, c_min: float) -> bool:
    """Whether some attainable counts are at least `c_min` everywhere, with no upper bound on a count. O(C).

    The counts that dominate all others of this kind leave `c_min` on every bucket and put the rest on the two ends.
    """
    extreme = _completed(np.full(s.size, c_min), s)
    slack = ROUNDING * s.sum() * s.size
    if min(extreme[0], extreme[-1]) < c_min - slack:
        return False
    return bool((hinge_sums(extreme)[1:] >= hinge_sums(s)[1:] - slack).all())
