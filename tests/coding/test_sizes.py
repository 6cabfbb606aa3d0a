"""Sizes against the zero-order entropy, and what tables cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaq.coding import CODERS, frequencies, huffman, zero_order_entropy_bits
from metaq.errors import CodecError

LAPLACE = "laplace"


def stream(kind: str) -> NDArray[np.int64]:
    rng = np.random.default_rng(7)
    if kind == "sparse":
        return rng.choice([125, 126, 127, 128, 129], p=[0.004, 0.011, 0.97, 0.011, 0.004], size=30_720)
    if kind == LAPLACE:
        return np.clip(np.round(rng.laplace(127, 8, 30_720)), 0, 254).astype(np.int64)
    return rng.integers(0, 255, 30_720)


KINDS = ["sparse", LAPLACE, "uniform"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["range", "rans"])
def test_static_coders_are_near_the_entropy(name: str, kind: str) -> None:
    symbols = stream(kind)
    coded = CODERS[name].encode(symbols, 255)
    ideal_bytes = zero_order_entropy_bits(symbols) / 8
    assert len(coded.payload) - coded.table_bytes >= ideal_bytes - 1
    assert len(coded.payload) - coded.table_bytes <= 1.005 * ideal_bytes + 10
    used = np.unique(symbols).size
    assert len(coded.payload) <= 1.005 * ideal_bytes + 40 + 1.25 * max(used - 20, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_huffman_is_within_a_bit_a_symbol(kind: str) -> None:
    symbols = stream(kind)
    coded = CODERS["huffman"].encode(symbols, 255)
    body_bits = 8 * (len(coded.payload) - coded.table_bytes)
    assert zero_order_entropy_bits(symbols) <= body_bits <= zero_order_entropy_bits(symbols) + symbols.size + 8


def test_small_sparse_streams_take_few_bytes() -> None:
    symbols = np.full(120, 127)
    symbols[[3, 50, 90]] = [126, 128, 129]
    assert len(CODERS["range"].encode(symbols, 255).payload) <= 14


def test_one_mode_in_a_million_costs_next_to_nothing() -> None:
    symbols = np.full(1_000_000, 127)
    symbols[123_456] = 0
    assert len(CODERS["range"].encode(symbols, 255).payload) < 20


@given(counts=st.lists(st.integers(1, 1 << 30), min_size=1, max_size=40), gap=st.integers(1, 1000))
def test_every_symbol_has_mass_and_masses_are_exact(counts: list[int], gap: int) -> None:
    symbols = 5 + gap * np.arange(len(counts))
    table = frequencies.fit(symbols, np.array(counts))
    assert (table.masses >= 1).all()
    assert int(table.masses.sum()) == 1 << table.precision
    data = frequencies.to_bytes(table)
    back, position = frequencies.from_bytes(data + b"rest", alphabet_size=int(symbols[-1]) + 1)
    assert position == len(data)
    np.testing.assert_array_equal(back.symbols, table.symbols)
    np.testing.assert_array_equal(back.masses, table.masses)
    with pytest.raises(CodecError):
        frequencies.from_bytes(data, alphabet_size=int(symbols[-1]))


@given(counts=st.lists(st.integers(1, 1 << 40), min_size=2, max_size=60))
def test_huffman_codes_are_complete_and_prefix_free(counts: list[int]) -> None:
    lengths = huffman.code_lengths(np.array(counts))
    codes = huffman.canonical_codes(lengths)
    assert int(lengths.max()) <= huffman.MAX_LENGTH
    assert sum(1 << (huffman.MAX_LENGTH - int(length)) for length in lengths) == 1 << huffman.MAX_LENGTH
    starts = sorted(
        int(code) << (huffman.MAX_LENGTH - int(length)) for code, length in zip(codes, lengths, strict=True)
    )
    assert len(set(starts)) == len(counts)


def test_code_lengths_are_limited() -> None:
    counts = [1, 1]
    while len(counts) < huffman.MAX_LENGTH + 2:
        counts.append(counts[-1] + counts[-2])
    assert int(huffman.code_lengths(np.array(counts[:-1])).max()) == huffman.MAX_LENGTH
    assert int(huffman.code_lengths(np.array(counts)).max()) <= huffman.MAX_LENGTH


@pytest.mark.parametrize(
    ("symbols", "bits"),
    [([], 0.0), ([5], 0.0), ([5, 5, 5], 0.0), ([0, 1], 2.0), ([0, 0, 0, 1], 4 * 0.8112781244591328)],
)
def test_entropy(symbols: list[int], bits: float) -> None:
    assert zero_order_entropy_bits(np.array(symbols, dtype=np.int64)) == pytest.approx(bits, rel=1e-15)
