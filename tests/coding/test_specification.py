"""Decoders written from docs/format.md alone, in plain integers, agree with the coders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.coding import CODERS

KNOTS = (
    *(32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374),
    *(65438, 65476, 65500, 65514, 65523, 65528, 65531, 65533, 65534, 65535, 65535, 65536),
)


def varint(data: Iterator[int]) -> int:
    value, shift = 0, 0
    while True:
        byte = next(data)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


class Bits:
    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.position = 0

    def field(self, width: int) -> int:
        self.position += width
        return int(self.text[self.position - width : self.position] or "0", 2)

    def golomb(self, order: int) -> int:
        zeros = self.text.index("1", self.position) - self.position
        self.position += zeros
        return self.field(zeros + order + 1) - (1 << order)


def frequency_table(payload: bytes) -> tuple[list[int], list[int], bytes]:
    """Used symbols, 24-bit bounds, and the coded bytes."""
    data = iter(payload)
    symbols, others = [varint(data)], varint(data)
    rest = bytes(data)
    if others == 0:
        return symbols, [0, 1 << 24], rest
    bits = Bits(rest)
    precision, gap_order, mass_order = bits.field(5), bits.field(4), bits.field(4)
    implied = bits.field(others.bit_length())
    masses = []
    for _ in range(others):
        symbols.append(symbols[-1] + bits.golomb(gap_order) + 1)
        masses.append(bits.golomb(mass_order) + 1)
    masses.insert(implied, (1 << precision) - sum(masses))
    free = (1 << 24) - len(symbols)
    sums = [sum(masses[:j]) for j in range(len(symbols) + 1)]
    bounds = [sums[j] * free // (1 << precision) + j for j in range(len(symbols) + 1)]
    return symbols, bounds, rest[-(-bits.position // 8) :]


def find(bounds: list[int], quantile: int) -> int:
    return next(j for j in range(len(bounds)) if bounds[j] <= quantile < bounds[j + 1])


def decode_range(payload: bytes, count: int) -> list[int]:
    symbols, bounds, data = frequency_table(payload)
    if len(symbols) == 1:
        return symbols * count
    mask = (1 << 64) - 1
    position, low, width = 8, 0, mask
    point = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
    out = []
    for _ in range(count):
        step = width >> 24
        j = find(bounds, ((point - low) & mask) // step)
        out.append(symbols[j])
        low, width = (low + step * bounds[j]) & mask, step * (bounds[j + 1] - bounds[j])
        if width < 1 << 32:
            low, width = (low << 32) & mask, width << 32
            point = (point << 32) & mask | int.from_bytes(data[position : position + 4].ljust(4, b"\0"), "big")
            position += 4
    return out


def decode_rans(payload: bytes, count: int) -> list[int]:
    symbols, bounds, data = frequency_table(payload)
    if len(symbols) == 1:
        return symbols * count
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    state = words.pop() if words else 0
    state = state << 32 | words.pop() if words else state
    out = []
    for _ in range(count):
        quantile = state & ((1 << 24) - 1)
        j = find(bounds, quantile)
        out.append(symbols[j])
        state = (state >> 24) * (bounds[j + 1] - bounds[j]) + quantile - bounds[j]
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
    assert state == 0
    assert not words
    return out


Decoder = Callable[[bytes, int, int, int], list[int]]
DECODERS: dict[str, Decoder] = {
    "range": lambda payload, count, _alphabet_size, _row_length: decode_range(payload, count),
    "rans": lambda payload, count, _alphabet_size, _row_length: decode_rans(payload, count),
}


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 30),
    count=st.integers(1, 400),
    alphabet_size=st.sampled_from([2, 3, 255, 5000, 1 << 31]),
    share=st.sampled_from([0.0, 0.7, 0.97]),
    row_length=st.integers(0, 60),
)
def test_a_decoder_from_the_specification_agrees(
    name: str, seed: int, count: int, alphabet_size: int, share: float, row_length: int
) -> None:
    rng = np.random.default_rng(seed)
    spread = min(alphabet_size, 1 << int(rng.integers(1, 32)))
    lowest = int(rng.integers(0, alphabet_size - spread + 1))
    mode = int(rng.integers(lowest, lowest + spread))
    symbols = np.where(rng.random(count) < share, mode, rng.integers(lowest, lowest + spread, count))
    payload = CODERS[name].encode(symbols, alphabet_size, row_length=row_length).payload
    assert DECODERS[name](payload, count, alphabet_size, row_length) == symbols.tolist()


@pytest.mark.parametrize("name", DECODERS)
def test_long_sparse_streams_agree(name: str) -> None:
    rng = np.random.default_rng(11)
    symbols = np.clip(127 + np.round(rng.laplace(0, 0.5, 2500)), 0, 254).astype(np.int64)
    payload = CODERS[name].encode(symbols, 255, row_length=50).payload
    assert DECODERS[name](payload, 2500, 255, 50) == symbols.tolist()
