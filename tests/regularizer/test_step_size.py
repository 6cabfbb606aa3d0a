from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from metaq import BucketConfig, EntropyRegularizer, RegularizerConfig
from metaq.regularizer.step_size import StepLearner

ALL = torch.ones(3, dtype=torch.bool)


def test_step_sizes_move_as_adam_moves_their_logarithms():
    rng = np.random.default_rng(0)
    logarithms = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logarithms], lr=0.05, betas=(0.9, 0.99), eps=0.0)
    learner = StepLearner(3)
    step_sizes = torch.ones(3, dtype=torch.float64)
    for _ in range(20):
        gradients = torch.from_numpy(rng.normal(size=3))
        step_sizes *= learner.factors(gradients, 0.05, ALL)
        logarithms.grad = gradients
        adam.step()
    torch.testing.assert_close(step_sizes, logarithms.detach().exp(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gradient", [0.0, float("inf"), float("nan")])
def test_a_group_without_a_usable_gradient_keeps_its_step_size(gradient):
    factors = StepLearner(2).factors(torch.tensor([gradient, 1.0]), 0.1, ALL[:2])
    assert factors[0] == 1.0
    assert factors[1] < 1.0


def test_a_restored_learner_goes_on_alike():
    first, second = StepLearner(2), StepLearner(2)
    first.factors(torch.tensor([1.0, -2.0]), 0.1, ALL[:2])
    second.load_state_dict(first.state_dict())
    factors = [learner.factors(torch.ones(2), 0.1, ALL[:2]) for learner in (first, second)]
    assert torch.equal(*factors)


def test_groups_that_do_not_step_and_gradients_that_are_not_finite_leave_no_trace():
    alone, both = StepLearner(2), StepLearner(2)
    first = torch.tensor([True, False])
    for gradient in (1.0, -0.5, 2.0):
        expected = alone.factors(torch.tensor([gradient, 0.0]), 0.1, ALL[:2])
        assert both.factors(torch.tensor([torch.nan, 7.0]), 0.1, first).tolist() == [1.0, 1.0]
        found = both.factors(torch.tensor([gradient, 7.0]), 0.1, first)
        assert found.tolist() == [float(expected[0]), 1.0]
    assert both.state_dict()["steps"].tolist() == [3.0, 0.0]


def test_the_learning_rate_follows_the_optimizer_up_to_a_bound():
    learner = StepLearner(4)
    assert learner.bounded(1e-3).tolist() == [0, 0, 0, 0]
    moved = torch.tensor([1e-8, 1.0, 0.0, torch.nan], dtype=torch.float64)
    learner.see(moved, torch.tensor([4.0, 4.0, 4.0, 4.0], dtype=torch.float64))
    assert learner.bounded(1e-3).tolist() == pytest.approx([0.5e-4, 1e-3, 0, 0])
    # A step that was left out, as with gradients that overflow, tells nothing.
    learner.see(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    assert learner.bounded(1e-3).tolist() == pytest.approx([0.5e-4, 1e-3, 0, 0])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize(("rate", "moves"), [(0.0, False), (1e-2, True)])
def test_fine_tuning_scales_tensors_no_more_than_its_optimizer_moves_them(optimizer, rate, moves):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs, targets = torch.randn(64, 12), torch.randn(64, 4) * 5
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trained = optimizer(model.parameters(), lr=rate)
    regularizer = EntropyRegularizer(
        model, RegularizerConfig(strength=1e-9, warmup=0.0, buckets=BucketConfig(step_scale=0.02)), total_steps=300
    ).attach(trained)
    for _ in range(300):
        trained.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        trained.step()
    regularizer.finish()
    ratios = [float(now.detach().norm() / then.norm()) for now, then in zip(model.parameters(), before, strict=True)]
    if moves:
        assert max(ratios) > 1.2
    else:
        assert ratios == pytest.approx([1] * 4, abs=0.01)
