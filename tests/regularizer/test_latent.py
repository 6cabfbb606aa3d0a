from __future__ import annotations

import pytest
import torch

from metaq import BucketGrid
from metaq.entropy.passes.grids import GridSet
from metaq.regularizer.latent import LatentWeights

GRIDS = GridSet.of([BucketGrid(center=0.0, radius=1.5, count=3), BucketGrid(center=0.0, radius=3.0, count=3)])


def made() -> tuple[list[torch.Tensor], LatentWeights]:
    """Three tensors of two dtypes, those of one dtype not side by side."""
    parameters = [
        torch.tensor([[0.6, -0.2]]),
        torch.tensor([1.4], dtype=torch.float64),
        torch.tensor([-0.9, 0.1, 0.7]),
    ]
    latent = LatentWeights(parameters, [0, 1, 0], [0, 0, 0])
    latent.begin(GRIDS)
    return parameters, latent


def test_tensors_of_several_dtypes_keep_their_order_shapes_and_grids():
    parameters, latent = made()
    before = [parameter.clone() for parameter in parameters]
    latent.snap(parameters, GRIDS, 0, freeze_above=None)
    assert [parameter.tolist() for parameter in parameters] == [[[1.0, 0.0]], [2.0], [-1.0, 0.0, 1.0]]
    for kept, expected in zip(latent.tensors(), before, strict=True):
        torch.testing.assert_close(kept, expected, rtol=0, atol=0)
    latent.restore(parameters, torch.tensor([2.0, 3.0]), 0)
    for parameter, expected, factor in zip(parameters, before, (2.0, 3.0, 2.0), strict=True):
        torch.testing.assert_close(parameter, factor * expected)


def test_a_state_is_taken_over():
    parameters, latent = made()
    for state in latent.state_of_tensors():
        state["frozen"][:1] = True
    copy = LatentWeights([torch.zeros_like(parameter) for parameter in parameters], [0, 1, 0], [0, 1, 1])
    copy.load_state_of_tensors(latent.state_of_tensors())
    assert copy.frozen_count([0, 1, 2]) == latent.frozen_count([0, 1, 2]) > 0
    assert copy.frozen_count([0]) + copy.frozen_count([1, 2]) == copy.frozen_count([0, 1, 2])
    for taken, given in zip(copy.tensors(), latent.tensors(), strict=True):
        assert torch.equal(taken, given)


def test_one_optimiser_leaves_the_tensors_of_another_alone():
    parameters = [torch.tensor([0.6]), torch.tensor([-0.9])]
    latent = LatentWeights(parameters, [0, 0], [0, 1])
    latent.begin(GRIDS)
    latent.snap(parameters, GRIDS, 1, freeze_above=None)
    assert [parameter.tolist() for parameter in parameters] == [[pytest.approx(0.6)], [-1.0]]
    latent.restore(parameters, torch.tensor([2.0, 1.0]), 1)
    assert [tensor.tolist() for tensor in latent.tensors()] == [[pytest.approx(0.6)], [pytest.approx(-1.8)]]


def test_weights_that_travel_are_not_frozen_and_those_that_oscillate_are():
    grids = GridSet.of([BucketGrid(center=0.0, radius=50.5, count=101)])
    parameters = [torch.tensor([0.0, 0.4])]
    latent = LatentWeights(parameters, [0], [0])
    latent.begin(grids)
    for step in range(1, 26):
        latent.restore(parameters, torch.ones(1), 0)
        parameters[0].copy_(torch.tensor([1.0 * step, 0.4 if step % 2 else 0.6]))
        latent.snap(parameters, grids, 0, freeze_above=0.01)
    (state,) = latent.state_of_tensors()
    assert state["frozen"].tolist() == [False, True]


def test_other_step_sizes_are_no_moves():
    grids = GridSet.of([BucketGrid(center=0.0, radius=5.5, count=11)])
    parameters = [torch.tensor([3.0, -2.0])]
    latent = LatentWeights(parameters, [0], [0])
    latent.begin(grids)
    factors = torch.tensor([2.0], dtype=torch.float64)
    coarser = grids.rescaled(factors)
    latent.rescale(factors, coarser)
    latent.snap(parameters, coarser, 0, freeze_above=None)
    (state,) = latent.state_of_tensors()
    assert not state["flips"].any()
    assert state["average"].tolist() == [pytest.approx(6.5, abs=0.02), pytest.approx(4.0, abs=0.02)]
