"""The rate model of the context coder: what it tells of every weight, and what the regulariser makes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from metaq import BucketConfig, ConfigError, EntropyRegularizer, RegularizerConfig
from metaq.coding.chunks import StreamShape
from metaq.coding.context.small import SmallCoder, flag_probabilities
from metaq.entropy.objective import LEAST_FIRST_BITS
from metaq.entropy.passes.dispatch import TensorPairs
from metaq.entropy.passes.grids import GridSet
from metaq.regularizer.context_prices import ContextPrices
from metaq.tensors.grid import BucketGrid

CENTRAL, ALPHABET = 3, 7
GRID = BucketGrid(center=0.0, radius=0.5 * ALPHABET, count=ALPHABET)
"""With a step size of one."""


def sparse_indices(rows: int, columns: int, *, live_columns: int, share: float, seed: int) -> NDArray[np.int32]:
    """Indices of which `share` of those in the first columns are one above the central one, all others central."""
    generator = np.random.default_rng(seed)
    hits = generator.random((rows, columns)) < share
    hits[:, live_columns:] = False
    return (CENTRAL + hits).astype(np.int32)


def flags_of(indices: NDArray[np.int32]) -> NDArray[np.float64]:
    shape = StreamShape(count=indices.size, alphabet_size=ALPHABET, row_length=indices.shape[1])
    (probabilities,) = flag_probabilities([indices.reshape(-1)], [shape])
    return probabilities.reshape(indices.shape)


def test_probabilities_of_flags_account_for_the_bytes_of_the_coder() -> None:
    # Rows of three get no decision of their own, and a prediction does not help.
    indices = sparse_indices(2000, 3, live_columns=3, share=0.05, seed=0)
    shape = StreamShape(count=indices.size, alphabet_size=ALPHABET, row_length=3)
    hits, probabilities = indices != CENTRAL, flags_of(indices)
    flag_bits = -np.log2(np.where(hits, probabilities, 1 - probabilities)).sum()
    file_bits = 8 * len(SmallCoder().encode_chunk([indices.reshape(-1)], [shape]))
    assert flag_bits < file_bits < 1.05 * flag_bits + 40


def test_a_weight_among_zeros_is_less_likely_than_one_among_others() -> None:
    indices = sparse_indices(400, 12, live_columns=4, share=0.4, seed=1)
    probabilities = flags_of(indices)[200:]
    assert probabilities[:, :4].mean() == pytest.approx(0.4, abs=0.08)
    assert probabilities[:, 4:].mean() < 0.02


def test_rows_of_zeros_share_the_probability_that_they_are_not() -> None:
    indices = sparse_indices(300, 20, live_columns=20, share=0.5, seed=2)
    indices[1::2] = CENTRAL
    probabilities = flags_of(indices)[100:]
    assert probabilities[1::2] * 20 == pytest.approx(0.5, abs=0.15)
    assert probabilities[::2].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_surplus_is_added_beside_the_attractor_alone_and_never_below_the_least(dtype: torch.dtype) -> None:
    columns = sparse_indices(400, 12, live_columns=4, share=0.4, seed=1) - CENTRAL
    weight = torch.tensor(columns, dtype=dtype)
    weight[0, :4] = torch.tensor([0.25, -0.75, 1.25, 0.0])
    weight[0, 11] = 0.25
    gradient = torch.zeros_like(weight)
    prices, grids = ContextPrices(["only"], [weight]), GridSet.of([GRID])
    prices.refresh([weight], grids)
    slopes = 3.0 * (torch.arange(ALPHABET - 1, dtype=torch.float64)[None] - CENTRAL + 0.5).sign()
    prices.add_slopes(TensorPairs([weight], [gradient], [0]), grids, slopes, hysteresis=0.5, strength=0.1)
    (surplus,) = prices.state_dict()["surplus"]
    bits = surplus.clamp(min=LEAST_FIRST_BITS - 3)
    assert gradient[0, 0] == pytest.approx(float(0.1 * 1.5 * bits[0, 0]))
    assert gradient[0, 1] == pytest.approx(float(-0.1 * 0.5 * bits[0, 1]))
    assert gradient[0, 2] == gradient[0, 3] == 0
    assert gradient[0, 11] == pytest.approx(float(0.1 * 1.5 * bits[0, 11]))
    assert gradient[weight.abs() >= 1].abs().sum() == 0
    assert surplus[200:, :4].mean() < 0 < surplus[200:, 4:].min()


def test_tensors_are_asked_in_the_order_of_a_file() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(30, 8, generator=generator) for name in ("b", "a", "c")}
    grids = GridSet.of([GRID] * 3)
    in_order = {name: tensors[name] for name in sorted(tensors)}
    given, sorted_prices = (ContextPrices(list(named), list(named.values())) for named in (tensors, in_order))
    given.refresh(list(tensors.values()), grids)
    sorted_prices.refresh(list(in_order.values()), grids)
    by_name = dict(zip(in_order, sorted_prices.state_dict()["surplus"], strict=True))
    for name, surplus in zip(tensors, given.state_dict()["surplus"], strict=True):
        assert torch.equal(surplus, by_name[name])


def trained(rate_model: str, loss_of: Callable[[nn.Module], torch.Tensor]) -> NDArray[np.int64]:
    torch.manual_seed(0)
    model = nn.Linear(40, 40, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    config = RegularizerConfig(strength=1e-5, rate_model=rate_model, warmup=0.0, buckets=BucketConfig(count=15))
    regularizer = EntropyRegularizer(model, config, total_steps=800).attach(optimizer)
    for _ in range(800):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    regularizer.finish()
    return np.count_nonzero(model.weight.detach().numpy(), axis=0)


def test_training_by_it_empties_columns() -> None:
    """Two thirds of the columns are hardly needed: those go first where the prices tell columns apart."""
    scales = torch.cat([torch.full((14,), 1.0), torch.full((26,), 0.45)])
    inputs = scales * torch.randn(256, 40, generator=torch.Generator().manual_seed(1))
    teacher = torch.randn(40, 40, generator=torch.Generator().manual_seed(2)) * 0.05

    def loss_of(model: nn.Module) -> torch.Tensor:
        return (model(inputs) - inputs @ teacher.T).square().mean()

    by_histogram, by_context = trained("histogram", loss_of), trained("context", loss_of)
    assert by_context[:14].sum() > 0.95 * by_histogram[:14].sum()
    assert by_context[14:].sum() < 0.85 * by_histogram[14:].sum()


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "spread"},
        {"grouping": "global"},
        {"buckets": BucketConfig(rule="fixed", center=0.0, radius=1.0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_it_does_not_go_with_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="rate_model"):
        RegularizerConfig(rate_model="context", **changes)  # type: ignore[arg-type]
