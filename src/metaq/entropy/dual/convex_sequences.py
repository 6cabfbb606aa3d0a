"""Weighted least squares over convex sequences, by an active-set method.

A convex sequence is linear between its knots. For a given set of knots the least-squares fit is a tridiagonal system,
O(C); knots whose kink would turn concave are dropped on the way to the fit, knots along which the sum of squares still
falls are added after it (Groeneboom, Jongbloed and Wellner, "The support reduction algorithm", Scand. J. Stat. 2008;
Dümbgen, Hüsler and Rufibach, "Active set and EM algorithms for log-concave densities", 2007).
"""

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import Floats, Integers, compiled
from metaq.entropy.hull import lower_hull

ROUNDING = 1e-13
"""Derivative along a kink, over its natural scale, that counts as zero."""


@compiled
def lower_envelope(xi: Floats) -> Floats:
    """The greatest convex sequence below `xi`: float64 of shape (C,)."""
    vertices = lower_hull(np.arange(xi.size).astype(np.float64), xi)
    envelope = xi.copy()
    for edge in range(vertices.size - 1):
        left, right = vertices[edge], vertices[edge + 1]
        for b in range(left + 1, right):
            envelope[b] = xi[left] + (b - left) / (right - left) * (xi[right] - xi[left])
    return envelope


@compiled
def convex_regression(y: Floats, weights: Floats, start: Floats, max_rounds: int) -> tuple[Floats, int]:
    """The convex sequence ξ that minimises Σ_b weights_b (ξ_b - y_b)².

    Every step keeps ξ convex and never raises the sum of squares. O(C) a round, of which `max_rounds` fits are the cap;
    a good `start`, a convex sequence, saves rounds. Returns ξ and the number of fits made. All are float64 of shape
    (C,), C at least 2, and `weights` positive.
    """
    xi = start.copy()
    is_knot = np.ones(xi.size, np.bool_)
    is_knot[1:-1] = np.diff(xi)[1:] > np.diff(xi)[:-1]
    best = np.inf
    fits = 0
    while fits < max_rounds:
        blocked = True
        while blocked and fits < max_rounds:
            blocked = _move_to_fit(y, weights, xi, is_knot)
            fits += 1
        squares = float((weights * (xi - y) ** 2).sum())
        one_only = squares >= best
        best = min(best, squares)
        if not _add_knots(y, weights, xi, is_knot, one_only):
            break
    return xi, fits


@compiled
def _move_to_fit(y: Floats, weights: Floats, xi: Floats, is_knot: NDArray[np.bool_]) -> bool:
    """Move `xi` towards the fit on its knots until a kink vanishes, whose knot is dropped; whether one did."""
    knots = np.flatnonzero(is_knot)
    fitted = _fit(y, weights, knots)
    share = 1.0
    kept = np.ones(knots.size)
    for j in range(1, knots.size - 1):
        before, here, after = knots[j - 1], knots[j], knots[j + 1]
        wanted = (fitted[j + 1] - fitted[j]) / (after - here) - (fitted[j] - fitted[j - 1]) / (here - before)
        if wanted < 0:
            kink = max((xi[after] - xi[here]) / (after - here) - (xi[here] - xi[before]) / (here - before), 0.0)
            kept[j] = kink / (kink - wanted)
            share = min(share, kept[j])
    blocked = False
    for j in range(1, knots.size - 1):
        if kept[j] < 1 and kept[j] <= share:
            is_knot[knots[j]] = False
            blocked = True
    at_knots = xi[knots] + share * (fitted - xi[knots])
    left = 0
    for j in range(1, knots.size):
        if is_knot[knots[j]]:
            start, end = knots[left], knots[j]
            for b in range(start, end):
                xi[b] = at_knots[left] + (b - start) / (end - start) * (at_knots[j] - at_knots[left])
            left = j
    xi[-1] = at_knots[-1]
    return blocked


@compiled
def _fit(y: Floats, weights: Floats, knots: Integers) -> Floats:
    """Values at the knots of the weighted least-squares fit that is linear between them."""
    size = knots.size
    diagonal, beside, right = np.zeros(size), np.zeros(size), np.zeros(size)
    for j in range(size - 1):
        start, end = knots[j], knots[j + 1]
        stop = end + 1 if j == size - 2 else end
        for b in range(start, stop):
            t = (b - start) / (end - start)
            diagonal[j] += weights[b] * (1 - t) * (1 - t)
            diagonal[j + 1] += weights[b] * t * t
            beside[j] += weights[b] * t * (1 - t)
            right[j] += weights[b] * (1 - t) * y[b]
            right[j + 1] += weights[b] * t * y[b]
    for j in range(1, size):
        factor = beside[j - 1] / diagonal[j - 1]
        diagonal[j] -= factor * beside[j - 1]
        right[j] -= factor * right[j - 1]
    fitted = np.empty(size)
    fitted[size - 1] = right[size - 1] / diagonal[size - 1]
    for j in range(size - 2, -1, -1):
        fitted[j] = (right[j] - beside[j] * fitted[j + 1]) / diagonal[j]
    return fitted


@compiled
def _add_knots(y: Floats, weights: Floats, xi: Floats, is_knot: NDArray[np.bool_], one_only: bool) -> bool:
    """Make a knot of the bucket between any two knots along whose kink the sum of squares falls most; whether any is.

    The derivative along the kink at k is Σ_b (b - k)_+ weights_b (y_b - ξ_b), up to a positive factor.
    """
    scale = float((weights * (np.abs(y - xi) + 1e-3 * (np.abs(y) + np.abs(xi)))).sum())
    least = ROUNDING * scale * y.size
    beyond, derivative = 0.0, 0.0
    local, local_at = least, -1
    steepest, steepest_at = least, -1
    added = False
    for k in range(y.size - 2, -1, -1):
        beyond += weights[k + 1] * (y[k + 1] - xi[k + 1])
        derivative += beyond
        if is_knot[k]:
            if local_at >= 0 and not one_only:
                is_knot[local_at] = True
                added = True
            local, local_at = least, -1
        elif derivative > local:
            local, local_at = derivative, k
        if local_at == k and derivative > steepest:
            steepest, steepest_at = derivative, k
    if one_only and steepest_at >= 0:
        is_knot[steepest_at] = True
        added = True
    return added
