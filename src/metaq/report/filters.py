"""Pictures of weights: blue where they are positive, orange where negative, clear where zero."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

POSITIVE, NEGATIVE, FRAME = (31, 111, 191), (217, 104, 19), (128, 128, 128)
FRAME_ALPHA = 110
MOST_UNITS = 64
"""Pictures of one layer."""

MOST_CHANNELS = 4
WIDEST, LARGEST_SCALE = 620, 14
"""Pixels that a picture is wide at most, but for its frames and at least one a weight, and that a weight takes."""

FRAME_WIDTH = 2


def data_uri(tiles: NDArray[np.float64], *, largest: float) -> tuple[str, int, int]:
    """A PNG with one framed tile a weight matrix, its width and its height.

    Parameters
    ----------
    tiles
        float64 of shape (units, channels, height, width): a unit's channels stand below each other.
    largest
        The absolute value that is drawn in full colour.
    """
    units, channels, height, width = tiles.shape
    across = min(units, max(1, round(math.sqrt(2 * units * channels * height / width))))
    scale = min(max(WIDEST // (across * width), 1), LARGEST_SCALE)
    tall, wide = scale * height + FRAME_WIDTH, scale * width + FRAME_WIDTH
    down = -(-units // across) * channels
    pixels = np.zeros((down * tall + FRAME_WIDTH, across * wide + FRAME_WIDTH, 4), dtype=np.uint8)
    for unit in range(units):
        for channel in range(channels):
            top, left = (unit // across * channels + channel) * tall, unit % across * wide
            pixels[top : top + tall + FRAME_WIDTH, left : left + wide + FRAME_WIDTH] = (*FRAME, FRAME_ALPHA)
    for unit in range(units):
        for channel in range(channels):
            top = (unit // across * channels + channel) * tall + FRAME_WIDTH
            left = unit % across * wide + FRAME_WIDTH
            large = np.kron(tiles[unit, channel], np.ones((scale, scale)))
            pixels[top : top + scale * height, left : left + scale * width] = _coloured(large, largest)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, format="PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return address, pixels.shape[1], pixels.shape[0]


def _coloured(weights: NDArray[np.float64], largest: float) -> NDArray[np.uint8]:
    shares = np.clip(np.nan_to_num(np.abs(weights) / largest if largest > 0 else np.zeros_like(weights)), 0, 1)
    colours = np.where((weights > 0)[..., None], POSITIVE, NEGATIVE)
    # The square root makes small weights visible.
    return np.concatenate([colours, np.round(255 * np.sqrt(shares))[..., None]], axis=-1).astype(np.uint8)
