"""Pictures of weights: blue where they are positive, orange where negative, clear where zero."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaq.report.drawing import Picture

POSITIVE, NEGATIVE, FRAME = (31, 111, 191), (217, 104, 19), (128, 128, 128, 110)
FRAME_WIDTH = 1
"""Pixels round a tile."""

MOST_UNITS = 64
"""Pictures of one layer."""

MOST_CHANNELS = 4
WIDEST, LARGEST_SCALE = 620, 14
"""Pixels that a picture is wide at most, but for its frames and at least one a weight, and that a weight takes."""


def draw(tiles: NDArray[np.float64], *, largest: float, alternative: str) -> Picture:
    """A PNG with one framed tile per weight matrix; the absolute value `largest` is drawn in full colour.

    The tiles have shape (units, channels, height, width): a unit's channels stand below each other.
    """
    units, channels, height, width = tiles.shape
    across = min(units, max(1, round(math.sqrt(2 * units * channels * height / width))))
    scale = min(max(WIDEST // (across * width), 1), LARGEST_SCALE)
    large = _coloured(tiles, largest).repeat(scale, axis=2).repeat(scale, axis=3)
    framed = np.full((*tiles.shape[:2], scale * height + 2 * FRAME_WIDTH, scale * width + 2 * FRAME_WIDTH, 4), FRAME)
    framed[:, :, FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH] = large
    down = -(-units // across)
    places = np.zeros((down * across, *framed.shape[1:]), np.uint8)
    places[:units] = framed
    rows = places.reshape(down, across, *framed.shape[1:]).transpose(0, 2, 3, 1, 4, 5)
    pixels = rows.reshape(down * channels * framed.shape[2], across * framed.shape[3], 4)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, format="PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return Picture(address=address, width=pixels.shape[1], height=pixels.shape[0], alternative=alternative)


def _coloured(weights: NDArray[np.float64], largest: float) -> NDArray[np.uint8]:
    shares = np.clip(np.nan_to_num(np.abs(weights) / largest if largest > 0 else np.zeros_like(weights)), 0, 1)
    colours = np.where((weights > 0)[..., None], POSITIVE, NEGATIVE)
    # The square root makes small weights visible.
    return np.concatenate([colours, np.round(255 * np.sqrt(shares))[..., None]], axis=-1).astype(np.uint8)
