"""Zstandard in plain Python, against the library."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.coding import zstd, zstd_plain
from metaq.errors import CodecError


def texts(size: int, seed: int = 0) -> bytes:
    """Words, repeated as in files of settings."""
    chosen = random.Random(seed)
    words = ["".join(chosen.choices("abcdefghijklmnop", k=chosen.randint(2, 9))) for _ in range(300)]
    made = bytearray()
    while len(made) < size:
        made += f'"{chosen.choice(words)}": {chosen.randint(0, 9999)},\n'.encode()
    return bytes(made[:size])


def noise(size: int, alphabet: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, alphabet, size).astype(np.uint8).tobytes()


CASES = {
    "nothing": b"",
    "a byte": b"x",
    "one byte again and again": b"\0" * 300_000,
    "a short period": bytes(range(7)) * 50_000,
    "text": texts(400_000),
    "short text": texts(900),
    "noise": noise(300_000, 256),
    "few symbols": noise(200_000, 3),
    "skewed": np.random.default_rng(2).geometric(0.3, 150_000).clip(0, 255).astype(np.uint8).tobytes(),
    "counting": np.arange(60_000, dtype="<i8").tobytes(),
    "text far apart": texts(3000) + noise(150_000, 256) + texts(3000) + texts(150_000, seed=5),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("level", [1, 6, 22])
def test_frames_of_the_library_come_back(name: str, level: int) -> None:
    raw = CASES[name]
    assert zstd_plain.decompress(zstd.compress(raw, level), len(raw)) == raw


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 40), st.sampled_from([1, 3, 9, 19, 22]))
def test_any_bytes_come_back(part: bytes, times: int, level: int) -> None:
    raw = part * times + part[::-1]
    assert zstd_plain.decompress(zstd.compress(raw, level), len(raw)) == raw


def test_blocks_at_a_time_come_back() -> None:
    blocks = [texts(70_000, seed) for seed in range(6)]
    frame = zstd.compress_blocks(blocks, sum(map(len, blocks)))
    assert zstd_plain.decompress(frame, 420_000) == b"".join(blocks)


@settings(deadline=None)
@given(st.sampled_from(["text", "skewed", "a short period"]), st.data())
def test_damage_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    raw = CASES[name][:5000]
    frame = bytearray(zstd.compress(raw))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] ^= 1 << data.draw(st.integers(0, 7))
    cut = bytes(frame[: data.draw(st.integers(len(frame) - 40, len(frame)))])
    with suppress(CodecError):
        assert len(zstd_plain.decompress(cut, len(raw))) <= len(raw)


@pytest.mark.parametrize("name", ["text", "one byte again and again", "noise"])
def test_no_more_comes_than_is_allowed(name: str) -> None:
    frame = zstd.compress(CASES[name])
    with pytest.raises(CodecError, match="zstd: "):
        zstd_plain.decompress(frame, len(CASES[name]) - 1)


@pytest.mark.parametrize(
    "frame", [b"", b"\x00", b"\x20\x00\x01\x00\x00", b"\x04\x00\x01\x00\x00", b"\x00\xff\x01\x00\x00"]
)
def test_other_headers_are_refused(frame: bytes) -> None:
    with pytest.raises(CodecError, match="zstd: "):
        zstd_plain.decompress(frame, 100)


def test_it_is_used_where_the_library_is_missing() -> None:
    frame = zstd.compress(b"a text, " * 30)
    program = f"""
import sys
sys.modules["zstandard"] = None
import importlib.util
importlib.util.find_spec = lambda name, known=importlib.util.find_spec: None if name == "zstandard" else known(name)
from metaq.coding import zstd
assert zstd.decompress({frame!r}, 240) == b"a text, " * 30
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
