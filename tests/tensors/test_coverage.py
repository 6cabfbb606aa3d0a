"""How much of a model is quantised, and what is not and why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from metaq import choose_grids, compress, container
from metaq.tensors.coverage import coverage_of
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, TiedTensor

GRID = BucketGrid(center=0.0, radius=1.0, count=5)


def exact(name: str, dtype: Dtype, *shape: int) -> ExactTensor:
    return ExactTensor(name=name, values=np.zeros(shape, dtype=dtype.storage), dtype=dtype)


def quantized(name: str, *shape: int) -> QuantizedTensor:
    return QuantizedTensor(name=name, indices=np.zeros(shape, dtype=np.int64), grid=GRID, dtype=Dtype.float16)


def test_bytes_are_those_of_the_model_and_tied_tensors_count_once() -> None:
    weight, table = quantized("w", 100), exact("table", Dtype.float32, 20)
    tensors = [weight, TiedTensor(name="v", first=weight), table, TiedTensor(name="a", first=table)]
    tensors += [exact("n", Dtype.int64), exact("z", Dtype.complex64, 3), exact("none", Dtype.float32, 0)]
    tensors += [exact("q", Dtype.float8_e5m2, 9), exact("mask", Dtype.bool, 2)]
    found = coverage_of(tensors)
    assert (found.tensor_bytes, found.quantized_bytes) == (200 + 80 + 8 + 24 + 9 + 2, 200)
    assert [(part.name, part.size_bytes, part.reason) for part in found.left_out] == [
        ("table", 80, "stored exactly"),
        ("z", 24, "complex"),
        ("q", 9, "float8_e5m2"),
        ("n", 8, "integer"),
        ("mask", 2, "boolean"),
        ("none", 0, "empty"),
    ]
    file = container.decode(container.encode(tensors))
    # In the file it is the first name that holds the elements.
    names = {"a" if part.name == "table" else part.name for part in found.left_out}
    assert {part.name for part in file.coverage.left_out} == names
    assert (file.coverage.tensor_bytes, file.coverage.quantized_bytes) == (323, 200)
    assert json.loads(json.dumps(found.to_dict()))["quantized_share"] == pytest.approx(200 / 323)


def test_little_coverage_is_a_warning_that_names_the_largest() -> None:
    tensors = [quantized("w", 100), *(exact(f"t{n}", Dtype.float32, 10 * n) for n in range(1, 6))]
    found = coverage_of(tensors).explained({"t5": "excluded by t5"})
    assert found.warning() == (
        "only 25.0% of the bytes of the tensors are quantised; not: t5 (200 bytes, excluded by t5); "
        "t4 (160 bytes, stored exactly); t3 (120 bytes, stored exactly); and 2 more."
    )
    assert coverage_of([quantized("w", 100), exact("b", Dtype.float16, 5)]).warning() is None
    assert coverage_of([]).warning() is None


def test_what_was_not_quantised_is_told_and_why() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20), nn.Linear(20, 1))
    model[2].weight.requires_grad_(False)
    grids = choose_grids(model, count=15, exclude=("2.*",))
    left_out = compress(model, grids=grids).coverage.left_out
    assert {part.name: part.reason for part in left_out} == {
        "1.running_mean": "running statistics of batch normalisation",
        "1.running_var": "running statistics of batch normalisation",
        "2.weight": "frozen, no grid was given",
        "1.num_batches_tracked": "integer",
        "2.bias": "no grid was given",
    }
    found = compress(model, target_ratio=2.0, exclude=("2.weight",))
    assert {part.name: part.reason for part in found.coverage.left_out} == {
        "2.weight": "excluded by 2.weight",
        "1.num_batches_tracked": "integer",
        "2.bias": "too small to pay",
    }


def test_attention_is_not_left_out() -> None:
    attention = nn.MultiheadAttention(16, 4)
    found = compress(attention, target_ratio=4.0).coverage
    assert found.share == 1.0
