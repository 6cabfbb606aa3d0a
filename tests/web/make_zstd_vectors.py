"""Makes the frames that the decoder in JavaScript is tested by: ``python tests/web/make_zstd_vectors.py FILE``."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

WORDS = [b"weight ", b"bias ", b"running_mean ", b"layer.", b"0.", b"1.", b"attention."]
SHORT_BYTES = 1200
LONG_BYTES = 4000


def raws() -> dict[str, bytes]:
    """Bytes of a few kinds from a fixed seed."""
    generator = np.random.default_rng(5)
    words = b"".join(WORDS[i] for i in generator.integers(len(WORDS), size=SHORT_BYTES))
    indices = np.clip(np.round(generator.normal(100, 2, LONG_BYTES)), 0, 255).astype(np.uint8)
    halves = indices[:SHORT_BYTES].astype("<u2")
    noise = generator.integers(256, size=100, dtype=np.uint8).tobytes()
    return {
        "words": words[:SHORT_BYTES],
        "indices": indices.tobytes(),
        "halves": halves.tobytes(),
        "runs": np.repeat(indices[:40], 100).tobytes(),
        "constant": bytes(LONG_BYTES),
        "noise": noise,
        "echo": noise * 2,
        "one": b"1",
    }


def zstd(raw: bytes, level: int, block_bytes: int, window_bits: int) -> bytes:
    """One frame, as a `.metaq` file has it, that ends a block after every `block_bytes` bytes."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        window_log=window_bits,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = b""
    for start in range(0, len(raw), block_bytes):
        packed += stream.compress(raw[start : start + block_bytes]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return packed + stream.flush()


def vectors() -> list[dict[str, Any]]:
    """Every stream with what is to come out of it."""
    made = []
    for name, raw in raws().items():
        known = {"name": name, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        for level, block_bytes, window_bits in ((1, 1 << 17, 17), (3, 300, 17), (19, 1 << 17, 17), (22, 700, 10)):
            packed = zstd(raw, level, block_bytes, window_bits)
            made.append({**known, "data": base64.b64encode(packed).decode()})
    return made


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("[\n" + ",\n".join(json.dumps(vector) for vector in vectors()) + "\n]\n")
