"""Batch normalisation on grids: how wrong it gets, what it costs, and what is left alone."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from metaq import container
from metaq.compression import pipeline
from metaq.errors import ConfigError
from metaq.model.checkpoint import restore
from metaq.model.norms import ROUGH_TOLERANCE, holding, rounded_norms

KINDS = ("running_var", "running_mean", "weight", "bias")


def norm(channels: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    """A layer as training leaves it: variances of several magnitudes, and some channels that are always zero."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.BatchNorm2d(channels).to(dtype)
    with torch.no_grad():
        layer.running_var.copy_(torch.empty(channels).log_normal_(-1, 1.5, generator=generator))
        layer.running_mean.copy_(layer.running_var.sqrt() * torch.randn(channels, generator=generator))
        layer.weight.copy_(torch.rand(channels, generator=generator) + 0.3)
        layer.bias.copy_(torch.randn(channels, generator=generator) / 3)
        layer.running_var[: channels // 8] = 0
        layer.running_mean[: channels // 8] = 0
    return layer.eval()


def rounded(layer: nn.Module, **options: object) -> nn.Module:
    copy = nn.BatchNorm2d(layer.num_features, affine=layer.affine).to(layer.running_var.dtype)
    copy.load_state_dict({**layer.state_dict(), **rounded_norms(layer.state_dict(), **options).values})
    return copy.eval()


@torch.no_grad()
def relative_error(layer: nn.BatchNorm2d, other: nn.Module) -> float:
    """Of the outputs for inputs that have the statistics of `layer`."""
    generator = torch.Generator().manual_seed(9)
    noise = torch.randn(2000, layer.num_features, generator=generator)
    inputs = (layer.running_mean + noise * layer.running_var.sqrt())[:, :, None, None]
    expected = layer(inputs)
    return float((other(inputs) - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("taken", [(), ("weight",), ("bias",), ("weight", "bias"), ("running_mean", "running_var")])
def test_outputs_are_as_wrong_as_allowed_and_hardly_less(tolerance: float, taken: tuple[str, ...]) -> None:
    layer = norm()
    error = relative_error(layer, rounded(layer, taken=taken, tolerance=tolerance))
    assert tolerance / 8 < error < tolerance * 1.05


def test_statistics_are_rougher_where_the_rest_makes_up_for_them() -> None:
    state = norm().state_dict()
    together, alone = rounded_norms(state), rounded_norms(state, taken=("weight", "bias"))
    assert together.grids.keys() == set(KINDS)
    assert alone.grids.keys() == {"running_mean", "running_var"}
    for name in alone.grids:
        assert together.grids[name].step_size >= 4 * alone.grids[name].step_size
    # In training mode, statistics are those of the batch; what rounding them has moved into γ and β stays small.
    live = state["running_var"] > 0
    moved = (together.values["weight"] / state["weight"])[live]
    assert float((moved - 1).square().mean().sqrt()) < 3 * ROUGH_TOLERANCE


def test_rounding_costs_little_more_than_a_byte_a_number() -> None:
    state = norm(512).state_dict()
    found = rounded_norms(state)
    values = {name: state[name] if name == "num_batches_tracked" else found.values[name] for name in state}
    assert len(container.encode(pipeline.to_tensors(values, grids=found.grids))) < 0.3 * 4 * 4 * 512


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_file_restores_what_was_rounded(dtype: torch.dtype) -> None:
    state = norm(dtype=dtype).state_dict()
    found = rounded_norms(state)
    values = {**state, **found.values}
    back = restore(pipeline.to_tensors(values, grids=found.grids))
    assert back.keys() == state.keys()
    for name, tensor in values.items():
        assert back[name].dtype == state[name].dtype
        assert torch.equal(back[name], tensor)
    assert float(found.values["running_var"].min()) >= 0


def test_what_is_rounded_stays_as_it_is_when_rounded_again() -> None:
    state = norm().state_dict()
    first = rounded_norms(state, taken=("weight", "bias"))
    again = rounded_norms({**state, **first.values}, taken=("weight", "bias"))
    assert all(torch.equal(first.values[name], again.values[name]) for name in first.values)


def test_channels_that_are_always_zero_stay_so() -> None:
    values = rounded_norms(norm().state_dict()).values
    assert not values["running_var"][:8].any()
    assert not values["running_mean"][:8].any()


def test_every_layer_of_a_model_is_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
    model.append(nn.InstanceNorm2d(4, track_running_stats=True))
    model.append(nn.BatchNorm2d(4, track_running_stats=False))
    with torch.no_grad():
        model[3].running_mean.uniform_()
    names = {f"1.{kind}" for kind in KINDS} | {
        f"{number}.running_{kind}" for number in (3, 4) for kind in ("mean", "var")
    }
    found = rounded_norms(model.state_dict())
    assert found.grids.keys() == found.values.keys() == names


@pytest.mark.parametrize(
    "changes",
    [
        {"running_var": torch.tensor([1.0, -1.0])},
        {"running_mean": torch.tensor([1.0, float("nan")])},
        {"weight": torch.tensor([float("inf"), 1.0])},
        {"bias": torch.ones(3)},
        {"weight": torch.zeros(2), "bias": torch.zeros(2)},
        {name: torch.zeros(0) for name in KINDS},
    ],
)
def test_what_is_no_usual_layer_is_left_alone(changes: dict[str, torch.Tensor]) -> None:
    state = {"0." + name: changes.get(name, torch.ones(2)) for name in KINDS}
    assert rounded_norms(state).grids == {}


def test_a_vector_that_no_grid_suits_is_kept_exactly() -> None:
    state = norm(4).state_dict()
    state["running_var"] = torch.tensor([1e30, 1e-3, 1.0, 2.0])
    state["running_mean"] = torch.zeros(4)
    found = rounded_norms(state, taken=("weight", "bias"))
    assert "running_var" not in found.grids


def test_a_tolerance_that_is_none_is_refused() -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="tolerance"):
            rounded_norms({}, tolerance=wrong)


def test_a_model_holds_other_values_for_a_while() -> None:
    layer = norm(4)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    values = {"running_mean": torch.full((4,), 7.0), "weight": torch.full((4,), 8.0)}
    with suppress(KeyboardInterrupt), holding(layer, values):
        assert torch.equal(layer.running_mean, values["running_mean"])
        assert torch.equal(layer.weight, values["weight"])
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
