from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from metaq import ConfigError, EntropyRegularizer, RegularizerConfig

STEPS = 50


def make(**goal):
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    goal = goal or {"config": RegularizerConfig(strength=1e-4)}
    return model, optimizer, EntropyRegularizer(model, total_steps=STEPS, **goal).attach(optimizer)


def train(model, optimizer, steps):
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        (model(torch.randn(4, 8, generator=generator)) - 3).square().mean().backward()
        optimizer.step()


def saved(training):
    stream = io.BytesIO()
    torch.save(training, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved])
@pytest.mark.parametrize("goal", [{}, {"target_bits_per_weight": 7.0}])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_copy_of_all_three_trains_as_the_original(copied, goal, order):
    original = make(**goal)
    train(*original[:2], 20)
    copies = copied(tuple(original[place] for place in order))
    copies = tuple(copies[order.index(place)] for place in range(3))
    for model, optimizer, regularizer in (original, copies):
        train(model, optimizer, STEPS - 20)
        assert regularizer.steps == STEPS
        regularizer.finish()
    assert all(
        torch.equal(one, other) for one, other in zip(original[0].parameters(), copies[0].parameters(), strict=True)
    )
    assert copies[0].weight.unique().numel() < 64
    assert copies[0].weight.data_ptr() != original[0].weight.data_ptr()


def test_a_copy_without_the_regulariser_trains_as_usual_and_leaves_the_original_alone():
    model, optimizer, regularizer = make()
    train(model, optimizer, 20)
    held = copy.deepcopy(model.state_dict())
    train(*copy.deepcopy((model, optimizer)), 5)
    assert regularizer.steps == 20
    assert all(torch.equal(held[name], tensor) for name, tensor in model.state_dict().items())


def test_a_copy_that_is_detached_leaves_the_original_attached():
    model, optimizer, regularizer = make()
    copied = copy.deepcopy((model, optimizer, regularizer))
    copied[2].detach()
    train(model, optimizer, 1)
    train(*copied[:2], 1)
    assert (regularizer.steps, copied[2].steps) == (1, 0)
    again = copy.deepcopy(copied)
    train(*again[:2], 1)
    again[2].attach(again[1])
    train(*again[:2], 1)
    assert again[2].steps == 1


@pytest.mark.parametrize("steps", [5, 30])
def test_an_optimiser_that_is_put_back_without_the_regulariser_is_noticed(steps):
    model, optimizer, regularizer = make()
    train(model, optimizer, 10)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict(), regularizer.state_dict()))
    train(model, optimizer, steps)
    train_on = copy.deepcopy((model, optimizer, regularizer))
    model.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"put back.* call regularizer\.load_state_dict"):
            train(model, optimizer, 1)
    regularizer.load_state_dict(kept[2])
    train(model, optimizer, steps)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), train_on[0].parameters(), strict=True))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_states_are_put_back_in_any_order(order):
    training = make()
    train(*training[:2], 20)
    kept = [copy.deepcopy(part.state_dict()) for part in training]
    train(*training[:2], 10)
    resumed = make()
    train(*resumed[:2], 3)
    for part in order:
        resumed[part].load_state_dict(kept[part])
    train(*resumed[:2], 10)
    assert all(
        torch.equal(one, other) for one, other in zip(training[0].parameters(), resumed[0].parameters(), strict=True)
    )


def test_a_fresh_regulariser_takes_an_optimiser_with_a_past():
    model, optimizer, regularizer = make()
    past = torch.optim.Adam(model.parameters(), 1e-2)
    train(model, past, 3)
    optimizer.load_state_dict(past.state_dict())
    train(model, optimizer, 2)
    assert regularizer.steps == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("goal", [{}, {"target_bits_per_weight": 7.0}])
def test_a_compiled_step_does_what_the_step_does(goal):
    plain, compiled = make(**goal), make(**goal)
    train(*plain[:2], STEPS)
    model, optimizer, regularizer = compiled
    step = torch.compile(optimizer.step, backend="eager")
    for number in range(STEPS):
        optimizer.zero_grad()
        (model(torch.randn(4, 8, generator=torch.Generator().manual_seed(number))) - 3).square().mean().backward()
        step()
    assert regularizer.steps == STEPS
    torch._dynamo.reset()
    for one, other in zip(plain[0].parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
