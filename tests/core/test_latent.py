from __future__ import annotations

import numpy as np
import torch

from metaq import BucketGrid
from metaq.latent import LatentWeights
from metaq.passes import GridSet

GRIDS = GridSet.of([BucketGrid(center=0.0, radius=1.5, count=3), BucketGrid(center=0.0, radius=3.0, count=3)])


def made() -> tuple[list[torch.Tensor], LatentWeights]:
    """Three tensors of two dtypes, those of one dtype not side by side."""
    parameters = [
        torch.tensor([[0.6, -0.2]]),
        torch.tensor([1.4], dtype=torch.float64),
        torch.tensor([-0.9, 0.1, 0.7]),
    ]
    latent = LatentWeights(parameters, [0, 1, 0])
    latent.begin(GRIDS)
    return parameters, latent


def test_tensors_of_several_dtypes_keep_their_order_shapes_and_grids():
    parameters, latent = made()
    before = [parameter.clone() for parameter in parameters]
    latent.snap(GRIDS, freeze_above=None)
    assert [parameter.tolist() for parameter in parameters] == [[[1.0, 0.0]], [2.0], [-1.0, 0.0, 1.0]]
    for kept, expected in zip(latent.tensors(), before, strict=True):
        torch.testing.assert_close(kept, expected, rtol=0, atol=0)
    latent.restore(np.array([2.0, 3.0]))
    for parameter, expected, factor in zip(parameters, before, (2.0, 3.0, 2.0), strict=True):
        torch.testing.assert_close(parameter, factor * expected)


def test_a_state_is_taken_over():
    parameters, latent = made()
    latent.let_some_move(0.5, seed=1)
    copy = LatentWeights([torch.zeros_like(parameter) for parameter in parameters], [0, 1, 0])
    copy.load_state_dict(latent.state_dict())
    assert copy.frozen_count == latent.frozen_count > 0
    for taken, given in zip(copy.tensors(), latent.tensors(), strict=True):
        assert torch.equal(taken, given)
