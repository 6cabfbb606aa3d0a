"""Other ways to make weights small: integers per channel and per block, each with zstd-19, and what llama.cpp does.

Every way gets the same treatment, which is kind to it. Floating tensors of two dimensions or more and of at least 1,024
elements are quantised; all others, and what a format cannot hold, are float16, or float32 where that overflows. Rows
are the first dimension against all others. Integers, scales and floats are streams of their own, each by zstd at level
19; integers of four bits or less go in once as bytes and once packed, and the smaller counts. Names, shapes and any
framing cost nothing. Blocks that do not divide the rows run over the whole tensor if padding rows would add an eighth.

The package gguf writes q8_0, q5_0 and q4_0 but no k-quants. Those are made here, with the search of steps
that llama.cpp makes (`make_qkx2_quants`, `make_qx_quants`): 256 weights share two float16, to which the steps and
minima of blocks of 16 or 32 are integers of 4 or 6 bits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from support import nncodec_streams

Floats = NDArray[np.float32]
State = Mapping[str, torch.Tensor]
Restored = tuple[dict[str, torch.Tensor], int]
"""Weights, and the bytes that they are restored from."""

LEVEL = 19
LEAST_ELEMENTS = 1024
BLOCK = 32
SUPERBLOCK = 256
MOST_PADDING = 1 / 8
STEPS_SEARCHED = np.arange(-10, 11) / 10
"""Added to the largest integer when steps are searched."""

NNCODEC_STEPS = (0.5, 0.3, 0.18, 0.1, 0.06, 0.035)
"""Step sizes over the geometric mean of the matrices' root mean squares, by their numbers of weights."""

NNCODEC_VECTOR_QP = -75
"""What NNCodec itself takes for what is no weight matrix."""


@dataclass
class Streams:
    """Bytes by kind, of all tensors one after the other."""

    integers: list[NDArray[np.integer]] = field(default_factory=list)
    scales: list[bytes] = field(default_factory=list)
    floats: list[bytes] = field(default_factory=list)
    bits: int = 8

    def size_bytes(self) -> int:
        """Bytes by zstd."""
        integers = [np.ascontiguousarray(values).reshape(-1).view(np.uint8) for values in self.integers]
        ways = [b"".join(values.tobytes() for values in integers)]
        if self.bits <= 4 and integers:
            ways.append(packed(np.concatenate(integers), self.bits))
        return min(squeezed(way) for way in ways) + squeezed(b"".join(self.scales)) + squeezed(b"".join(self.floats))


def squeezed(data: bytes) -> int:
    """Bytes that zstd makes of `data`."""
    return len(zstandard.ZstdCompressor(level=LEVEL).compress(data)) if data else 0


def packed(integers: NDArray[np.uint8], bits: int) -> bytes:
    """The lowest bits of all integers without gaps."""
    shifts = np.arange(bits, dtype=np.uint8)
    return np.packbits((integers[:, None] >> shifts) & 1, bitorder="little").tobytes()


Quantizer = Callable[[Floats, Streams], Floats]
"""From a matrix to what is restored of it; what is stored goes into the streams."""


@dataclass(frozen=True)
class Peer:
    """A way by its name."""

    name: str
    quantize: Quantizer
    bits: int = 8


def applied(peer: Peer, state: State) -> Restored:
    """The weights that a way restores, and its bytes."""
    streams = Streams(bits=peer.bits)
    restored = {}
    for name, tensor in state.items():
        values = tensor.detach().numpy()
        if not tensor.is_floating_point():
            streams.floats.append(values.tobytes())
            restored[name] = tensor.clone()
        elif is_quantized(tensor):
            matrix = values.reshape(len(values), -1).astype(np.float32)
            restored[name] = torch.from_numpy(peer.quantize(matrix, streams).reshape(values.shape).astype(np.float32))
        else:
            restored[name] = torch.from_numpy(halved(values.astype(np.float32), streams.floats))
    return restored, streams.size_bytes()


def is_quantized(tensor: torch.Tensor) -> bool:
    """Whether the ways quantise a tensor."""
    return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= LEAST_ELEMENTS


