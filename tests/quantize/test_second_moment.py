"""Second moments of vectors that few samples tell of."""

import numpy as np
import pytest
import torch

from metaq.quantize.rdo import unit_factors
from metaq.quantize.second_moment import SecondMoment


def estimate(vectors: torch.Tensor) -> torch.Tensor:
    moment = SecondMoment(vectors.shape[2])
    for some in vectors.split(3):
        moment.add(some)
    assert moment.samples == len(vectors)
    assert moment.total == pytest.approx((vectors.flatten(0, 1).T @ vectors.flatten(0, 1)).numpy())
    return moment.shrunk() / moment.samples


@pytest.mark.parametrize("samples", [2, 8, 50])
def test_few_samples_are_believed_as_far_as_they_agree(samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 3, 12)
    exact = mixing @ mixing.T
    errors = {"sum": 0.0, "estimate": 0.0}
    for _ in range(40):
        vectors = torch.randn(samples, 1, 12, generator=generator, dtype=torch.float64) @ mixing.T
        found = estimate(vectors)
        plain = (vectors.mT @ vectors).mean(dim=0)
        assert torch.allclose(found.diagonal(), plain.diagonal())
        errors["sum"] += float((plain - exact).square().sum())
        errors["estimate"] += float((found - exact).square().sum())
    assert errors["estimate"] < errors["sum"] * (0.95 if samples < 50 else 1.0)


def test_samples_that_are_alike_are_believed() -> None:
    vectors = torch.tensor([[[1.0, 2.0, -1.0]]], dtype=torch.float64).expand(10, -1, -1)
    np.testing.assert_allclose(estimate(vectors), vectors[0].T @ vectors[0])


def test_what_is_independent_is_taken_for_that() -> None:
    vectors = torch.randn(3000, 1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = estimate(vectors)
    assert float((found - torch.diag(found.diagonal())).abs().max()) < 0.01
    single = estimate(vectors[:1])
    assert torch.equal(single, torch.diag(single.diagonal()))


@pytest.mark.parametrize("shape", [(7, 2, 9), (7, 9, 2)])
def test_vectors_of_a_sample_are_no_samples(shape: tuple[int, int, int]) -> None:
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    by_sample = SecondMoment(shape[2])
    for each in vectors:
        by_sample.add_sample(each.T @ each)
    assert estimate(vectors) == pytest.approx((by_sample.shrunk() / len(vectors)).numpy())


def test_squares_alone_are_kept_as_they_are() -> None:
    moment = SecondMoment(3, is_coupled=False)
    moment.add(torch.tensor([[[1.0, 2.0, 3.0]]]))
    assert moment.shrunk().tolist() == [1, 4, 9]
    moment.add(torch.tensor([[[torch.inf, 2.0, 3.0]]]))
    assert not moment.is_finite


def test_the_curvature_of_units_does_not_depend_on_their_units() -> None:
    matrix = np.cov(np.random.default_rng(3).normal(size=(5, 40)))
    units = np.array([1e-2, 1.0, 1.0, 10.0, 100.0])
    coupling, scales = unit_factors(matrix)
    others, other_scales = unit_factors(matrix * np.outer(units, units))
    np.testing.assert_allclose(others, coupling * units[:, None] / units, rtol=0.05, atol=1e-9)
    np.testing.assert_allclose(other_scales[1:], (scales * units**2)[1:], rtol=0.05)


def test_sums_beyond_the_range_leave_the_diagonal() -> None:
    vectors = torch.full((4, 1, 400), 1e18)
    moment = SecondMoment(400)
    moment.add(vectors)
    assert moment.is_finite
    assert torch.equal(moment.shrunk(), torch.diag(moment.total.diagonal()))


@pytest.mark.parametrize("shape", [(0, 1, 3), (2, 0, 3)])
def test_nothing_is_known_of_no_vectors(shape: tuple[int, int, int]) -> None:
    moment = SecondMoment(3)
    moment.add(torch.zeros(shape))
    assert torch.equal(moment.shrunk(), torch.zeros(3, 3, dtype=torch.float64))
