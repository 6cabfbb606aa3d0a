"""The JavaScript decoder of Zstandard against what Python's library writes and reads."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from metaq.coding import zstd
from metaq.errors import CodecError

TESTING = Path(__file__).parents[2] / "web" / "testing"
WORDS = np.array([b"weight", b"bias", b"conv", b"0.", b"running_mean", b"layer."])
LARGE_BYTES = 1_000_000
FAR_BYTES = 17 << 20
"""More than 2^24, where offsets have more bits than are read at once."""

SECONDS = 500
"""After which a decoder is taken to hang; it needs a few."""

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A frame, and the size of what is to come out."""

    packed: bytes
    size_bytes: int

    def for_javascript(self) -> dict[str, Any]:
        return {"data": base64.b64encode(self.packed).decode(), "size": self.size_bytes}

    def by_python(self) -> str | None:
        """Hash of what Python restores, or None if it refuses."""
        try:
            raw = zstd.decompress(self.packed, self.size_bytes)
        except CodecError:
            return None
        return hashlib.sha256(raw).hexdigest() if len(raw) == self.size_bytes else None


def by_javascript(cases: list[Case]) -> list[dict[str, str]]:
    """What the JavaScript decoders say: the hash of what they restore, or an error."""
    done = subprocess.run(
        ["node", str(TESTING / "zstd_cli.js")],
        input=json.dumps([case.for_javascript() for case in cases]),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, str]] = json.loads(done.stdout)
    assert len(results) == len(cases)
    return results


def assert_restored(packed: list[tuple[bytes, bytes]]) -> None:
    """Of packed and raw bytes: the decoder in JavaScript makes these of those."""
    cases = [Case(packed=data, size_bytes=len(raw)) for data, raw in packed]
    for (data, raw), result in zip(packed, by_javascript(cases), strict=True):
        expected = {"sha256": hashlib.sha256(raw).hexdigest()}
        assert result == expected, f"{len(raw)} bytes packed in {len(data)}, {result}"


def make_bytes(generator: np.random.Generator, size: int) -> bytes:
    """Bytes that are noise, few symbols, peaked, words, constant, or repeat themselves with changes."""
    kind = int(generator.integers(6))
    if kind == 0:
        return generator.integers(0, 256, size, dtype=np.uint8).tobytes()
    if kind == 1:
        return generator.integers(0, int(generator.integers(2, 20)), size, dtype=np.uint8).tobytes()
    if kind == 2:
        return (
            np.clip(np.round(generator.normal(128, generator.choice([1, 5, 20]), size)), 0, 255).astype("u1").tobytes()
        )
    if kind == 3:
        return b"".join(WORDS[generator.integers(len(WORDS), size=size // 2 + 1)].tolist())[:size]
    if kind == 4:
        return bytes([int(generator.integers(256))]) * size
    period = generator.integers(0, 256, int(generator.integers(1, 300)), dtype=np.uint8)
    repeated = np.resize(period, size)
    repeated[generator.integers(0, size, size // 50)] = 7
    return repeated.tobytes()


def zstd_compressor(level: int, size_bytes: int, **others: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=size_bytes,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
        **others,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def zstd_blocks(generator: np.random.Generator, raw: bytes, level: int, **others: int) -> bytes:
    """A frame of blocks of random sizes."""
    stream = zstd_compressor(level, len(raw), **others).compressobj()
    packed, position = b"", 0
    while position < len(raw):
        end = position + int(generator.integers(1, len(raw) - position + 1))
        packed += stream.compress(raw[position:end]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        position = end
    return packed + stream.flush()


def some_sizes(generator: np.random.Generator, count: int) -> list[int]:
    return [0, 1, 2, 3, *(int(2**exponent) for exponent in generator.uniform(2, 16, count))]


def far_repeat(distance: int) -> bytes:
    """Noise, zeros, and the noise again so many bytes after its first occurrence."""
    noise = np.random.default_rng(3).integers(0, 256, 4096, dtype=np.uint8).tobytes()
    return noise + bytes(distance - len(noise)) + noise


def test_zstd_of_every_level() -> None:
    generator = np.random.default_rng(2)
    packed = []
    for level in (-5, *range(1, 23)):
        for size in some_sizes(generator, 4):
            raw = make_bytes(generator, size)
            packed.append((zstd_compressor(level, size).compress(raw), raw))
            packed.append((zstd_blocks(generator, raw, level), raw))
            packed.append((zstd_blocks(generator, raw, level, window_log=int(generator.integers(10, 15))), raw))
    assert_restored(packed)


@pytest.mark.parametrize("level", [1, 6, 22])
def test_zstd_of_large_data(level: int) -> None:
    generator = np.random.default_rng(level)
    peaked = np.round(generator.normal(128, 4, LARGE_BYTES)).astype(np.uint8).tobytes()
    words = b"".join(WORDS[generator.integers(len(WORDS), size=LARGE_BYTES // 6)].tolist())
    assert_restored([(zstd_compressor(level, len(raw)).compress(raw), raw) for raw in (peaked, words)])


def test_zstd_of_long_distances() -> None:
    raw = far_repeat(FAR_BYTES)
    packed = zstd_compressor(3, len(raw), window_log=27, enable_ldm=1).compress(raw)
    assert len(packed) < 2 * 4096
    assert_restored([(packed, raw)])


def test_zstd_of_a_stream_of_blocks() -> None:
    generator = np.random.default_rng(4)
    blocks = [make_bytes(generator, 300_000) for _ in range(4)]
    raw = b"".join(blocks)
    assert_restored([(zstd.compress_blocks(blocks, len(raw)), raw)])


def test_what_metaq_writes() -> None:
    generator = np.random.default_rng(7)
    raws = [make_bytes(generator, size) for size in some_sizes(generator, 30) if size > 0]
    assert_restored([(zstd.compress(raw), raw) for raw in raws])


def test_vectors_are_what_python_reads() -> None:
    for vector in json.loads((TESTING / "zstd_vectors.json").read_text()):
        case = Case(packed=base64.b64decode(vector["data"]), size_bytes=vector["size"])
        assert case.by_python() == vector["sha256"]


def damages(generator: np.random.Generator, packed: bytes) -> Iterator[bytes]:
    """Truncations, and copies with a bit turned over, a byte inserted or a byte left out."""
    for _ in range(8):
        yield packed[: int(generator.integers(len(packed)))]
    for _ in range(25):
        damaged = bytearray(packed)
        end = len(packed) if generator.random() < 0.5 else min(30, len(packed))
        at = int(generator.integers(end))
        kind = int(generator.integers(5))
        if kind == 0:
            del damaged[at : at + 1]
        elif kind == 1:
            damaged.insert(at, int(generator.integers(256)))
        else:
            damaged[at] ^= 1 << int(generator.integers(8))
        yield bytes(damaged)


def test_damage_is_refused_or_restored_as_python_does() -> None:
    generator = np.random.default_rng(8)
    cases = []
    for size in some_sizes(generator, 60)[1:]:
        raw = make_bytes(generator, size)
        packed = zstd.compress(raw)
        for damaged in damages(generator, packed):
            promised = size + int(generator.choice([-1, 0, 0, 0, 0, 0, 0, 0, 1]))
            cases.append(Case(packed=damaged, size_bytes=max(promised, 1)))
    refused = 0
    for case, result in zip(cases, by_javascript(cases), strict=True):
        if "sha256" in result:
            assert result["sha256"] == case.by_python()
        else:
            # Python's library is more lenient about bits that nobody reads: what is refused here it may restore.
            assert result["error"] == "MetaqError", result
            refused += 1
    assert 0.5 * len(cases) < refused < len(cases)
