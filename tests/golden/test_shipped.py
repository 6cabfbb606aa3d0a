"""The shipped models restore the weights that they were trained to, from no more bytes than their first files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from metaq import decode

ROOT = Path(__file__).parents[2]
KNOWN = Path(__file__).with_name("shipped.json")
FIRST_SIZES_BYTES = {"lenet5-mnist": 977, "lenet5-caffe-mnist": 1478, "lenet300-mnist": 2329}
"""Sizes of the files before version 1 of the format, from the same bucket indices."""


def hashes(name: str) -> dict[str, str]:
    """SHA-256 of type, shape and little-endian elements of every tensor of a shipped model."""
    tensors = decode.load(ROOT / "models" / f"{name}.metaq")
    return {
        key: hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()
        for key, values in tensors.items()
    }


def test_no_model_is_left_out() -> None:
    assert {path.stem for path in (ROOT / "models").glob("*.metaq")} == set(FIRST_SIZES_BYTES)


@pytest.mark.parametrize("name", FIRST_SIZES_BYTES)
def test_the_weights_are_the_same(name: str) -> None:
    assert hashes(name) == json.loads(KNOWN.read_text())[name]


@pytest.mark.parametrize("name", FIRST_SIZES_BYTES)
def test_no_file_is_larger(name: str) -> None:
    assert (ROOT / "models" / f"{name}.metaq").stat().st_size <= FIRST_SIZES_BYTES[name]
