"""Bytes as areas: a squarified treemap (Bruls, Huizing and van Wijk 2000) with places in percent, so that text
keeps its size on every screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metaq.report.subject import Share
from metaq.report.text import shown

SMALLEST_TILE = 0.0015
"""Share of all bytes below which parts are drawn together."""

MOST_TILES = 30
"""Above it, parts of one numbered block are drawn together: more would be too small to be named."""

CHARACTER_WIDTH, LINE_HEIGHT, PADDING, BASELINE = 7.2, 17, 7, 18
"""Of the text in tiles, in pixels; characters are taken for wide ones."""

FORMS = (("treemap widest", 980, 360), ("treemap wide", 640, 320), ("treemap tall", 280, 420))
"""Classes of the style sheet for screens of several widths; the least width and the height of each, in pixels."""

HALF_FORMS = (("treemap half", 480, 320), *FORMS[1:])
"""The same for two treemaps beside each other on wide screens."""

Box = tuple[float, float, float, float]
"""x, y, width, height."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A part of a treemap: whose bytes, how many as text, and its place in percent of the map.

    `lines` are what there is room for of label and size, with their distance from the top in pixels.
    """

    label: str
    size: str
    is_tensor: bool
    box: Box
    lines: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Treemap:
    """A treemap for one kind of screen, and what it shows in words."""

    class_: str
    alternative: str
    tiles: Sequence[Tile]


def treemaps(shares: Sequence[Share], *, file_bytes: int, is_half: bool = False) -> list[Treemap]:
    """The same treemap for screens of several widths; on wide ones it may have but half of the page."""
    parts = _parts(shares, file_bytes)
    label = f"Treemap of {file_bytes:,} bytes in {len(shares)} parts"
    label += f"; the largest is {shown(parts[0].label)} with {parts[0].bytes:,} bytes." if parts else "."
    said = f"{label} The table after it says the same."
    return [
        Treemap(class_=class_, alternative=said, tiles=_tiles(parts, *size))
        for class_, *size in (HALF_FORMS if is_half else FORMS)
    ]


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Boxes that fill `box`, with areas in proportion to positive `sizes` in falling order."""
    boxes: list[Box] = []
    left, (x, y, width, height) = list(sizes), box
    while left:
        unit, short = width * height / sum(left), min(width, height)
        row = 1
        while row < len(left) and _worst(left[: row + 1], unit, short) <= _worst(left[:row], unit, short):
            row += 1
        thickness = sum(left[:row]) * unit / short
        offset = 0.0
        for size in left[:row]:
            length = size * unit / thickness
            beside = (x, y + offset, thickness, length)
            boxes.append(beside if width >= height else (x + offset, y, length, thickness))
            offset += length
        if width >= height:
            x, width = x + thickness, width - thickness
        else:
            y, height = y + thickness, height - thickness
        left = left[row:]
    return boxes


def _worst(sizes: Sequence[float], unit: float, short: float) -> float:
    """The worst aspect ratio of a row along the short side."""
    total = sum(sizes) * unit
    return max(max(short**2 * size * unit / total**2, total**2 / (short**2 * size * unit)) for size in sizes)


def _parts(shares: Sequence[Share], file_bytes: int) -> list[Share]:
    """Parts that are drawn, largest first; many of them by blocks, the smallest together."""
    least = SMALLEST_TILE * file_bytes
    if sum(share.bytes >= least for share in shares) > MOST_TILES:
        shares = _by_block(shares)
    shown = [share for share in shares if share.bytes >= least and share.bytes > 0]
    small = [share for share in shares if 0 < share.bytes < least]
    if small:
        label = f"{len(small)} small parts"
        shown.append(Share(label=label, bytes=sum(share.bytes for share in small), is_tensor=True))
    return sorted(shown, key=lambda share: -share.bytes)


def _by_block(shares: Sequence[Share]) -> list[Share]:
    """All parts of a block as one, ``encoder.layer.0.*``, by the last number in their dotted names."""
    blocks: dict[str, list[Share]] = {}
    for share in shares:
        parts = share.label.split(".")
        numbers = [place for place, part in enumerate(parts[:-1]) if part.isdecimal()]
        block = ".".join(parts[: numbers[-1] + 1]) if numbers and share.is_tensor else share.label
        blocks.setdefault(block, []).append(share)
    return [
        members[0]
        if len(members) == 1
        else Share(label=f"{block}.*", bytes=sum(each.bytes for each in members), is_tensor=True)
        for block, members in blocks.items()
    ]


def _tiles(parts: Sequence[Share], width: int, height: int) -> list[Tile]:
    boxes = squarify([float(part.bytes) for part in parts], (0.0, 0.0, float(width), float(height)))
    tiles = []
    for part, (x, y, across, down) in zip(parts, boxes, strict=True):
        label, size = shown(part.label), f"{part.bytes:,}"
        fits = max(len(label), len(size)) * CHARACTER_WIDTH + 2 * PADDING <= across
        lines = [label, size][: max(int((down - PADDING) // LINE_HEIGHT), 0)] if fits else []
        tile = Tile(
            label=label,
            size=size,
            is_tensor=part.is_tensor,
            box=(100 * x / width, 100 * y / height, 100 * across / width, 100 * down / height),
            lines=[(text, BASELINE + LINE_HEIGHT * number) for number, text in enumerate(lines)],
        )
        tiles.append(tile)
    return tiles
