"""Zstandard for the elements of exact tensors: one frame without magic number, content size and checksum."""

import io
from collections.abc import Iterable
from importlib.util import find_spec

from metaq.errors import CodecError

HAS_LIBRARY = find_spec("zstandard") is not None
"""Without it, frames are unpacked in plain Python, and none are made."""

if HAS_LIBRARY:
    import zstandard
else:
    from metaq.coding import zstd_plain

HIGHEST_LEVEL = 22
LARGE_LEVEL = 6
"""Level of what comes in blocks."""

FLAGS_REFUSED = 0b1110_0100
"""Flags of a frame that has a content size, is a single segment, or has a checksum (RFC 8878, section 3.1.1.1.1)."""


def compress(raw: bytes, level: int = HIGHEST_LEVEL) -> bytes:
    """Frame of `raw`, by default at the highest level."""
    return _compressor(level, len(raw)).compress(raw)


def compress_blocks(blocks: Iterable[bytes], size_bytes: int) -> bytes:
    """As :func:`compress`, but at a level of less time and memory, for `size_bytes` bytes that come in blocks."""
    stream = _compressor(LARGE_LEVEL, size_bytes).compressobj(size=size_bytes)
    packed = io.BytesIO()
    for block in blocks:
        packed.write(stream.compress(block))
    packed.write(stream.flush())
    return packed.getvalue()


def decompress(frame: bytes, size_bytes: int) -> bytes:
    """Invert :func:`compress`; raises :class:`CodecError` rather than return more than `size_bytes` bytes."""
    # A frame that names its own size would be given that much memory, whatever limit is passed below.
    if frame and frame[0] & FLAGS_REFUSED:
        raise CodecError("zstd: the frame names its own size or has a checksum, which this format does not allow.")
    if not HAS_LIBRARY:
        return zstd_plain.decompress(frame, size_bytes)
    try:
        decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        return decompressor.decompress(frame, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd: the compressed bytes are damaged ({error}).") from error


def _compressor(level: int, size_bytes: int) -> "zstandard.ZstdCompressor":
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=size_bytes,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)
