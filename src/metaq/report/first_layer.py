"""Weights of the first layer as pictures: as the file restores them, and before they were quantised."""

import base64
import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from metaq.errors import MetaqError
from metaq.lab import runs
from metaq.lab.registry import NETWORKS
from metaq.report.drawing import Picture
from metaq.report.inspection import Inspection
from metaq.report.model_file import Latent
from metaq.report.subject import Filters, Json, Subject

POSITIVE, NEGATIVE, FRAME = (31, 111, 191), (217, 104, 19), (128, 128, 128, 110)
FRAME_WIDTH = 1
"""Pixels round a tile."""

MOST_UNITS = 64
"""Pictures of one layer."""

MOST_CHANNELS = 4
WIDEST, LARGEST_SCALE = 620, 14
"""Pixels that a picture is wide at most, but for its frames and at least one a weight, and that a weight takes."""


def latent_weights(state: Json) -> dict[str, NDArray[np.float64]]:
    """Latent weights of a training's state by name; nothing where there are none, or the state has another form."""
    weights = _at(state, "regularizer", "weights")
    found = {}
    for name, kept in (weights if isinstance(weights, dict) else {}).items():
        tensor = _at(kept, "latent")
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            found[str(name)] = tensor.detach().double().numpy()
    return found


def add_filters(subject: Subject, found: Inspection, net: str | None, state: Json, latent: Latent) -> None:
    """Pictures of the first layer's units; what a file merely names must not make code run or fail."""
    named = net or found.metadata.get("net")
    if named is None or (net is None and named not in NETWORKS):
        subject.missing["filters"] = "The network is not known, so neither is its first layer; --net names it."
        return
    try:
        model = runs.build(str(named), found.state_dict)
    except MetaqError as error:
        subject.missing["filters"] = f"These are not the weights of {named}, which the file names: {error}"
        return
    layer = next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)), None)
    name = f"{layer}.weight"
    after = _pictures(found.state_dict[name].double().numpy()) if name in found.state_dict else None
    if layer is None or after is None:
        subject.missing["filters"] = (
            "The first layer reads no pictures of few channels, so that there are none to show."
        )
        return
    before = _matched(name, found, state, latent)
    if before is None and (state or "latent" in subject.missing):
        subject.notes["filters"] = f"{_reason(subject)} Only what the file restores is shown."
    is_live = np.abs(after).sum(axis=(1, 2, 3)) > 0
    shown = np.flatnonzero(is_live)[:MOST_UNITS] if len(after) > MOST_UNITS else np.arange(len(after))
    subject.filters = Filters(
        layer=layer,
        after=after[shown],
        before=None if before is None else before[shown],
        units=len(after),
        live_units=int(is_live.sum()),
        reads="kernels" if found.state_dict[name].dim() == 4 else "rows",
    )


def _reason(subject: Subject) -> str:
    if "latent" in subject.missing:
        return subject.missing["latent"]
    return "The run keeps no latent weights that are those of this file."


def _pictures(weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Weights as (units, channels, height, width), or None where a unit reads no picture."""
    if not weight.size:
        return None
    if weight.ndim == 4:
        return weight if weight.shape[1] <= MOST_CHANNELS else None
    units, inputs = weight.shape
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if side > 1 and channels * side * side == inputs:
            return weight.reshape(units, channels, side, side)
    return None


def _matched(name: str, found: Inspection, state: Json, latent: Latent) -> NDArray[np.float64] | None:
    """Latent weights of a layer in the order and with the signs that the file gives its units.

    Units of a file may be reordered and mirrored. Which is which is told by the quantised weights of the epoch that was
    kept; units that nobody reads, whose weights became zero, are those that are left.
    """
    kept, weights = _at(state, "best", "state_dict", name), latent.get(name)
    after = found.state_dict[name].double().numpy()
    if not isinstance(kept, torch.Tensor) or weights is None or not kept.shape == after.shape == weights.shape:
        return None
    rows = kept.double().numpy().reshape(len(after), -1)
    order: list[int | None] = []
    signs = np.ones(len(after))
    free = list(range(len(after)))
    for unit, row in enumerate(after.reshape(len(after), -1)):
        same = ((each, sign) for sign in (1.0, -1.0) for each in free if np.array_equal(sign * rows[each], row))
        place, signs[unit] = next(same, (None, 1.0)) if row.any() else (None, 1.0)
        if place is not None:
            free.remove(place)
        elif row.any():
            return None
        order.append(place)
    chosen = [free.pop(0) if place is None else place for place in order]
    return _pictures((weights.reshape(len(after), -1)[chosen] * signs[:, None]).reshape(after.shape))


def _at(values: object, *keys: str) -> object:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


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
