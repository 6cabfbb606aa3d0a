from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import SpreadDual
from metaq.tensors.grid import BucketGrid

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "concentrated": lambda rng, n: rng.normal(0, 0.05, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.5, -0.7, 0.7) + rng.normal(0, 0.08, n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
}


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., SpreadDual]:
    def make(kind="bimodal", n=200, count=8, *, seed=0, scale=1.0, weights=None, **options):
        if weights is None:
            weights = scale * DISTRIBUTIONS[kind](np.random.default_rng(seed), n)
        grid = BucketGrid(center=0.0, radius=scale, count=count)
        return SpreadDual(statistics=cell_statistics([torch.as_tensor(weights)], grid), **options)

    return make
