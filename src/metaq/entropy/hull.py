"""The lower convex hull of points on a line: the whole of the simil-knapsack problem (METHOD, section 1)."""

import numpy as np

from metaq.compiled import Floats, Integers, compiled


@compiled
def lower_hull(v: Floats, xi: Floats) -> Integers:
    """Indices of the vertices of the lower convex hull of the points ``(v_b, xi_b)``, in increasing order.

    Andrew's monotone chain, O(C). A point on the segment between two others is kept, and the first and the last
    point are always vertices, so that a weight is shared between the nearest points that can share it. `v` increases
    strictly; `v` and `xi` are float64 of shape (C,).
    """
    vertices = np.empty(v.size, np.int64)
    size = 0
    for b in range(v.size):
        while size >= 2:
            left, middle = vertices[size - 2], vertices[size - 1]
            rise_in = (xi[middle] - xi[left]) * (v[b] - v[middle])
            rise_out = (xi[b] - xi[middle]) * (v[middle] - v[left])
            if rise_in <= rise_out:
                break
            size -= 1
        vertices[size] = b
        size += 1
    return vertices[:size].copy()


@compiled
def cell_slopes(v: Floats, xi: Floats) -> Floats:
    """Slope of the lower hull of ``(v_b, xi_b)`` over every cell ``[v_j, v_{j+1})``: float64 of shape (C - 1,).

    This is β, the derivative of the simil-knapsack's value κ in the weight, for a weight of that cell.
    """
    slopes = np.empty(v.size - 1)
    vertices = lower_hull(v, xi)
    for edge in range(vertices.size - 1):
        left, right = vertices[edge], vertices[edge + 1]
        slopes[left:right] = (xi[right] - xi[left]) / (v[right] - v[left])
    return slopes
