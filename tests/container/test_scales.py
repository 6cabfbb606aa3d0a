"""Tensors whose rows and columns have scales."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq import container, decode
from metaq.errors import ConfigError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, QuantizedTensor, Scan
from metaq.tensors.scales import QUARTERS, Scales, factors, scales_of

GRID = BucketGrid(center=0.25, radius=1.5, count=15)


def exponents(generator: np.random.Generator, size: int, most: int = 20) -> np.ndarray:
    return generator.integers(-most, most + 1, size).astype(np.int8)


def scaled(
    shape: tuple[int, ...] = (9, 7),
    *,
    name: str = "w",
    scan: Scan = "rows",
    trellis_bits: int = 0,
    dtype: Dtype = Dtype.float32,
    most: int = 20,
) -> QuantizedTensor:
    generator = np.random.default_rng(len(name) + sum(shape))
    scales = Scales(rows=exponents(generator, shape[0], most), columns=exponents(generator, shape[1], most))
    return QuantizedTensor(
        name=name,
        indices=generator.integers(0, GRID.count, shape),
        grid=GRID,
        dtype=dtype,
        scan=scan,
        trellis_bits=trellis_bits,
        scales=scales,
    )


def test_factors_are_about_quarter_powers_of_two() -> None:
    every = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_allclose(factors(every), 2.0 ** (every.astype(float) / 4), rtol=6e-3)
    assert factors(np.array([0, 1, 2, 3, 4, -1], dtype=np.int8)).tolist() == [*QUARTERS, 2.0, QUARTERS[3] / 2]


def test_exponents_are_stored_as_bytes() -> None:
    scales = Scales(rows=np.array([-128, 127], dtype=np.int8), columns=np.array([0, 1, 2], dtype=np.int8))
    assert scales.raw == bytes([0, 255, 128, 129, 130])
    back = scales_of(scales.raw, 2)
    assert (back.rows.tolist(), back.columns.tolist()) == ([-128, 127], [0, 1, 2])


@pytest.mark.parametrize("scan", ["rows", "columns"])
@pytest.mark.parametrize("trellis_bits", [0, 7])
@pytest.mark.parametrize("shape", [(9, 7), (1, 5), (6, 4, 3, 3)])
def test_values_are_multiplied_by_both_factors(shape: tuple[int, ...], trellis_bits: int, scan: Scan) -> None:
    tensor = scaled(shape, trellis_bits=trellis_bits, scan=scan, dtype=Dtype.float64)
    assert tensor.scales is not None
    wide = (slice(None), *[None] * (len(shape) - 1))
    both = factors(tensor.scales.rows)[wide] * factors(tensor.scales.columns)[(slice(None), *[None] * (len(shape) - 2))]
    np.testing.assert_array_equal(tensor.values(), replace(tensor, scales=None).values() * both)


@pytest.mark.parametrize("chunk_bits", [0, 5, 20])
@pytest.mark.parametrize("coder", ["small", "fast"])
def test_all_come_back_with_their_scales(coder: str, chunk_bits: int, tmp_path: Path) -> None:
    tensors = [
        scaled(name="a"),
        scaled((40, 3), name="b", trellis_bits=7, dtype=Dtype.bfloat16, most=8),
        scaled((5, 4, 3), name="c", scan="columns", dtype=Dtype.float16, most=8),
        scaled((30, 20), name="d", scan="columns", trellis_bits=4, dtype=Dtype.float64),
        replace(scaled(name="e"), scales=None),
    ]
    path = tmp_path / "model.metaq"
    container.write(path, tensors, coder=coder, chunk_bits=chunk_bits)
    file, loaded = container.read(path), decode.load(path)
    for wanted, found in zip(tensors, file.tensors, strict=True):
        assert wanted.restore().tobytes() == found.restore().tobytes() == loaded[wanted.name].tobytes()
        assert metaq.open(path)[wanted.name].view(torch.uint8).numpy().tobytes() == wanted.restore().tobytes()
    assert container.encode(file.tensors, coder=coder, chunk_bits=chunk_bits) == path.read_bytes()


def test_what_does_not_fit_is_refused() -> None:
    tensor = scaled()
    assert tensor.scales is not None
    few = Scales(rows=tensor.scales.rows[:8], columns=tensor.scales.columns)
    large = Scales(rows=np.full(9, 40, np.int8), columns=np.full(7, 40, np.int8))
    vector = replace(tensor, indices=np.zeros(9, dtype=np.int64))
    for wrong, reason in (
        (replace(tensor, scales=few), "are not one a row and one a column"),
        (vector, "are not one a row and one a column"),
        (replace(tensor, dtype=Dtype.float16, scales=large), "beyond the largest"),
    ):
        with pytest.raises(ConfigError, match=reason):
            container.encode([wrong])
