"""Files of every version and coder stay readable, and the coders of metaq itself still write the same bytes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaq import container
from metaq.coding import CODERS
from metaq.tensors import QuantizedTensor

FOLDER = Path(__file__).parent
LIBRARIES = ("gzip", "zstd", "lzma")
"""Coders whose bytes may change with the version of a library; what they write stays readable all the same."""


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "make.py"))


@pytest.mark.parametrize("coder", CODERS)
def test_golden_files_decode(coder: str, recipe: dict[str, Any]) -> None:
    file = container.read(FOLDER / recipe["golden_name"](coder))
    expected = sorted(recipe["tensors"](coder), key=lambda tensor: tensor.name)
    for wanted, found in zip(expected, file.tensors, strict=True):
        assert (wanted.name, wanted.dtype, wanted.shape) == (found.name, found.dtype, found.shape)
        np.testing.assert_array_equal(wanted.restore(), found.restore())
        assert not isinstance(found, QuantizedTensor) or found.grid == wanted.grid
    assert file.metadata == recipe["METADATA"]
    assert {entry.coder for entry in file.entries if entry.grid is not None} == {coder}


@pytest.mark.parametrize("coder", [name for name in CODERS if name not in LIBRARIES])
def test_golden_files_are_written_again_byte_for_byte(coder: str, recipe: dict[str, Any]) -> None:
    data = container.encode(recipe["tensors"](coder), metadata=recipe["METADATA"], coder=coder)
    assert data == (FOLDER / recipe["golden_name"](coder)).read_bytes()