def halved(values: Floats, stored: list[bytes]) -> Floats:
    """The values in float16 where that holds them, appended to `stored`."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    kept = half if np.isfinite(half).all() else values
    stored.append(kept.tobytes())
    return kept.astype(np.float32)


def over(values: Floats, steps: Floats) -> Floats:
    """Quotients, 0 where the step is 0."""
    nothing = np.zeros(np.broadcast_shapes(values.shape, steps.shape), np.float32)
    return np.divide(values, steps, out=nothing, where=steps != 0)


def channels_of_int8(matrix: Floats, streams: Streams) -> Floats:
    """Symmetric, one step for every row."""
    steps = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127)
    streams.scales.append(steps.tobytes())
    integers = np.rint(over(matrix, steps)).astype(np.int8)
    streams.integers.append(integers)
    return integers * steps


def blocked(matrix: Floats, size: int) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Blocks, shape (blocks, size), and how to undo that."""
    rows, columns = matrix.shape
    missing = -columns % size
    if missing > MOST_PADDING * columns:
        flat = matrix.reshape(-1)
        padded = np.pad(flat, (0, -len(flat) % size)).reshape(-1, size)
        return padded, lambda blocks: blocks.reshape(-1)[: len(flat)].reshape(rows, columns)
    padded = np.pad(matrix, ((0, 0), (0, missing))).reshape(-1, size)
    return padded, lambda blocks: blocks.reshape(rows, columns + missing)[:, :columns]


def symmetric_blocks(bits: int) -> Quantizer:
    """Blocks of 32 with a float16 step; the weight of the largest size lies on the lowest integer."""

    def quantize(matrix: Floats, streams: Streams) -> Floats:
        blocks, undo = blocked(matrix, BLOCK)
        half = 1 << (bits - 1)
        steps = halved(furthest(blocks) / np.float32(-half), streams.scales)
        integers = np.rint(over(blocks, steps)).clip(-half, half - 1)
        streams.integers.append((integers + half).astype(np.uint8))
        return undo(integers * steps)

    return quantize


