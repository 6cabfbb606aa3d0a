"""General-purpose compressors over symbols written as little-endian integers."""

from __future__ import annotations

import io
import lzma
import zlib
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metaq.coding.interface import CheckedCoder, CodedSymbols
from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

if TYPE_CHECKING:
    import zstandard

WIDTHS = (1, 2, 4)
"""Bytes of a symbol; the position is the width's number in payloads."""

LITERAL_CONTEXTS = (0, 3, 4)
LITERAL_POSITIONS = 0
POSITION_BITS = 0
MIN_DICTIONARY = 1 << 12
MAX_DICTIONARY = 1 << 24
LARGE_LEVEL = 6


class GenericCoder(CheckedCoder):
    """Payload: varint ``4 * lowest symbol + number of the width``, then the compressed bytes of all differences."""

    def _encode(self, symbols: NDArray[np.int64], _alphabet_size: int, _row_length: int, /) -> CodedSymbols:
        lowest = int(symbols.min())
        span = int(symbols.max()) - lowest
        number = next(index for index, width in enumerate(WIDTHS) if span < 1 << (8 * width))
        head = encode_varint(4 * lowest + number)
        raw = (symbols - lowest).astype(f"<u{WIDTHS[number]}").tobytes()
        return CodedSymbols(payload=head + self.compress(raw), table_bytes=len(head))

    def _decode(self, payload: bytes, count: int, alphabet_size: int, _row_length: int, /) -> NDArray[np.int64]:
        value, position = decode_varint(payload, 0)
        lowest, number = divmod(value, 4)
        if number >= len(WIDTHS) or lowest >= alphabet_size:
            raise CodecError(f"{self.name}: the lowest symbol or the width is out of range.")
        size_bytes = count * WIDTHS[number]
        raw = self.decompress(payload[position:], size_bytes)
        if len(raw) != size_bytes:
            raise CodecError(f"{self.name}: {len(raw)} bytes were found where {size_bytes} are promised.")
        return np.frombuffer(raw, dtype=f"<u{WIDTHS[number]}").astype(np.int64) + lowest

    @abstractmethod
    def compress(self, raw: bytes) -> bytes:
        """Compressed form of `raw`, the same whenever and wherever the same library runs."""

    @abstractmethod
    def decompress(self, data: bytes, size_bytes: int) -> bytes:
        """Invert :meth:`compress`; raises :class:`CodecError` rather than return more than `size_bytes` bytes."""


class GzipCoder(GenericCoder):
    """DEFLATE at level 9, without gzip's 18 bytes of header, time and checksum."""

    name = "gzip"
    identifier = 6

    def compress(self, raw: bytes) -> bytes:
        """See :meth:`GenericCoder.compress`."""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
        return deflate.compress(raw) + deflate.flush()

    def decompress(self, data: bytes, size_bytes: int) -> bytes:
        """See :meth:`GenericCoder.decompress`."""
        inflate = zlib.decompressobj(-15)
        try:
            raw = inflate.decompress(data, size_bytes + 1)
        except zlib.error as error:
            raise CodecError(f"gzip: the compressed bytes are damaged ({error}).") from error
        if len(raw) > size_bytes or not inflate.eof or inflate.unused_data:
            raise CodecError("gzip: the compressed bytes do not end where they should.")
        return raw


ZSTD_FLAGS_REFUSED = 0b1110_0100
"""Flags of a frame that has a content size, is a single segment, or has a checksum (RFC 8878, section 3.1.1.1.1)."""


class ZstdCoder(GenericCoder):
    """One Zstandard frame without magic number, content size and checksum, at level 22 where not said otherwise."""

    name = "zstd"
    identifier = 7

    def compress(self, raw: bytes) -> bytes:
        """See :meth:`GenericCoder.compress`."""
        return self._compressor(22, len(raw)).compress(raw)

    def compress_blocks(self, blocks: Iterable[bytes], size_bytes: int) -> bytes:
        """As :meth:`compress`, but at a level of less time and memory, for `size_bytes` bytes that come in blocks."""
        stream = self._compressor(LARGE_LEVEL, size_bytes).compressobj(size=size_bytes)
        packed = io.BytesIO()
        for block in blocks:
            packed.write(stream.compress(block))
        packed.write(stream.flush())
        return packed.getvalue()

    def _compressor(self, level: int, size_bytes: int) -> zstandard.ZstdCompressor:
        import zstandard

        parameters = zstandard.ZstdCompressionParameters.from_level(
            level,
            source_size=size_bytes,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=False,
            write_checksum=False,
            write_dict_id=False,
        )
        return zstandard.ZstdCompressor(compression_params=parameters)

    def decompress(self, data: bytes, size_bytes: int) -> bytes:
        """See :meth:`GenericCoder.decompress`."""
        import zstandard

        # A frame that names its own size would be given that much memory, whatever limit is passed below.
        if data and data[0] & ZSTD_FLAGS_REFUSED:
            raise CodecError("zstd: the frame names its own size or has a checksum, which this format does not allow.")
        try:
            decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
            return decompressor.decompress(data, max_output_size=size_bytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(f"zstd: the compressed bytes are damaged ({error}).") from error


class LzmaCoder(GenericCoder):
    """Raw LZMA1 with end marker after one byte ``lc + 9 * (lp + 5 * pb)``; the best of a few `lc` is kept."""

    name = "lzma"
    identifier = 8

    def compress(self, raw: bytes) -> bytes:
        """See :meth:`GenericCoder.compress`."""
        return min((_lzma_with(raw, literal_context) for literal_context in LITERAL_CONTEXTS), key=len)

    def decompress(self, data: bytes, size_bytes: int) -> bytes:
        """See :meth:`GenericCoder.decompress`."""
        if not data:
            raise CodecError("lzma: the compressed bytes are missing.")
        positions, literal_context = divmod(data[0], 9)
        position_bits, literal_positions = divmod(positions, 5)
        if position_bits > 4 or literal_context + literal_positions > 4:
            raise CodecError(f"lzma: {data[0]} is not a permitted properties byte.")
        filters = _lzma_filters(size_bytes, literal_context, literal_positions, position_bits)
        try:
            decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)
            raw = decompressor.decompress(data[1:], size_bytes + 1)
        except (lzma.LZMAError, EOFError) as error:
            raise CodecError(f"lzma: the compressed bytes are damaged ({error}).") from error
        if len(raw) > size_bytes or not decompressor.eof or decompressor.unused_data:
            raise CodecError("lzma: the compressed bytes do not end where they should.")
        return raw


def _lzma_with(raw: bytes, literal_context: int) -> bytes:
    filters = _lzma_filters(len(raw), literal_context, LITERAL_POSITIONS, POSITION_BITS)
    properties = literal_context + 9 * (LITERAL_POSITIONS + 5 * POSITION_BITS)
    return bytes([properties]) + lzma.compress(raw, format=lzma.FORMAT_RAW, filters=filters)


def _lzma_filters(
    size_bytes: int, literal_context: int, literal_positions: int, position_bits: int
) -> list[dict[str, int]]:
    return [
        {
            "id": lzma.FILTER_LZMA1,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": min(max(size_bytes, MIN_DICTIONARY), MAX_DICTIONARY),
            "lc": literal_context,
            "lp": literal_positions,
            "pb": position_bits,
        }
    ]
