"""Files of every coder stay readable, and the coders still write the same bytes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaq import container, decode
from metaq.container.coders import CODERS
from metaq.tensors.quantized import QuantizedTensor, TiedTensor

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "make.py"))


@pytest.mark.parametrize("coder", CODERS)
def test_golden_files_decode(coder: str, recipe: dict[str, Any]) -> None:
    path = FOLDER / recipe["golden_name"](coder)
    file, loaded = container.read(path), decode.load(path)
    expected = sorted(recipe["tensors"](coder), key=lambda tensor: tensor.name)
    for wanted, found in zip(expected, file.tensors, strict=True):
        assert (wanted.name, wanted.dtype, wanted.shape) == (found.name, found.dtype, found.shape)
        np.testing.assert_array_equal(wanted.restore(), found.restore())
        np.testing.assert_array_equal(wanted.restore(), loaded[wanted.name])
        if isinstance(found, QuantizedTensor):
            assert (found.grid, found.scan, found.trellis_bits) == (wanted.grid, wanted.scan, wanted.trellis_bits)
    assert file.metadata == recipe["METADATA"]
    used = {entry.name: entry.coder for entry in file.entries if entry.grid is not None}
    assert used == {name: recipe["others"](coder).get(name, coder) for name in used}
    assert {entry.coder for entry in file.entries if entry.grid is None} == {"inline", "raw", "zstd", "planes"}
    assert len(file.chunks) > 1


def test_exact_tensors_in_chunks_of_their_own_stay_readable(recipe: dict[str, Any]) -> None:
    path = FOLDER / recipe["golden_name"]("whole")
    loaded, entries = decode.load(path), decode.inspect(path).entries
    expected = {tensor.name: tensor.restore() for tensor in recipe["tensors"]("fast")}
    for name, values in loaded.items():
        np.testing.assert_array_equal(values, expected[name])
    exact = {entry.name: entry.coder for entry in entries if entry.grid is None}
    assert exact == {
        "norm.num_batches_tracked": "inline", "norm.running_mean": "inline", "norm.running_var": "zstd", "table": "raw"
    }  # fmt: skip
    assert len(loaded) == len(expected) - 2


@pytest.mark.parametrize("coder", CODERS)
def test_golden_files_are_written_again_byte_for_byte(coder: str, recipe: dict[str, Any]) -> None:
    assert recipe["encoded"](coder) == (FOLDER / recipe["golden_name"](coder)).read_bytes()


def test_the_golden_file_with_ties_decodes(recipe: dict[str, Any]) -> None:
    path = FOLDER / recipe["golden_name"]("tied")
    file, loaded = container.read(path), decode.load(path)
    assert file.version == 1
    expected = sorted(recipe["tied_tensors"](), key=lambda tensor: tensor.name)
    for wanted, found in zip(expected, file.tensors, strict=True):
        assert (wanted.name, wanted.dtype, wanted.shape) == (found.name, found.dtype, found.shape)
        assert type(wanted) is type(found)
        np.testing.assert_array_equal(wanted.restore(), found.restore())
        np.testing.assert_array_equal(wanted.restore(), loaded[wanted.name])
        if isinstance(wanted, TiedTensor):
            assert isinstance(found, TiedTensor)
            assert found.first.name == wanted.first.name
            assert loaded[found.name] is loaded[wanted.first.name]
    assert [entry.name for entry in file.entries if entry.coder == "tied"] == [
        "c.weight", "f.weight", "h.bias", "h.weight", "table too"
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["tied", "float8", "scales", "basis", "planes"])
def test_more_golden_files_are_written_again_byte_for_byte(what: str, recipe: dict[str, Any]) -> None:
    assert recipe["encoded_more"](what) == (FOLDER / recipe["golden_name"](what)).read_bytes()


@pytest.mark.parametrize("what", ["float8", "scales", "basis", "planes"])
def test_more_golden_files_decode(what: str, recipe: dict[str, Any]) -> None:
    path = FOLDER / recipe["golden_name"](what)
    file, loaded = container.read(path), decode.load(path)
    assert file.version == 1
    for wanted, found in zip(recipe["MORE"][what](), file.tensors, strict=True):
        assert (wanted.name, wanted.dtype, wanted.shape) == (found.name, found.dtype, found.shape)
        np.testing.assert_array_equal(wanted.restore(), found.restore())
        np.testing.assert_array_equal(wanted.restore(), loaded[wanted.name])
        assert loaded[wanted.name].dtype == wanted.dtype.storage
