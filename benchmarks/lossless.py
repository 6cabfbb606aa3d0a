"""How small weights become that lose nothing, and how fast they are restored, beside general compressors and ZipNN.

    python benchmarks/lossless.py --model minilm=model.safetensors --model crepe=full.pth --json lossless.json
    python benchmarks/lossless.py --onnx int8=model.onnx --packed packed=model.safetensors --mib 24

Checkpoints are taken as they are, rounded to bfloat16 and float16, and once more as float32 that is bfloat16 inside;
with --packed as integers of four bits, packed as AWQ, GPTQ and bitsandbytes do; of ONNX files the weights of eight
bits. Only the first --mib MiB of every kind count, in whole tensors. metaq writes and reads files, with all that
belongs to one; zstd -19, xz -6 and ZipNN (which is left out unless it is installed) take all elements at once. Speeds
are bytes of elements in a second of processor time, so that they are those of one core, and the median of --runs. Every
round trip is compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import lzma
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from metaq import container
from metaq.model import checkpoint
from metaq.tensors.narrow_floats import bfloat16_bits, bfloat16_values
from metaq.tensors.quantized import Dtype, ExactTensor
from support.results import write_json

ZIPNN_TYPES = {Dtype.float32: "float32", Dtype.bfloat16: "bfloat16", Dtype.float16: "float16"}
GROUP = 128
NF4_BELOW = (-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0)
NF4_ABOVE = (0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1)
NF4 = np.array([*NF4_BELOW, *NF4_ABOVE])
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Tensors = list[ExactTensor]
Row = dict[str, Any]


def exact(name: str, values: NDArray[np.generic], dtype: Dtype) -> ExactTensor:
    """A tensor of little-endian elements."""
    return ExactTensor(name=name, values=np.ascontiguousarray(values, dtype=dtype.storage), dtype=dtype)


def weights_of(path: Path) -> dict[str, NDArray[np.float32]]:
    """Floating tensors of a checkpoint."""
    return {name: each.float().numpy() for name, each in checkpoint.read(path).items() if each.is_floating_point()}


def kinds_of(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensors]:
    """The same tensors in several types."""
    rounded = {name: bfloat16_bits(values.reshape(-1)).reshape(values.shape) for name, values in weights.items()}
    limit = float(np.finfo(np.float16).max)
    return {
        "float32": [exact(name, values, Dtype.float32) for name, values in weights.items()],
        "bfloat16": [exact(name, bits, Dtype.bfloat16) for name, bits in rounded.items()],
        "float16": [exact(name, np.clip(each, -limit, limit), Dtype.float16) for name, each in weights.items()],
        "bfloat16 in float32": [exact(name, bfloat16_values(bits), Dtype.float32) for name, bits in rounded.items()],
    }


def onnx_kinds(path: Path) -> dict[str, Tensors]:
    """Weights of eight bits of an ONNX file."""
    import onnx

    kinds: dict[str, Tensors] = {}
    for each in onnx.load(path).graph.initializer:
        values = onnx.numpy_helper.to_array(each)
        if values.dtype in (np.int8, np.uint8) and values.ndim > 1:
            kind = values.dtype.name
            kinds.setdefault(kind, []).append(exact(each.name, values, Dtype[kind]))
    return kinds


def quantized(matrix: NDArray[np.float32], *, is_symmetric: bool) -> NDArray[np.uint32]:
    """Integers of four bits, with a scale for every GROUP weights of a row."""
    groups = matrix.reshape(len(matrix), -1, GROUP)
    lowest, highest = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    if is_symmetric:
        found = np.round(groups / (np.maximum(-lowest, highest) / 7.5)) + 8
    else:
        step = (highest - lowest) / 15
        found = np.round(groups / step) + np.round(-lowest / step)
    return np.clip(found, 0, 15).astype(np.uint32).reshape(matrix.shape)


def packed_kinds(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensors]:
    """Matrices as integers of four bits, eight in an int32 or two in a uint8."""
    matrices = {k: v for k, v in weights.items() if v.ndim == 2 and not any(size % GROUP for size in v.shape)}
    kinds: dict[str, Tensors] = {"AWQ int32": [], "GPTQ int32": [], "NF4 uint8": []}
    for name, matrix in matrices.items():
        columns = quantized(matrix, is_symmetric=False).T
        awq = sum(columns[:, order::8] << np.uint32(4 * place) for place, order in enumerate(AWQ_ORDER))
        rows = quantized(matrix, is_symmetric=True).T
        gptq = sum(rows[place::8] << np.uint32(4 * place) for place in range(8))
        groups = matrix.reshape(-1, GROUP // 2)
        scaled = groups / np.abs(groups).max(axis=1, keepdims=True)
        numbers = np.searchsorted((NF4[1:] + NF4[:-1]) / 2, scaled.reshape(-1)).astype(np.uint8)
        kinds["AWQ int32"].append(exact(name, np.asarray(awq).view(np.int32), Dtype.int32))
        kinds["GPTQ int32"].append(exact(name, np.asarray(gptq).view(np.int32), Dtype.int32))
        kinds["NF4 uint8"].append(exact(name, (numbers[::2] << 4 | numbers[1::2]).reshape(-1, 1), Dtype.uint8))
    return kinds


def shortened(tensors: Tensors, most_bytes: int) -> Tensors:
    """The first tensors, until they have so many bytes."""
    kept: Tensors = []
    for tensor in tensors:
        if sum(each.values.nbytes for each in kept) < most_bytes:
            kept.append(tensor)
    return kept


def timed(action: Callable[[], Any], runs: int) -> tuple[Any, float]:
    """The last result, and the median of the seconds that the processor took."""
    seconds = []
    result = None
    for _ in range(runs):
        begun = time.process_time()
        result = action()
        seconds.append(time.process_time() - begun)
    return result, statistics.median(seconds)


def row(method: str, raw_bytes: int, size_bytes: int, encoding: float, decoding: float) -> Row:
    """Figures of one method."""
    return {
        "method": method,
        "raw_bytes": raw_bytes,
        "bytes": size_bytes,
        "saved_percent": 100 * (1 - size_bytes / raw_bytes),
        "encode_mb_per_second": raw_bytes / encoding / 1e6,
        "decode_mb_per_second": raw_bytes / decoding / 1e6,
    }


def metaq_row(tensors: Tensors, coder: str, folder: Path, runs: int) -> Row:
    """A file, written once and restored tensor by tensor."""
    path = folder / "model.metaq"
    report, encoding = timed(lambda: container.write(path, tensors, coder=coder), 1)

    def restore() -> None:
        for _ in container.stream(path, is_writable=False):
            pass

    _, decoding = timed(restore, runs)
    expected = {tensor.name: tensor.values for tensor in tensors}
    for entry, found in container.stream(path):
        assert found.values.tobytes() == expected[entry.name].tobytes()
    raw_bytes = sum(tensor.values.nbytes for tensor in tensors)
    return row(f"metaq {coder}", raw_bytes, report.file_bytes, encoding, decoding)


def compressor_row(
    name: str, raw: bytes, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], runs: int
) -> Row:
    """A compressor of bytes."""
    packed, encoding = timed(lambda: compress(raw), 1)
    found, decoding = timed(lambda: decompress(packed), runs)
    assert bytes(found) == raw
    return row(name, len(raw), len(packed), encoding, decoding)


def zipnn_row(raw: bytes, dtype: Dtype, runs: int) -> Row:
    """ZipNN on one thread, which may change what it is given."""
    from zipnn import ZipNN

    coder = ZipNN(input_format="byte", bytearray_dtype=ZIPNN_TYPES[dtype], threads=1)
    return compressor_row(
        "ZipNN", raw, lambda data: coder.compress(bytearray(data)), lambda data: coder.decompress(bytearray(data)), runs
    )


def measure(tensors: Tensors, runs: int) -> list[Row]:
    """All methods on some tensors."""
    raw = b"".join(tensor.values.tobytes() for tensor in tensors)
    with tempfile.TemporaryDirectory() as folder:
        rows = [metaq_row(tensors, coder, Path(folder), runs) for coder in ("fast", "small")]
    zstd = zstandard.ZstdCompressor(level=19)
    rows.append(compressor_row("zstd -19", raw, zstd.compress, zstandard.ZstdDecompressor().decompress, runs))
    rows.append(compressor_row("xz -6", raw, lambda data: lzma.compress(data, preset=6), lzma.decompress, runs))
    dtype = tensors[0].dtype
    if dtype in ZIPNN_TYPES and importlib.util.find_spec("zipnn"):
        rows.append(zipnn_row(raw, dtype, runs))
    return rows


def warm_up() -> None:
    """Compiles what is measured."""
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(300, 64)) * np.exp2(generator.normal(0, 2, (300, 1)))
    integers = exact("b", np.round(weights * 9), Dtype.int8)
    for coder in ("fast", "small"):
        for tensors in ([exact("a", weights, Dtype.float32)], [exact("a", weights.T, Dtype.float16), integers]):
            container.decode(container.encode(tensors, coder=coder))


def show(title: str, rows: list[Row]) -> None:
    """A table."""
    print(f"\n{title}: {rows[0]['raw_bytes']:,} bytes")
    print(f"{'method':12} {'bytes':>12} {'saved':>8} {'encode MB/s':>12} {'decode MB/s':>12}")
    for each in rows:
        print(
            f"{each['method']:12} {each['bytes']:12,} {each['saved_percent']:7.2f}% "
            f"{each['encode_mb_per_second']:12.1f} {each['decode_mb_per_second']:12.1f}",
            flush=True,
        )


def named_path(text: str) -> tuple[str, Path]:
    """NAME=PATH."""
    name, _, path = text.partition("=")
    return name, Path(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--model", "--onnx", "--packed"):
        parser.add_argument(option, type=named_path, action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--mib", type=int, default=1 << 20, help="MiB of every kind that count")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="Write JSON; - prints it alone on stdout.")
    options = parser.parse_args()
    warm_up()
    results: dict[str, list[Row]] = {}
    makers: list[tuple[list[tuple[str, Path]], Callable[[Path], dict[str, Tensors]]]] = [
        (options.model, lambda path: kinds_of(weights_of(path))),
        (options.onnx, onnx_kinds),
        (options.packed, lambda path: packed_kinds(weights_of(path))),
    ]
    for models, make in makers:
        for name, path in models:
            for kind, tensors in make(path).items():
                title = f"{name}, {kind}"
                results[title] = measure(shortened(tensors, options.mib << 20), options.runs)
                if options.json != "-":
                    show(title, results[title])
    write_json(results, options.json)


if __name__ == "__main__":
    main()
