"""Reference coders give back what they were given, and are as good as they are known to be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from metaq.coding.entropy import zero_order_entropy_bits
from metaq.errors import CodecError
from metaq.lab.reference_coders import (
    BYTES_CODERS,
    REFERENCE_CODERS,
    STATIC_CODERS,
    BytesCoder,
    coded,
    compressed,
    huffman_lengths,
    static_table,
)

KINDS = ["sparse", "laplace", "uniform"]


def stream(kind: str) -> NDArray[np.int64]:
    rng = np.random.default_rng(7)
    if kind == "sparse":
        return rng.choice([125, 126, 127, 128, 129], p=[0.004, 0.011, 0.97, 0.011, 0.004], size=30_720)
    if kind == "laplace":
        return np.clip(np.round(rng.laplace(127, 8, 30_720)), 0, 254).astype(np.int64)
    return rng.integers(0, 255, 30_720)


@pytest.mark.parametrize("name", REFERENCE_CODERS)
@pytest.mark.parametrize(
    "symbols", [np.array([7]), np.full(100, 300), np.array([0, 70_000, 5]), stream("laplace")[:3000]]
)
def test_symbols_come_back(name: str, symbols: NDArray[np.int64]) -> None:
    coder = REFERENCE_CODERS[name]
    np.testing.assert_array_equal(coder.decode(coded(coder, symbols), symbols.size), symbols)


@pytest.mark.parametrize("kind", KINDS)
def test_an_arithmetic_code_is_near_the_entropy(kind: str) -> None:
    symbols = stream(kind)
    body_bytes = len(coded(STATIC_CODERS["arithmetic"], symbols)) - len(static_table(symbols))
    assert zero_order_entropy_bits(symbols) / 8 - 1 <= body_bytes <= 1.005 * zero_order_entropy_bits(symbols) / 8 + 10


@pytest.mark.parametrize("kind", KINDS)
def test_huffman_is_within_a_bit_a_symbol(kind: str) -> None:
    symbols = stream(kind)
    body_bits = 8 * (len(coded(STATIC_CODERS["huffman"], symbols)) - len(static_table(symbols)))
    words_bits = int(
        np.bincount(symbols)[np.unique(symbols)] @ huffman_lengths(np.bincount(symbols)[np.unique(symbols)])
    )
    assert words_bits <= body_bits < words_bits + 32
    assert zero_order_entropy_bits(symbols) <= body_bits <= zero_order_entropy_bits(symbols) + symbols.size + 32


def test_what_does_not_come_back_is_an_error() -> None:
    forgetful = BytesCoder(compress=lambda raw: raw[1:], decompress=lambda raw: raw + b"?")
    with pytest.raises(CodecError, match="does not give the symbols back"):
        coded(forgetful, np.array([1, 2, 3]))
    with pytest.raises(CodecError, match="does not give the bytes back"):
        compressed(forgetful, b"abc")
    assert {"gzip-9", "zstd-22", "lzma"} <= set(BYTES_CODERS)
