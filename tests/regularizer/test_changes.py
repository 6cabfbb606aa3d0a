"""Training towards a small update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metaq
from metaq import EntropyRegularizer, RegularizerConfig
from metaq.errors import ConfigError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.BatchNorm1d(32), nn.Linear(32, 4))


def trained(model: nn.Module, regularizer: EntropyRegularizer, steps: int, optimizer=None) -> None:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer.attach(optimizer)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(64, 12, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1)).backward()
        optimizer.step()
    regularizer.finish()


def test_the_update_gives_what_the_model_computes(tmp_path):
    model, base = network(), network().state_dict()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(model, base=base, total_steps=150, target_bytes=400)
    trained(model, regularizer, 150, optimizer)
    path = tmp_path / "update.metaq"
    report = regularizer.save(path)
    assert report.file_bytes == path.stat().st_size <= 400
    loaded = metaq.load(path, base=base)
    state = model.state_dict()
    assert loaded.keys() == state.keys() == base.keys()
    for name, parameter in model.named_parameters():
        if not name.startswith("2."):
            assert torch.equal(loaded[name], parameter), name
    assert any(not torch.equal(loaded[name], base[name]) for name in base)
    assert regularizer.report().bits > 0
    fresh = network()
    fresh.load_state_dict(loaded)
    inputs = torch.randn(50, 12)
    difference = (fresh.eval()(inputs) - model.eval()(inputs)).abs().max()
    assert difference < 0.05 * model(inputs).abs().max()


def test_a_file_can_be_saved_while_training_goes_on(tmp_path):
    model = network()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    regularizer = EntropyRegularizer(model, base=base, total_steps=20, target_bytes=500)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    regularizer.attach(optimizer)
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(8, 12)).square().sum().backward()
        optimizer.step()
    regularizer.save(tmp_path / "update.metaq")
    assert metaq.load(tmp_path / "update.metaq", base=base).keys() == base.keys()
    with pytest.raises(ConfigError, match="save"):
        regularizer.state()


def test_a_base_of_another_shape_is_refused():
    base = network().state_dict()
    base["0.weight"] = torch.zeros(3, 3)
    with pytest.raises(ConfigError, match=r"0\.weight"):
        EntropyRegularizer(network(), base=base, total_steps=10, target_bytes=500)


def test_files_of_one_training_keep_the_order_of_their_units(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    # With a goal, a file that is only small enough in another order has that.
    regularizer = EntropyRegularizer(model, RegularizerConfig(strength=1e-4), total_steps=300).attach(optimizer)
    generator = torch.Generator().manual_seed(1)
    for step in range(300):
        inputs = torch.randn(64, 12, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), inputs[:, :4].argmax(dim=1)).backward()
        optimizer.step()
        if step in (280, 285):
            regularizer.save(tmp_path / f"{step}.metaq")
    update = metaq.diff(tmp_path / "280.metaq", tmp_path / "285.metaq")
    assert update.file_bytes < 0.5 * (tmp_path / "285.metaq").stat().st_size


def test_a_goal_counts_what_is_trained_but_takes_no_part():
    model, base = network(), network().state_dict()
    config = RegularizerConfig(include=("0.*",))
    with pytest.raises(ConfigError, match="cannot be reached"):
        EntropyRegularizer(model, config, base=base, total_steps=10, target_bytes=300)
    assert model.state_dict().keys() == base.keys()
    assert all(torch.allclose(tensor, base[name]) for name, tensor in model.state_dict().items())
    frozen = network()
    frozen[3].requires_grad_(False)
    frozen[2].requires_grad_(False)
    EntropyRegularizer(frozen, config, base=base, total_steps=10, target_bytes=300)


def test_tied_tensors_that_take_no_part_stay(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 4))
    model[2].weight = model[1].weight
    for layer in (model[1], model[2]):
        layer.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = {**state, "2.weight": state["1.weight"]}
    regularizer = EntropyRegularizer(model, base=base, total_steps=30, target_bytes=300)
    trained(model, regularizer, 30)
    regularizer.save(tmp_path / "update.metaq")
    loaded = metaq.load(tmp_path / "update.metaq", base=base)
    assert loaded.keys() == base.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
