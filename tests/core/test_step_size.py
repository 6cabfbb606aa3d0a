from __future__ import annotations

import numpy as np
import pytest
import torch

from metaq.step_size import StepLearner


def test_step_sizes_move_as_adam_moves_their_logarithms():
    rng = np.random.default_rng(0)
    logarithms = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logarithms], lr=0.05, betas=(0.9, 0.99), eps=0.0)
    learner = StepLearner(3)
    step_sizes = np.ones(3)
    for _ in range(20):
        gradients = rng.normal(size=3)
        step_sizes *= learner.factors(gradients, 0.05)
        logarithms.grad = torch.from_numpy(gradients)
        adam.step()
    np.testing.assert_allclose(step_sizes, np.exp(logarithms.detach().numpy()), rtol=1e-12)


@pytest.mark.parametrize("gradient", [0.0, float("inf"), float("nan")])
def test_a_group_without_a_usable_gradient_keeps_its_step_size(gradient):
    factors = StepLearner(2).factors(np.array([gradient, 1.0]), 0.1)
    assert factors[0] == 1.0
    assert factors[1] < 1.0


def test_a_restored_learner_goes_on_alike():
    first, second = StepLearner(2), StepLearner(2)
    first.factors(np.array([1.0, -2.0]), 0.1)
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(first.factors(np.ones(2), 0.1), second.factors(np.ones(2), 0.1))
