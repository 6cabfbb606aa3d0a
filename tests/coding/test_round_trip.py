"""Every coder gives back what it was given, whatever that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from metaq.coding import CODERS, CODERS_BY_IDENTIFIER, CodedSymbols, Coder, coder_named, encode_smallest
from metaq.errors import CodecError, ConfigError

EVERY_CODER = pytest.mark.parametrize("coder", CODERS.values(), ids=CODERS.keys())
GENERAL = [name for name in CODERS if name != "constant"]
EVERY_GENERAL_CODER = pytest.mark.parametrize("coder", [CODERS[name] for name in GENERAL], ids=GENERAL)


def restored(
    coder: Coder, coded: CodedSymbols, count: int, alphabet_size: int, row_length: int = 0
) -> NDArray[np.int64]:
    return coder.decode(coded.payload, count=count, alphabet_size=alphabet_size, row_length=row_length)


def check(coder: Coder, symbols: NDArray[np.int64], alphabet_size: int, row_length: int = 0) -> CodedSymbols:
    coded = coder.encode(symbols, alphabet_size, row_length=row_length)
    back = restored(coder, coded, symbols.size, alphabet_size, row_length)
    assert back.dtype == np.int64
    np.testing.assert_array_equal(back, symbols)
    assert 0 <= coded.table_bytes <= len(coded.payload)
    assert coder.encode(symbols, alphabet_size, row_length=row_length) == coded
    return coded


def streams() -> st.SearchStrategy[tuple[NDArray[np.int64], int, int]]:
    def of(alphabet_size: int) -> st.SearchStrategy[tuple[NDArray[np.int64], int, int]]:
        symbols = hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(0, alphabet_size - 1))
        return st.tuples(symbols, st.just(alphabet_size), st.integers(0, 70))

    return st.sampled_from([1, 2, 3, 255, 256, 257, 65_536, 65_537, 1 << 24, 1 << 31]).flatmap(of)


@EVERY_GENERAL_CODER
@settings(max_examples=60)
@given(stream=streams())
@example(stream=(np.zeros(1, dtype=np.int64), 1, 0))
@example(stream=(np.array([(1 << 31) - 1, 0]), 1 << 31, 1))
def test_any_stream_comes_back(coder: Coder, stream: tuple[NDArray[np.int64], int, int]) -> None:
    check(coder, *stream)


@EVERY_GENERAL_CODER
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("rows", [0, 64])
def test_skewed_streams_come_back(coder: Coder, share: float, rows: int) -> None:
    rng = np.random.default_rng(1)
    symbols = np.where(rng.random(4096) < share, 127, rng.integers(0, 255, 4096))
    check(coder, symbols, 255, rows)


@EVERY_GENERAL_CODER
def test_many_different_symbols_come_back(coder: Coder) -> None:
    check(coder, np.random.default_rng(2).permutation(70_000)[:3000], 70_000)


@EVERY_GENERAL_CODER
def test_fibonacci_counts_come_back(coder: Coder) -> None:
    counts = [1, 1]
    while sum(counts) < 60_000:
        counts.append(counts[-1] + counts[-2])
    check(coder, np.random.default_rng(3).permutation(np.repeat(np.arange(len(counts)), counts)), 40)


@EVERY_CODER
@pytest.mark.parametrize("count", [0, 1, 2, 100_000])
@pytest.mark.parametrize("symbol", [0, 127, 254])
def test_one_symbol_only_comes_back(coder: Coder, count: int, symbol: int) -> None:
    coded = check(coder, np.full(count, symbol, dtype=np.int64), 255)
    assert len(coded.payload) < 160
    assert coded.payload or count == 0


@EVERY_CODER
def test_symbols_outside_the_alphabet_are_refused(coder: Coder) -> None:
    with pytest.raises(CodecError, match="do not fit an alphabet of 3"):
        coder.encode(np.array([3, 3]), 3)
    with pytest.raises(CodecError, match="do not fit"):
        coder.encode(np.array([-1, -1]), 3)


@EVERY_CODER
def test_what_is_no_stream_is_refused(coder: Coder) -> None:
    with pytest.raises(CodecError, match=r"integers of shape \(n,\)"):
        coder.encode(np.zeros((2, 2), dtype=np.int64), 3)
    with pytest.raises(CodecError, match="alphabet"):
        coder.encode(np.zeros(2, dtype=np.int64), 0)
    with pytest.raises(CodecError, match="row length"):
        coder.encode(np.zeros(2, dtype=np.int64), 3, row_length=-1)
    with pytest.raises(CodecError, match="not a number of symbols"):
        coder.decode(b"", count=-1, alphabet_size=3)


def test_the_constant_coder_refuses_different_symbols() -> None:
    with pytest.raises(CodecError, match="auto"):
        CODERS["constant"].encode(np.array([1, 2]), 3)


def test_identifiers_are_what_files_hold() -> None:
    numbers = {name: coder.identifier for name, coder in CODERS.items()}
    assert numbers == {
        "constant": 1,
        "packed": 2,
        "huffman": 3,
        "range": 4,
        "rans": 5,
        "gzip": 6,
        "zstd": 7,
        "lzma": 8,
    }
    assert {coder.identifier: coder for coder in CODERS.values()} == dict(CODERS_BY_IDENTIFIER)


def test_the_smallest_is_no_larger_than_any() -> None:
    symbols = np.random.default_rng(4).binomial(20, 0.1, 2000)
    coder, coded = encode_smallest(symbols, 21, row_length=50)
    sizes = [len(CODERS[name].encode(symbols, 21, row_length=50).payload) for name in GENERAL]
    assert len(coded.payload) == min(sizes)
    assert CODERS[coder.name] is coder


def test_of_equals_the_lowest_identifier_wins() -> None:
    assert encode_smallest(np.zeros(0, dtype=np.int64), 5)[0].name == "constant"
    assert encode_smallest(np.zeros(0, dtype=np.int64), 5, names=["rans", "range"])[0].name == "range"


def test_unknown_coders_are_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean huffman"):
        coder_named("hufman")
    with pytest.raises(ConfigError, match="choose auto or one of"):
        encode_smallest(np.zeros(3, dtype=np.int64), 5, names=["qqq"])


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(CodecError, match="constant: the symbols differ"):
        encode_smallest(np.arange(3), 5, names=["constant"])


def test_what_does_not_decode_to_its_symbols_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = np.arange(5)
    monkeypatch.setattr(CODERS["packed"], "decode", lambda *_args, **_options: symbols[::-1])
    with pytest.raises(CodecError, match="does not give the symbols back"):
        encode_smallest(symbols, 5, names=["packed"])
