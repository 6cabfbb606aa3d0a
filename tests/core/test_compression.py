"""Curvature against exact second derivatives, and compression to budgets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from metaq import compression, container, curvature
from metaq.errors import ConfigError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 3))


def inputs(count: int = 200) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def test_curvature_of_a_linear_layer_is_exact() -> None:
    layer = nn.Sequential(nn.Linear(4, 2))
    data = torch.randn(4000, 4, generator=torch.Generator().manual_seed(2))
    found = curvature.measure(layer, data.split(10), loss=curvature.random_projection_loss)["0.weight"]
    assert found.inputs is not None
    np.testing.assert_allclose(found.inputs, (data.T @ data / 4000).double().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.outputs, [1.0, 1.0], rtol=0.1)
    np.testing.assert_allclose(found.diagonal, np.tile(np.diag(found.inputs), (2, 1)), rtol=0.35)


def test_curvature_of_convolutions_sees_patches() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(27, 4))
    data = torch.randn(5, 2, 6, 6)
    found = curvature.measure(model, [data])["0.weight"]
    patches = nn.functional.unfold(data, 3, padding=1, stride=2).movedim(1, 2).flatten(0, 1)
    assert found.inputs is not None
    np.testing.assert_allclose(
        found.inputs, (patches.T @ patches / len(patches)).double().numpy(), rtol=1e-4, atol=1e-5
    )


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    curvature.measure(model, [inputs()])
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_data_and_no_logits_are_errors() -> None:
    with pytest.raises(ConfigError, match="no calibration data"):
        curvature.measure(network(), [])
    with pytest.raises(ConfigError, match="no matrix of logits"):
        curvature.measure(nn.Sequential(nn.Linear(6, 2), nn.Unflatten(1, (1, 2))), [inputs()])


@pytest.mark.parametrize("limit", [150, 300, 600])
def test_a_budget_in_bytes_is_met_and_used(limit: int) -> None:
    model = network()
    found = compression.compress(model, compression.Budget(target_bytes=limit), batches=[inputs()])
    size = len(container.encode(found.tensors))
    assert 0.85 * limit <= size <= limit


def test_a_ratio_is_met_without_data() -> None:
    model = network()
    float_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    found = compression.compress(model.state_dict(), compression.Budget(target_ratio=6.0))
    assert len(container.encode(found.tensors)) <= float_bytes / 6


def test_calibration_helps() -> None:
    model, data = network(), inputs(400)
    data[:, :3] *= 8
    reference = model(data).detach()

    def error(found: compression.Compressed) -> float:
        other = network()
        other.load_state_dict(found.state_dict())
        return float((other(data) - reference).square().mean().detach())

    budget = compression.Budget(target_bytes=300)
    calibrated = compression.compress(model, budget, batches=[data], loss=curvature.random_projection_loss)
    assert error(calibrated) < error(compression.compress(model, budget))


def test_accuracy_is_kept() -> None:
    model, data = network(), inputs(500)
    labels = model(data).argmax(dim=1)

    def percent(weights: dict[str, torch.Tensor]) -> float:
        other = network()
        other.load_state_dict(weights)
        return 100 * float((other(data).argmax(dim=1) == labels).double().mean())

    tight, loose = (
        compression.compress(model, compression.Budget(max_drop=drop), batches=[data], accuracy=percent)
        for drop in (1.0, 10.0)
    )
    assert tight.float_accuracy == 100.0
    assert percent(tight.state_dict()) == tight.accuracy
    assert tight.accuracy is not None
    assert tight.accuracy >= 99.0
    assert len(container.encode(loose.tensors)) < len(container.encode(tight.tensors))


def test_tied_tensors_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight
    restored = compression.compress(model, compression.Budget(target_ratio=2.0)).state_dict()
    assert torch.equal(restored["0.weight"], restored["1.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of"),
        ({"max_drop": 1.0, "target_bytes": 3}, "give one of"),
        ({"target_bytes": -1}, "must not be negative"),
        ({"max_drop": float("nan")}, "must not be negative"),
        ({"target_ratio": 0.0}, "must be positive"),
    ],
)
def test_budgets_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compression.Budget(**options)  # type: ignore[arg-type]


def test_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(ConfigError, match="no file of 10 bytes"):
        compression.compress(network(), compression.Budget(target_bytes=10))
    with pytest.raises(ConfigError, match="needs a way to measure accuracy"):
        compression.compress(network(), compression.Budget(max_drop=1.0))
    with pytest.raises(ConfigError, match="calibration needs the module"):
        compression.compress(network().state_dict(), compression.Budget(target_bytes=500), batches=[inputs()])
    figures = iter([1.0])
    with pytest.raises(ConfigError, match="even fine steps"):
        compression.compress(
            network(),
            compression.Budget(max_drop=0.0),
            batches=[inputs()],
            accuracy=lambda _: next(figures, 0.0),
        )