def furthest(blocks: Floats) -> Floats:
    """Of every block the element that is furthest from 0, with its sign, shape (blocks, 1)."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)


def asymmetric_blocks(bits: int) -> Quantizer:
    """Blocks of 32 with a float16 step and a float16 minimum."""

    def quantize(matrix: Floats, streams: Streams) -> Floats:
        blocks, undo = blocked(matrix, BLOCK)
        most = (1 << bits) - 1
        lowest = halved(blocks.min(axis=1, keepdims=True), streams.scales)
        steps = halved((blocks.max(axis=1, keepdims=True) - lowest) / np.float32(most), streams.scales)
        integers = np.rint(over(blocks - lowest, steps)).clip(0, most)
        streams.integers.append(integers.astype(np.uint8))
        return undo(integers * steps + lowest)

    return quantize


def searched_affine(blocks: Floats, most: int) -> tuple[Floats, Floats]:
    """Steps and minima (none above 0) of the least error, weighted as llama.cpp does, each of shape (blocks, 1)."""
    weights = np.sqrt((blocks**2).mean(axis=1, keepdims=True)) + np.abs(blocks)
    total, first = weights.sum(axis=1), (weights * blocks).sum(axis=1)
    lowest = np.minimum(blocks.min(axis=1), 0)
    width = np.maximum(blocks.max(axis=1), lowest) - lowest
    best_steps, best_lowest = width / np.float32(most), lowest.copy()
    best = np.full(len(blocks), np.inf, dtype=np.float32)
    for more in (None, *STEPS_SEARCHED):
        if more is None:
            steps, low = best_steps.copy(), lowest.copy()
        else:
            trial = over(blocks - lowest[:, None], (width / np.float32(most + more))[:, None])
            integers = np.rint(trial).clip(0, most)
            by_integers = (weights * integers).sum(axis=1)
            squares, products = (weights * integers**2).sum(axis=1), (weights * integers * blocks).sum(axis=1)
            determinant = total * squares - by_integers**2
            steps = over(total * products - first * by_integers, determinant)
            low = over(squares * first - by_integers * products, determinant)
            through_zero = low > 0
            steps[through_zero] = over(products, squares)[through_zero]
            low[through_zero] = 0
        found = np.rint(over(blocks - low[:, None], steps[:, None])).clip(0, most) * steps[:, None] + low[:, None]
        errors = (weights * (found - blocks) ** 2).sum(axis=1)
        is_better = (errors < best) & (steps >= 0)
        best[is_better] = errors[is_better]
        best_steps[is_better], best_lowest[is_better] = steps[is_better], low[is_better]
    return best_steps[:, None], best_lowest[:, None]


def affine_superblocks(bits: int, *, block: int, scale_bits: int) -> Quantizer:
    """q4_K, q5_K (blocks of 32, 6 bits) and q2_K (blocks of 16, 4 bits)."""

    def quantize(matrix: Floats, streams: Streams) -> Floats:
        superblocks, undo = blocked(matrix, SUPERBLOCK)
        blocks = superblocks.reshape(-1, block)
        most = (1 << bits) - 1
        found = searched_affine(blocks, most)
        per_superblock = SUPERBLOCK // block
        parts = []
        for values in (found[0], -found[1]):
            grouped = values.reshape(-1, per_superblock)
            unit = halved(grouped.max(axis=1, keepdims=True) / np.float32((1 << scale_bits) - 1), streams.scales)
            integers = np.rint(over(grouped, unit)).clip(0, (1 << scale_bits) - 1)
            streams.scales.append(integers.astype(np.uint8).tobytes())
            parts.append((integers * unit).reshape(-1, 1).astype(np.float32))
        steps, minus = parts
        integers = np.rint(over(blocks + minus, steps)).clip(0, most)
        streams.integers.append(integers.astype(np.uint8))
        return undo((integers * steps - minus).reshape(-1, SUPERBLOCK))

    return quantize


def searched_symmetric(blocks: Floats, half: int) -> Floats:
    """Steps of the least error, weighted by squares as llama.cpp does, shape (blocks, 1)."""
    weights = blocks**2
    extreme = furthest(blocks)
    best_steps, best = np.zeros_like(extreme), np.full(len(blocks), -1, dtype=np.float32)
    for more in STEPS_SEARCHED:
        integers = np.rint(over(blocks, extreme / np.float32(-(half + more)))).clip(-half, half - 1)
        products, squares = (weights * blocks * integers).sum(axis=1), (weights * integers**2).sum(axis=1)
        explained = over(products**2, squares)
        is_better = explained > best
        best[is_better] = explained[is_better]
        best_steps[is_better, 0] = over(products, squares)[is_better]
    return best_steps


def symmetric_superblocks(bits: int, *, block: int, scale_bits: int) -> Quantizer:
    """q3_K (blocks of 16, 6 bits) and, with 8 bits, q6_K."""

    def quantize(matrix: Floats, streams: Streams) -> Floats:
        superblocks, undo = blocked(matrix, SUPERBLOCK)
        blocks = superblocks.reshape(-1, block)
        half, scale_half = 1 << (bits - 1), 1 << (scale_bits - 1)
        grouped = searched_symmetric(blocks, half).reshape(-1, SUPERBLOCK // block)
        unit = halved(furthest(grouped) / np.float32(-scale_half), streams.scales)
        scales = np.rint(over(grouped, unit)).clip(-scale_half, scale_half - 1)
        streams.scales.append((scales + scale_half).astype(np.uint8).tobytes())
        steps = (scales * unit).reshape(-1, 1).astype(np.float32)
        integers = np.rint(over(blocks, steps)).clip(-half, half - 1)
        streams.integers.append((integers + half).astype(np.uint8))
        return undo((integers * steps).reshape(-1, SUPERBLOCK))

    return quantize


def gguf_type(name: str) -> Quantizer:
    """A type that the package gguf writes, in its own layout."""

    def quantize(matrix: Floats, streams: Streams) -> Floats:
        import gguf

        blocks, undo = blocked(matrix, BLOCK)
        kind = gguf.GGMLQuantizationType[name]
        data = gguf.quants.quantize(blocks, kind)
        streams.integers.append(data)
        return undo(gguf.quants.dequantize(data, kind))

    return quantize


def half_quadratic(bits: int, size: int) -> Quantizer:
    """HQQ's blocks, with float16 steps and zeros that are no integers (Badri and Shaji, 2023; PyPI package hqq)."""

    def quantize(matrix: Floats, streams: Streams) -> Floats:
        from hqq.core.quantize import Quantizer as HalfQuadratic

        blocks, undo = blocked(matrix, size)
        integers, found = HalfQuadratic.quantize(
            torch.from_numpy(blocks), nbits=bits, group_size=size, axis=1, bitpack=False, device="cpu"
        )
        streams.integers.append(integers.numpy().astype(np.uint8))
        steps, zeros = (halved(found[part].numpy(), streams.scales) for part in ("scale", "zero"))
        return undo((integers.numpy() - zeros) * steps)

    return quantize


