"""How tensors that are kept exactly are stored: in the header, packed, or as they are."""

from __future__ import annotations

from collections.abc import Callable

from metaq.container import layout

THOROUGH_BYTES = 1 << 24
"""Up to this size a tensor is packed at the highest level, which beyond it takes minutes and a gigabyte of memory."""

BLOCK_BYTES = 1 << 20

Read = Callable[[int, int], bytes]
"""From a first byte and the byte after the last to the bytes between them."""


def exact_payload(size_bytes: int, read: Read) -> tuple[str, bytes]:
    """Name of the way in which elements are stored, see :attr:`metaq.container.Entry.coder`, and their bytes.

    `read` gives elements, little-endian in C order. Memory is that of the result and, up to ``THOROUGH_BYTES``, of the
    elements.
    """
    if size_bytes <= layout.INLINE_BYTES:
        return layout.EXACT_NAMES[layout.EXACT_INLINE], read(0, size_bytes)
    # Imported late, so that reading a file does not need zstandard.
    from metaq.coding import zstd

    if size_bytes <= THOROUGH_BYTES:
        packed = zstd.compress(read(0, size_bytes))
    else:
        starts = range(0, size_bytes, BLOCK_BYTES)
        blocks = (read(start, min(start + BLOCK_BYTES, size_bytes)) for start in starts)
        packed = zstd.compress_blocks(blocks, size_bytes)
    if len(packed) < size_bytes:
        return layout.EXACT_NAMES[layout.EXACT_ZSTD], packed
    del packed
    return layout.EXACT_NAMES[layout.EXACT_RAW], read(0, size_bytes)
