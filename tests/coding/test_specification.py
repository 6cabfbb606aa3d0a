"""Decoders written from docs/format.md alone, in plain integers, agree with the coders."""

from __future__ import annotations

from collections import defaultdict
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


def logistic(x: int) -> int:
    knots = [65536 - knot for knot in KNOTS[:0:-1]] + list(KNOTS)
    u = min((x + 3072) >> 7, 47)
    f = x + 3072 - 128 * u
    return (knots[u] * (128 - f) + knots[u + 1] * f + 64) >> 7


LOGISTIC = [logistic(x) for x in range(-3072, 3073)]
LOGIT = np.clip(np.searchsorted(LOGISTIC, np.arange(65536)) - 3072, -3071, 3071).tolist()


class AdaptiveDecoder:
    def __init__(self, data: bytes) -> None:
        self.data = iter(data)
        self.low, self.width, self.code = 0, 1 << 32, 0
        for _ in range(4):
            self.code = self.code << 8 | next(self.data, 0)
        self.slots: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [1 << 21, 0])
        self.weights: dict[int, list[int]] = defaultdict(lambda: [8192] * 9)
        self.contexts = [0] * 9

    def choose(self, probability: int) -> int:
        bound = self.width * probability >> 16
        bit = int((self.code - self.low) % (1 << 32) < bound)
        if bit:
            self.width = bound
        else:
            self.low = (self.low + bound) % (1 << 32)
            self.width -= bound
        while self.width < 1 << 24:
            self.width, self.low = self.width << 8, (self.low << 8) % (1 << 32)
            self.code = (self.code << 8) % (1 << 32) + next(self.data, 0)
        return bit

    def decide(self, node: int) -> int:
        general = self.slots[0, 0, node]
        slots = [self.slots[j, self.contexts[j], node] for j in range(8)]
        slots.append(self.slots[8, self.contexts[8], node] if node < 4 else general)
        for slot in slots[1:]:
            if slot is not general and slot[1] == 0:
                slot[:] = [general[0], 4]
        inputs = [LOGIT[slot[0] >> 6] for slot in slots]
        weights = self.weights[min(node, 15)]
        logit = sum(w * t for w, t in zip(weights, inputs, strict=True)) >> 16
        probability = min(max(LOGISTIC[min(max(logit, -3071), 3071) + 3072], 16), 65520)
        bit = self.choose(probability)
        error = 8 * (65536 * bit - probability)
        for j, t in enumerate(inputs):
            weights[j] += (t * error + (1 << 19)) >> 20
        for j, slot in enumerate(slots):
            if j == 0 or slot is not general:
                slot[0] += ((bit * ((1 << 22) - 1) - slot[0]) * (131072 // (2 * slot[1] + 3))) >> 16
                slot[1] = min(slot[1] + 1, 1023)
        return bit

    def residual(self, negative: bool, positive: bool) -> int:
        if not self.decide(0):
            return 0
        sign = self.decide(1) if negative and positive else int(positive)
        digits = 1
        while self.decide(1 + digits):
            digits += 1
        magnitude = 1
        for place in range(digits - 1):
            node = 33 + 7 * min(digits - 2, 25) - 1 + magnitude
            magnitude = magnitude << 1 | (self.decide(node) if place < 3 else self.choose(1 << 15))
        return magnitude if sign else -magnitude


def density(hits: int, seen: int) -> int:
    if hits == 0:
        return min(seen.bit_length(), 7)
    z = 0 if hits == 1 else (1 if hits < 4 else 2)
    return 8 + 8 * z + next(v for v in range(8) if v == 7 or hits << v >= seen)


def decode_adaptive(payload: bytes, count: int, alphabet_size: int, row_length: int) -> list[int]:
    data = iter(payload)
    mode = varint(data)
    decoder = AdaptiveDecoder(bytes(data))
    rows = row_length if row_length < count else 0
    r: list[int] = []

    def at(index: int, condition: bool) -> int:
        return r[index] if condition and rows and index >= 0 else 0

    for i in range(count):
        row, column = divmod(i, rows) if rows else (0, i)
        left = r[i - 1] if i else 0
        above = at(i - rows, True)
        corners = at(i - rows - 1, column > 0), at(i - rows + 1, column + 1 < rows), at(i - 2 * rows, True)
        flags = [int(x != 0) for x in r[::-1][:32]]
        column_hits = sum(x != 0 for x in r[column::rows]) if rows else 0
        row_hits = sum(x != 0 for x in r[i - column :])
        c = decoder.contexts
        c[1] = sum(flag << n for n, flag in enumerate(flags[:6]))
        c[2] = 8 * (3 * min(abs(left), 2) + min(abs(above), 2)) + sum(
            (x != 0) * n for x, n in zip(corners, (4, 2, 1), strict=True)
        )
        c[3], c[4] = density(column_hits, row), density(row_hits, column)
        c[5] = 32 * c[3] + c[4]
        c[6] = 2 * sum(flags) + (left != 0)
        c[7] = 9 * (int(np.sign(left)) + 1) + 3 * (int(np.sign(above)) + 1) + min(abs(left), 2)
        c[8] = column if rows else 0
        r.append(decoder.residual(mode > 0, mode + 1 < alphabet_size))
    return [mode + x for x in r]


Decoder = Callable[[bytes, int, int, int], list[int]]
DECODERS: dict[str, Decoder] = {
    "range": lambda payload, count, _alphabet_size, _row_length: decode_range(payload, count),
    "rans": lambda payload, count, _alphabet_size, _row_length: decode_rans(payload, count),
    "adaptive": decode_adaptive,
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