def peers() -> Iterator[Peer]:
    """All ways, those of gguf and hqq only where these are installed."""
    yield Peer("int8 per channel", channels_of_int8)
    for bits in (6, 5, 4, 3, 2):
        yield Peer(f"blocks of 32 at {bits} bits", symmetric_blocks(bits), bits)
    for bits in (4, 3):
        yield Peer(f"blocks of 32 with minima at {bits} bits", asymmetric_blocks(bits), bits)
    if importlib.util.find_spec("gguf") is not None:
        for name in ("Q8_0", "Q5_0", "Q4_0"):
            yield Peer(name.lower(), gguf_type(name))
    yield Peer("q6_K", symmetric_superblocks(6, block=16, scale_bits=8), 6)
    yield Peer("q5_K", affine_superblocks(5, block=32, scale_bits=6), 5)
    yield Peer("q4_K", affine_superblocks(4, block=32, scale_bits=6), 4)
    yield Peer("q3_K", symmetric_superblocks(3, block=16, scale_bits=6), 3)
    yield Peer("q2_K", affine_superblocks(2, block=16, scale_bits=4), 2)
    if importlib.util.find_spec("hqq") is not None:
        for bits, size in ((4, 64), (3, 32), (2, 16)):
            yield Peer(f"HQQ at {bits} bits in blocks of {size}", half_quadratic(bits, size), bits)


def named(name: str) -> Peer:
    """One of these ways."""
    return next(peer for peer in peers() if peer.name == name)


def nncodec_points(state: State) -> Iterator[tuple[str, Callable[[], Restored]]]:
    """NNCodec's streams with dependent quantisation at some steps: names, and what restores weights."""
    if not nncodec_streams.is_installed():
        return
    weights = {name: np.atleast_1d(tensor.detach().numpy()) for name, tensor in state.items()}
    matrices = [weights[name].astype(np.float64) for name, tensor in state.items() if is_quantized(tensor)]
    logarithms = [0.5 * np.log2(np.mean(matrix**2)) for matrix in matrices if matrix.any()]
    middle = 2 ** np.average(logarithms, weights=[matrix.size for matrix in matrices if matrix.any()])
    for ratio in NNCODEC_STEPS:
        qp = nncodec_streams.qp_of_step(ratio * float(middle))
        yield f"NNCodec at qp {qp}", partial(nncodec_point, state, weights, qp)


def nncodec_point(state: State, weights: Mapping[str, NDArray[np.generic]], qp: int) -> Restored:
    """NNCodec's stream at one step."""
    row, restored = nncodec_streams.quantized(weights, lambda_scale=1.0, qp=qp, vector_qp=NNCODEC_VECTOR_QP)
    tensors = {
        name: torch.from_numpy(np.array(restored[name])).reshape(tensor.shape).to(tensor.dtype)
        for name, tensor in state.items()
    }
    return tensors, int(row["bytes"])
