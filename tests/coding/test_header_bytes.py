"""The coder of header bytes: what is coded comes back, short, and nothing else is accepted."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.coding import header_bytes
from metaq.coding.header_bytes import DICTIONARY, MAX_EXPANSION, decode_header_bytes, encode_header_bytes
from metaq.coding.tables import logistic_table, logit_table
from metaq.errors import CodecError

RECIPE = Path(__file__).parents[1] / "container" / "dictionary.py"


@settings(max_examples=60)
@given(raw=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_come_back(raw: bytes) -> None:
    coded = encode_header_bytes(raw)
    assert decode_header_bytes(coded, len(raw)) == raw
    assert len(coded) <= 1.5 * len(raw) + 4


def test_the_dictionary_is_what_the_serialiser_makes_of_typical_networks() -> None:
    assert b"".join(runpy.run_path(str(RECIPE))["headers"]()) == DICTIONARY


def test_the_specification_gives_the_dictionary() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    assert bytes.fromhex(page.split("The dictionary:\n\n```\n")[1].split("```")[0]) == DICTIONARY


def test_a_header_like_those_of_the_dictionary_is_short() -> None:
    for header in runpy.run_path(str(RECIPE))["headers"]():
        assert len(encode_header_bytes(header)) < len(header) / 5


def test_the_model_is_primed_once_and_never_used_up() -> None:
    first = encode_header_bytes(b"conv1.weight")
    encode_header_bytes(bytes(1000))
    assert encode_header_bytes(b"conv1.weight") == first


def test_the_expansion_is_bounded() -> None:
    raw = bytes(1 << 20)
    coded = encode_header_bytes(raw)
    assert len(raw) <= MAX_EXPANSION * (len(coded) + 8)
    assert decode_header_bytes(coded, len(raw)) == raw
    with pytest.raises(CodecError, match="cannot hold"):
        decode_header_bytes(b"abc", MAX_EXPANSION * 11 + 1)


def test_only_what_the_encoder_writes_is_accepted() -> None:
    raw = b"conv1\0\1\2\3 other bytes"
    coded = encode_header_bytes(raw)
    for extra in (b"\0", b"\1", bytes(9)):
        with pytest.raises(CodecError, match="too long"):
            decode_header_bytes(coded + extra, len(raw))
    for wrong in [coded[:length] for length in range(len(coded))] + [
        flipped(coded, bit) for bit in range(8 * len(coded))
    ]:
        try:
            found = decode_header_bytes(wrong, len(raw))
        except CodecError:
            continue
        assert encode_header_bytes(found) == wrong


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "little") ^ 1 << bit).to_bytes(len(data), "little")


class Stranger:
    """A decoder written from docs/format.md alone."""

    def __init__(self) -> None:
        self.slots = {}
        self.weights = [[22000] * 5 for _ in range(5)]
        self.history = 0
        self.logistic, self.logit = logistic_table().tolist(), logit_table().tolist()
        for byte in DICTIONARY:
            bits = [byte >> (7 - place) & 1 for place in range(8)]
            self.byte(lambda _, bits=bits: bits.pop(0))

    def byte(self, decide) -> int:
        halves = []
        while len(halves) < 2:
            halves.append(self.half(16 + halves[0] if halves else 0, decide))
        byte = 16 * halves[0] + halves[1]
        self.history = (self.history << 8 | byte) & (2**32 - 1)
        return byte

    def half(self, q: int, decide) -> int:
        node = 1
        while node < 16:
            places = [self.place(order, q, node) for order in range(5)]
            seen = [self.slots.setdefault(place, [1 << 21, 0]) for place in places]
            weights = self.weights[max((order for order in range(5) if seen[order][1]), default=0)]
            inputs = [self.logit[slot[0] >> 6] for slot in seen]
            total = sum(w * t for w, t in zip(weights, inputs, strict=True)) >> 16
            probability = min(max(self.logistic[min(max(total, -3071), 3071) + 3072], 128), 65408)
            bit = decide(probability)
            error = 4 * (65536 * bit - probability)
            for order, slot in enumerate(seen):
                weights[order] += (inputs[order] * error + 2**15) >> 16
                slot[0] += ((bit * (2**22 - 1) - slot[0]) * (131072 // (2 * slot[1] + 3))) >> 16
                slot[1] = min(slot[1] + 1, 30)
            node = 2 * node + bit
        return node - 16

    def place(self, order: int, q: int, node: int) -> tuple[int, int, int]:
        mixed = (625341585 * (self.history % 256**order) + 2654435761 * q) % 2**32
        return order, mixed >> 18, node

    def decode(self, coded: bytes, size_bytes: int) -> bytes:
        low, high = 0, 2**32 - 1
        code, left = int.from_bytes(coded[:4].ljust(4, b"\0")), list(coded[4:])

        def decide(probability: int) -> int:
            nonlocal low, high, code
            middle = low + ((high - low) * probability >> 16)
            bit = int(code <= middle)
            low, high = (low, middle) if bit else (middle + 1, high)
            while low >> 24 == high >> 24:
                low, high = low << 8 & 0xFFFFFFFF, high << 8 & 0xFFFFFFFF | 255
                code = code << 8 & 0xFFFFFFFF | (left.pop(0) if left else 0)
            return bit

        return bytes(self.byte(decide) for _ in range(size_bytes))


def test_a_decoder_written_from_the_specification_agrees() -> None:
    rng = np.random.default_rng(0)
    raw = bytes([10, 0, 10, 20]) + b"conv1.weight" + rng.integers(0, 256, 60, dtype=np.uint8).tobytes()
    assert Stranger().decode(encode_header_bytes(raw), len(raw)) == raw
    assert header_bytes.ORDERS == 5
