"""Strokes of a pen that would have left a given picture of a digit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixel = tuple[int, int]
Strokes = list[list[tuple[float, float]]]

ENLARGED = 4
"""Pictures are thinned at this many times their size, so that lines are smooth."""

INK = 110
SHORTEST = 5
"""Strokes of fewer pixels are what thinning leaves of a thick end."""

STEP = 6
NEIGHBOURS = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
"""Clockwise from above."""


def strokes_of(image: NDArray[np.uint8]) -> Strokes:
    """Strokes as points (x, y) between 0 and 1, from a picture of shape (28, 28) in which ink is high."""
    enlarged = ndimage.zoom(image.astype(np.float64), ENLARGED, order=1)
    lines = thinned(enlarged > INK)
    size = len(lines)
    return [
        [((x + 0.5) / size, (y + 0.5) / size) for y, x in [*walk[:-1:STEP], walk[-1]]]
        for walk in walks(set(pixels(lines)))
    ]


def pixels(ink: NDArray[np.bool_]) -> Iterator[Pixel]:
    """Rows and columns of what is set."""
    return ((int(y), int(x)) for y, x in np.argwhere(ink))


def thinned(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lines one pixel wide (Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", 1984)."""
    ink = np.pad(ink, 1)
    while True:
        before = ink.copy()
        for is_second in (False, True):
            ink &= ~removable(ink, is_second)
        if np.array_equal(ink, before):
            return ink[1:-1, 1:-1]


def removable(ink: NDArray[np.bool_], is_second: bool) -> NDArray[np.bool_]:
    """Pixels on an edge that a line does not need, in one of the two passes."""
    around = np.stack([np.roll(ink, (-dy, -dx), axis=(0, 1)) for dy, dx in NEIGHBOURS]).astype(np.int64)
    count = around.sum(axis=0)
    edges = ((around == 0) & (np.roll(around, -1, axis=0) == 1)).sum(axis=0)
    above, right, below, left = around[0], around[2], around[4], around[6]
    if is_second:
        is_outer = (above * right * left == 0) & (above * below * left == 0)
    else:
        is_outer = (above * right * below == 0) & (right * below * left == 0)
    return ink & (count >= 2) & (count <= 6) & (edges == 1) & is_outer


def walks(lines: set[Pixel]) -> list[list[Pixel]]:
    """Paths along the lines that together visit every pixel, each from an end where there is one."""
    left, found = set(lines), []
    while left:
        start = min(left, key=lambda pixel: (len(beside(pixel, left)) != 1, pixel))
        walk = [start]
        left.remove(start)
        while ahead := beside(walk[-1], left):
            walk.append(straightest(walk, ahead))
            left.remove(walk[-1])
        joined = [*joint(walk[0], walk, lines, left), *walk, *joint(walk[-1], walk, lines, left)]
        if len(walk) >= SHORTEST or not found:
            found.append(joined)
    return found


def beside(pixel: Pixel, others: set[Pixel]) -> list[Pixel]:
    """Those of `others` that touch the pixel, straight neighbours first."""
    near = [(pixel[0] + dy, pixel[1] + dx) for dy, dx in (*NEIGHBOURS[::2], *NEIGHBOURS[1::2])]
    return [other for other in near if other in others]


def straightest(walk: list[Pixel], ahead: list[Pixel]) -> Pixel:
    """Of the pixels ahead, the one that changes the direction least."""
    (y, x), (old_y, old_x) = walk[-1], walk[max(len(walk) - 6, 0)]
    return max(ahead, key=lambda pixel: (pixel[0] - y) * (y - old_y) + (pixel[1] - x) * (x - old_x))


def joint(end: Pixel, walk: list[Pixel], lines: set[Pixel], left: set[Pixel]) -> list[Pixel]:
    """A pixel of an earlier walk, or of the beginning of this one, that the end touches."""
    passed = lines - left - set(walk[1:4]) - set(walk[-4:-1]) - {end}
    return beside(end, passed)[:1]
