from __future__ import annotations

import pytest
import torch
from torch import nn

from metaq import ConfigError, EntropyRegularizer, RegularizerConfig, load

STEPS = 100
STRENGTH = RegularizerConfig(strength=1e-4)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5))


def step(model, *optimizers):
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), inputs.argmax(1) % 5).backward()
    for optimizer in optimizers:
        optimizer.step()


def steps_until_a_refresh(model, optimizer):
    for _ in range(26):
        step(model, optimizer)


@pytest.mark.parametrize("goal", [{"config": STRENGTH}, {"target_ratio": 4}])
@pytest.mark.parametrize("unfrozen_at", [5, 60])
@pytest.mark.parametrize("is_given_at_once", [False, True])
def test_what_is_frozen_at_first_is_trained_and_quantised_with_the_rest(tmp_path, goal, unfrozen_at, is_given_at_once):
    model = make_model()
    regularizer = EntropyRegularizer(model, total_steps=STEPS, **goal)
    model[0].requires_grad_(False)
    first = model[0].weight.detach().clone()
    optimizer = torch.optim.Adam((model if is_given_at_once else model[2]).parameters(), 1e-2)
    regularizer.attach(optimizer)
    for number in range(STEPS):
        if number == unfrozen_at:
            with regularizer.latent_weights():
                assert torch.equal(model[0].weight, first)
            model.requires_grad_(True)
            if not is_given_at_once:
                optimizer.add_param_group({"params": model[0].parameters()})
        step(model, optimizer)
    with regularizer.latent_weights():
        assert float((model[0].weight.detach() - first).abs().max()) > 1e-2
    regularizer.finish()
    report = regularizer.save(tmp_path / "model.metaq")
    assert report.coverage.share == 1.0
    restored = make_model()
    restored.load_state_dict(load(tmp_path / "model.metaq"))
    inputs = torch.randn(16, 8)
    torch.testing.assert_close(restored(inputs), model(inputs))
    places = model[0].weight.detach() / regularizer.grids()["0.weight"].step_size
    assert float((places - places.round()).abs().max()) < 1e-3


def test_a_second_optimiser_can_take_over_a_parameter_amid_the_training():
    model = make_model()
    optimizers = [torch.optim.SGD([layer.weight, layer.bias], 0.1) for layer in (model[0], model[2])]
    regularizer = EntropyRegularizer(model, STRENGTH, total_steps=STEPS).attach(*optimizers)
    for number in range(60):
        if number == 40:
            optimizers[1].add_param_group({"params": optimizers[0].param_groups[0]["params"].pop()})
        step(model, *optimizers)
    with regularizer.latent_weights():
        latent = model[0].bias.detach().clone()
    step(model, *optimizers)
    with regularizer.latent_weights():
        assert not torch.equal(model[0].bias, latent)
    assert model[0].bias.unique().numel() < 32


def test_what_becomes_trainable_after_all_is_refused_with_what_to_do():
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[2].parameters(), 1e-2)
    EntropyRegularizer(model, STRENGTH, total_steps=STEPS).attach(optimizer)
    for _ in range(3):
        step(model, optimizer)
    model.requires_grad_(True)
    step(model, optimizer)
    optimizer.add_param_group({"params": model[0].parameters()})
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"0\.weight: is trained, but .* freeze .* or add it to `exclude`"):
            step(model, optimizer)


@pytest.mark.parametrize(
    "rules",
    [
        {"config": RegularizerConfig(strength=1e-4, exclude=("0.*",))},
        {"config": STRENGTH, "filter_fn": lambda name, _: name.startswith("2.")},
    ],
)
def test_what_is_left_out_may_become_trainable_or_be_replaced(rules):
    model = make_model()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[2].parameters(), 1e-2)
    regularizer = EntropyRegularizer(model, total_steps=STEPS, **rules).attach(optimizer)
    other = nn.Linear(4, 4)
    for number in range(STEPS):
        if number == 10:
            model.requires_grad_(True)
            optimizer.add_param_group({"params": [*model[0].parameters(), *other.parameters()]})
        step(model, optimizer)
    regularizer.finish()
    assert set(regularizer.grids()) == {"2.weight", "2.bias"}


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("steps", [0, 30])
def test_a_replaced_layer_is_noticed(tmp_path, is_given, steps):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    regularizer = EntropyRegularizer(model, STRENGTH, total_steps=STEPS).attach(optimizer)
    for _ in range(steps):
        step(model, optimizer)
    model[2] = nn.Linear(32, 5)
    if is_given:
        optimizer.add_param_group({"params": model[2].parameters()})
    told = r"2\.weight: the model has another tensor or none .* build a new regularizer"
    with pytest.raises(ConfigError, match=told):
        regularizer.save(tmp_path / "model.metaq")
    with pytest.raises(ConfigError, match=told):
        steps_until_a_refresh(model, optimizer)
    regularizer.steps = 1
    with pytest.raises(ConfigError, match=told):
        regularizer.finish()


def views(*read):
    """A model whose weights are parts of the same memory."""
    model = nn.Module()
    memory = torch.randn(16, 16)
    for number, part in enumerate(read):
        model.register_parameter(f"part{number}", nn.Parameter(part(memory)))
    return model


@pytest.mark.parametrize(
    "read",
    [
        (lambda memory: memory, lambda memory: memory.t()),
        (lambda memory: memory[:10], lambda memory: memory[9:]),
        (lambda memory: memory[:, :9], lambda memory: memory[2:4, 8:]),
        (lambda memory: memory, lambda memory: memory[3:5, 3:6]),
    ],
)
def test_memory_that_parameters_share_and_read_differently_is_refused(read):
    with pytest.raises(ConfigError, match=r"part\d: shares memory with part\d"):
        EntropyRegularizer(views(*read), STRENGTH, total_steps=STEPS)
    with pytest.raises(ConfigError, match="part1: shares memory with part0"):
        EntropyRegularizer(views(lambda memory: memory[:8], *read[:1]), STRENGTH, total_steps=STEPS)
    EntropyRegularizer(views(*read), RegularizerConfig(strength=1e-4, exclude=("part1",)), total_steps=STEPS)


def test_parts_of_memory_that_do_not_meet_are_trained():
    for read in ((lambda memory: memory[:, :8], lambda memory: memory[:, 8:]), (lambda memory: memory,) * 2):
        EntropyRegularizer(views(*read), STRENGTH, total_steps=STEPS)
    with pytest.raises(ConfigError, match="part0: several of its elements are the same memory"):
        EntropyRegularizer(views(lambda memory: memory[:1].expand(8, 16)), STRENGTH, total_steps=STEPS)
