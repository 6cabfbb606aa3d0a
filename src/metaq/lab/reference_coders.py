"""The coders that the thesis and the benchmarks compare with, all of other libraries: bucket indices in, bytes out.

Huffman and arithmetic codes are static: a payload is a table, ``lowest symbol, number of counts, every count from the
lowest symbol to the highest`` in varints, and then the code of the constriction library. General compressors take the
symbols in one, two or four bytes each. Brotli is there where its package is installed.
"""

import gzip
import importlib
import importlib.util
import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import constriction
import numpy as np
import zstandard
from numpy.typing import NDArray

from metaq.coding.varint import decode_varint, encode_varint
from metaq.errors import CodecError

Symbols = NDArray[np.integer]
Positions = NDArray[np.int32]

WIDTHS = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class StaticCoder:
    """A code of fixed probabilities, which the counts of the symbols give: integers of shape (n,), n >= 1.

    `code` makes words of positions in the table, int32 of shape (n,), and the probability of every position;
    `decode_words` makes positions of the words, n and the probabilities.
    """

    code: Callable[[Positions, NDArray[np.float64]], NDArray[np.uint32]]
    decode_words: Callable[[NDArray[np.uint32], int, NDArray[np.float64]], Positions]

    def encode(self, symbols: Symbols) -> bytes:
        used, counts = np.unique(symbols, return_counts=True)
        if used.size == 1:
            return static_table(symbols)
        positions = np.searchsorted(used, symbols).astype(np.int32)
        return static_table(symbols) + self.code(positions, _shares(counts)).astype("<u4").tobytes()

    def decode(self, payload: bytes, count: int) -> Symbols:
        lowest, position = decode_varint(payload, 0)
        size, position = decode_varint(payload, position)
        counts = np.zeros(size, dtype=np.int64)
        for place in range(size):
            counts[place], position = decode_varint(payload, position)
        used = np.flatnonzero(counts)
        if used.size == 1:
            return np.full(count, lowest + used[0])
        words = np.frombuffer(payload[position:], dtype="<u4").astype(np.uint32)
        return used[self.decode_words(words, count, _shares(counts))] + lowest


@dataclass(frozen=True, kw_only=True)
class BytesCoder:
    """A general compressor of the symbols, integers of shape (n,) in ``[0, 2**31)``, n >= 1, as bytes."""

    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]

    def encode(self, symbols: Symbols) -> bytes:
        width = next(width for width in WIDTHS if int(symbols.max()) < 1 << 8 * width)
        return bytes([width]) + self.compress(symbols.astype(f"<u{width}").tobytes())

    def decode(self, payload: bytes, count: int) -> Symbols:
        return np.frombuffer(self.decompress(payload[1:]), dtype=f"<u{payload[0]}", count=count)


def static_table(symbols: Symbols) -> bytes:
    """What a :class:`StaticCoder` says of `symbols`, integers of shape (n,), n >= 1, before it codes them."""
    lowest = int(symbols.min())
    counts = np.bincount(symbols - lowest)
    return b"".join(encode_varint(int(number)) for number in (lowest, counts.size, *counts))


def compressed(coder: BytesCoder, raw: bytes) -> bytes:
    """Compressed form of `raw`; raises :class:`CodecError` if it does not give it back."""
    packed = coder.compress(raw)
    if coder.decompress(packed) != raw:
        raise CodecError("decompressing does not give the bytes back; please report this.")
    return packed


def coded(coder: StaticCoder | BytesCoder, symbols: Symbols) -> bytes:
    """Payload of `symbols`; raises :class:`CodecError` if it does not decode to them."""
    payload = coder.encode(symbols)
    if not np.array_equal(coder.decode(payload, symbols.size), symbols):
        raise CodecError("decoding does not give the symbols back; please report this.")
    return payload


def huffman_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of the code word of every symbol, int64 of the shape of the positive `counts`, (n,) with n >= 2."""
    tree = constriction.symbol.huffman.EncoderHuffmanTree(_shares(counts))
    return np.array([_huffman_code([position], tree)[1] for position in range(counts.size)])


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    used = counts[counts > 0].astype(np.float64)
    shares: NDArray[np.float64] = used / used.sum()
    return shares


def _huffman(positions: Positions, shares: NDArray[np.float64]) -> NDArray[np.uint32]:
    return _huffman_code(positions.tolist(), constriction.symbol.huffman.EncoderHuffmanTree(shares))[0]


def _huffman_code(positions: list[int], tree: object) -> tuple[NDArray[np.uint32], int]:
    encoder = constriction.symbol.QueueEncoder()
    for position in positions:
        encoder.encode_symbol(position, tree)
    words, size_bits = encoder.get_compressed_and_bitrate()
    return words, size_bits


def _huffman_decoded(words: NDArray[np.uint32], count: int, shares: NDArray[np.float64]) -> Positions:
    tree = constriction.symbol.huffman.DecoderHuffmanTree(shares)
    decoder = constriction.symbol.QueueDecoder(words)
    return np.array([decoder.decode_symbol(tree) for _ in range(count)], dtype=np.int32)


def _arithmetic(positions: Positions, shares: NDArray[np.float64]) -> NDArray[np.uint32]:
    encoder = constriction.stream.queue.RangeEncoder()
    encoder.encode(positions, constriction.stream.model.Categorical(shares, perfect=False))
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words


def _arithmetic_decoded(words: NDArray[np.uint32], count: int, shares: NDArray[np.float64]) -> Positions:
    model = constriction.stream.model.Categorical(shares, perfect=False)
    positions: Positions = constriction.stream.queue.RangeDecoder(words).decode(model, count)
    return positions


def _bytes_coders() -> dict[str, BytesCoder]:
    zstd = zstandard.ZstdCompressor(level=22)
    coders = {
        "gzip-9": BytesCoder(compress=partial(gzip.compress, compresslevel=9, mtime=0), decompress=gzip.decompress),
        "zstd-22": BytesCoder(compress=zstd.compress, decompress=zstandard.ZstdDecompressor().decompress),
        "lzma": BytesCoder(compress=partial(lzma.compress, preset=9), decompress=lzma.decompress),
    }
    if importlib.util.find_spec("brotli"):
        brotli = importlib.import_module("brotli")
        compress = partial(brotli.compress, quality=11)
        coders["brotli-11"] = BytesCoder(compress=compress, decompress=brotli.decompress)
    return coders


STATIC_CODERS = {
    "huffman": StaticCoder(code=_huffman, decode_words=_huffman_decoded),
    "arithmetic": StaticCoder(code=_arithmetic, decode_words=_arithmetic_decoded),
}
BYTES_CODERS = _bytes_coders()
REFERENCE_CODERS: Mapping[str, StaticCoder | BytesCoder] = {**STATIC_CODERS, **BYTES_CODERS}
"""Coders by name."""
