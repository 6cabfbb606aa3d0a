"""Steps that suit every row and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import metaq
from metaq import container
from metaq.compression.planning import LEAST_DEPTHWISE, SEPARABLE_SHARE, default_multiplier, importance_of_count
from metaq.compression.scaling import scales_for
from metaq.compression.survey import look_at
from metaq.model.stored import Reader, StoredTensor
from metaq.progress import NoProgress
from metaq.tensors.quantized import Dtype


def uneven(rows: int = 96, columns: int = 128, *, spread: float = 40.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(0, -float(np.log10(spread)), rows, dtype=torch.float64)
    return (torch.randn(rows, columns, generator=generator, dtype=torch.float64) * sizes[:, None]).float()


def row_errors(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Root mean square error of every row over its root mean square."""
    return ((wanted - found).square().mean(dim=1) / wanted.square().mean(dim=1)).sqrt()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("layer.weight", (100, 100), 1.0),
        ("layer.weight", (200, 200), 1 / 4),
        ("table.weight", (1600, 100), 1 / 4),
        ("lm_head.weight", (1600, 100), 2.0),
        ("model.lm_head.weight", (100, 100), 8.0),
        ("mylm_head.weight", (100, 100), 1.0),
    ],
)
def test_numbers_of_weights_count_less_in_tables_and_errors_more_in_heads(
    name: str, shape: tuple[int, int], expected: float
) -> None:
    tensor = StoredTensor(name=name, shape=shape, dtype=Dtype.float32, place=np.zeros(0))
    assert importance_of_count(tensor, 10_000) == pytest.approx(expected)


def test_models_of_depthwise_separable_layers_are_quantised_finer_by_default() -> None:
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(64, 64, 1, 1, generator=generator)
    kernels = torch.randn(3, 64, 1, 3, 3, generator=generator)
    errors = []
    for shape in ((64, 1, 3, 3), (64, 9, 1, 1)):
        state = {"point.weight": point} | {f"{n}.weight": each.reshape(shape) for n, each in enumerate(kernels)}
        errors.append(float((metaq.compress(state).state_dict()["point.weight"] - point).square().mean()))
    assert errors[0] < errors[1] / 2


def test_models_with_few_depthwise_layers_are_as_fine_as_others() -> None:
    depthwise = {f"{number}.weight": torch.zeros(8, 1, 3, 3) for number in range(LEAST_DEPTHWISE)}
    usual = default_multiplier(_stored({}), 10_000)
    assert default_multiplier(_stored(depthwise), 10_000) == pytest.approx(SEPARABLE_SHARE * usual)
    depthwise.popitem()
    others = {"first": torch.zeros(1, 1, 3, 3), "long": torch.zeros(64, 1, 512), "point": torch.zeros(64, 1, 1, 1)}
    assert default_multiplier(_stored(depthwise | others), 10_000) == usual


def _stored(state: dict[str, torch.Tensor]) -> list[StoredTensor]:
    place = np.zeros(0)
    return [StoredTensor(name=n, shape=tuple(t.shape), dtype=Dtype.float32, place=place) for n, t in state.items()]


@pytest.mark.parametrize("shape", [(96, 128), (96, 32, 2, 2), (600, 700)])
def test_small_rows_are_not_wiped_out(shape: tuple[int, ...]) -> None:
    matrix = uneven(shape[0], int(np.prod(shape[1:])))
    found = metaq.compress({"w": matrix.reshape(shape)}).state_dict()["w"].reshape(matrix.shape)
    errors = row_errors(matrix, found)
    assert errors.max() < 0.6
    assert errors.max() < 4 * errors.min()


def test_a_file_of_uneven_weights_restores_what_was_chosen(tmp_path: Path) -> None:
    weights = {"a.weight": uneven(), "b.weight": uneven(700, 600, seed=1), "b.bias": torch.randn(700)}
    found = metaq.compress(weights, target_ratio=9)
    found.save(tmp_path / "m.metaq")
    restored = metaq.load(tmp_path / "m.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in found.state_dict().items())
    scaled = {entry.name for entry in container.describe(tmp_path / "m.metaq").entries if entry.scales is not None}
    assert scaled == {"a.weight", "b.weight"}


def test_uneven_rows_may_be_combined_from_the_basis_of_a_table(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(64, 64, generator=generator) * torch.logspace(0, -2, 64)[:, None]
    table = torch.randn(2000, 64, generator=generator) @ mix
    matrix = torch.randn(320, 64, generator=generator) @ mix * torch.logspace(0, -1.5, 320)[:, None]
    found = metaq.compress({"table": table, "matrix": matrix})
    found.save(tmp_path / "m.metaq")
    by_name = {entry.name: entry for entry in container.describe(tmp_path / "m.metaq").entries}
    assert by_name["matrix"].scales is not None
    assert by_name["matrix"].basis == by_name["table"].basis == 0
    restored = metaq.load(tmp_path / "m.metaq")["matrix"]
    assert torch.equal(restored, found.state_dict()["matrix"])
    assert row_errors(matrix, restored).max() < 0.5


def test_zeros_stay_zero_under_scales() -> None:
    matrix = uneven()
    matrix[torch.rand(matrix.shape, generator=torch.Generator().manual_seed(2)) < 0.3] = 0
    matrix[5] = 0
    found = metaq.compress({"w": matrix})
    assert (found.state_dict()["w"][matrix == 0] == 0).all()


def scales_of(tensor: torch.Tensor, dtype: Dtype = Dtype.float32) -> object:
    elements = tensor.numpy().astype(dtype.storage).reshape(-1)
    stored = StoredTensor(name="w", dtype=dtype, shape=tuple(tensor.shape), place=elements)
    with Reader() as reader:
        return scales_for(reader, stored, look_at(reader, stored, NoProgress())[0])


def test_scales_are_left_out_where_they_do_not_pay() -> None:
    assert scales_of(uneven()) is not None
    assert scales_of(torch.randn(4096)) is None
    assert scales_of(uneven(16, 16)) is None
    assert scales_of(torch.ones(96, 128).bernoulli(0.5) - 0.5) is None
    assert scales_of(torch.zeros(96, 128)) is None
    assert scales_of(uneven(), Dtype.float16) is not None
    assert scales_of(uneven() * 1e4, Dtype.float16) is None
