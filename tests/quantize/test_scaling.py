from dataclasses import replace

import numpy as np
import pytest
import torch

from metaq import container
from metaq.model import checkpoint
from metaq.quantize.allocation import Target, allocate, allocate_one, target_of
from metaq.quantize.curvature import Curvature
from metaq.quantize.rdo import distortion


def curvature_of(shape: tuple[int, ...], kind: str) -> Curvature:
    """Curvature that differs by a factor of a thousand and more between rows and columns."""
    generator = np.random.default_rng(0)
    columns = int(np.prod(shape[1:]))
    rows = np.exp(generator.normal(size=shape[0]) * 2)
    mixed = generator.normal(size=(4 * columns, columns)) * np.exp(generator.normal(size=columns) * 2)
    inputs = mixed.T @ mixed / len(mixed)
    if kind == "elements":
        return Curvature(rows=rows, columns=np.diag(inputs))
    outputs = np.diag(rows) if kind == "coupled" else rows
    return Curvature(rows=rows, columns=np.diag(inputs), inputs=inputs, outputs=outputs)


def target_like(shape: tuple[int, ...], kind: str) -> Target:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return target_of("w", weights, {"w": curvature_of(shape, kind)})


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((96, 80), "elements"), ((96, 80), "coupled"), ((256, 160), "layer"), ((128, 32, 3, 3), "layer")],
)
def test_steps_that_suit_rows_and_columns_cost_less(shape: tuple[int, ...], kind: str) -> None:
    target = target_like(shape, kind)
    assert target.scales is not None
    multiplier = 0.01 * target.importance.mean
    scaled, plain = allocate_one(target, multiplier), allocate_one(replace(target, scales=None), multiplier)
    assert scaled is not None
    assert plain is not None
    assert scaled.cost(multiplier) < 0.9 * plain.cost(multiplier)


@pytest.mark.parametrize("kind", ["elements", "coupled", "layer"])
def test_distortion_is_that_of_the_restored_weights(kind: str) -> None:
    target = target_like((128, 80), kind)
    choice = allocate_one(target, 0.01 * target.importance.mean)
    assert choice is not None
    (tensor,) = container.decode(container.encode([choice.tensor])).tensors
    errors = checkpoint.restore([tensor])["w"].double().numpy() - target.values
    assert choice.distortion == pytest.approx(distortion(errors, target.importance), rel=1e-3)


def test_rows_of_a_table_have_scales_beside_a_basis() -> None:
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(4096, 16, generator=generator) @ torch.randn(16, 64, generator=generator)
    rows = np.exp(np.random.default_rng(3).normal(size=4096) * 3)
    curvature = {"w": Curvature(rows=rows, columns=np.ones(64))}
    target = target_of("w", table, curvature)
    tensor = allocate({"w": target}, multiplier=1e-3 * target.importance.mean)["w"].tensor
    assert tensor.basis is not None
    assert tensor.scales is not None
    assert tensor.scales.rows.any()
    assert not tensor.scales.columns.any()
    (restored,) = container.decode(container.encode([tensor])).tensors
    error = checkpoint.restore([restored])["w"].double().numpy() - table.double().numpy()
    by_row = np.square(error).mean(axis=1)
    fine, coarse = (by_row[rows].mean() for rows in np.array_split(np.argsort(-target.importance.elements[:, 0]), 2))
    assert fine < coarse


def test_a_table_of_large_numbers_in_half_precision_does_without_a_basis() -> None:
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(4096, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    table = (3000 * table).clamp(-60000, 60000).half()
    target = target_of("w", table, {"w": Curvature(rows=np.ones(4096), columns=np.ones(64))})
    tensor = allocate({"w": target}, multiplier=1e4)["w"].tensor
    assert tensor.basis is None
    assert container.encode([tensor])


def test_rows_that_calibration_did_not_read_count_as_rows_alike() -> None:
    sizes = np.repeat([0.1, 1.0], 128)
    read = np.tile([1.0, 0.0, 0.0, 0.0], 64) * (sizes == 1.0)
    weights = torch.from_numpy(sizes[:, None] * np.random.default_rng(0).normal(size=(256, 32))).float()
    curvature = {"w": Curvature(rows=read, columns=np.ones(32))}
    by_row = target_of("w", weights, curvature).importance.elements.mean(axis=1)
    assert (by_row[128:] > 0).all()
    assert by_row[129] > 100 * by_row[:128].max()


def test_elements_of_a_vector_count_mostly_as_they_are_measured() -> None:
    diagonal = np.array([1.0, 3.0])
    target = target_of("b", torch.tensor([0.5, 0.7]), {"b": Curvature(rows=np.ones(1), columns=diagonal)})
    assert target.importance.elements[0] == pytest.approx(0.7 * diagonal + 0.3 * diagonal.mean())


def test_values_that_many_weights_share_stay_on_one_grid() -> None:
    weights = torch.randn(128, 64, generator=torch.Generator().manual_seed(4))
    weights[:, ::2] = 0.25
    assert target_of("w", weights, {"w": curvature_of((128, 64), "layer")}).scales is None
