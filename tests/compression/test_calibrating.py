"""Networks and inputs that make calibration hard: NaN, arguments by keyword, random numbers, no gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from metaq import ConfigError, compress
from metaq.compression.quality import kept
from metaq.compression.search import SizeSearch
from metaq.errors import NonFiniteError
from metaq.quantize import curvature
from metaq.quantize.recovery import Recovery


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8)).eval()


def inputs(count: int = 8) -> list[torch.Tensor]:
    return list(torch.randn(16 * count, 16, generator=torch.Generator().manual_seed(1)).split(16))


class Masked(nn.Module):
    """Takes a mask that is added, and gives minus infinity where something is out of the question."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, data: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.inner(data) + mask


class ByKeyword(nn.Module):
    """Calls its layers by the names of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Linear(12, 5)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.second(input=self.first(input=data).flatten(1))


class ByPlace(ByKeyword):
    """The same as is usual."""

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(data).flatten(1))


class Noisy(nn.Module):
    """Draws random numbers whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.inner(nn.functional.dropout(data, 0.3, training=True)) + 0.1 * torch.randn(len(data), 8)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("goal", [{}, {"target_ratio": 3.0}, {"keep": 0.99}], ids=str)
def test_a_batch_that_is_not_finite_is_named(value: float, goal: dict[str, float]) -> None:
    batches = inputs()
    # The fourth is held out.
    batches[4][3, 4] = value
    with pytest.raises(ConfigError, match="batches: number 5 holds, or gives, NaN or infinity; leave it out"):
        compress(network(), batches=batches, **goal)  # type: ignore[arg-type]


def test_a_batch_is_named_by_its_number_where_labels_are_known_too() -> None:
    batches = inputs()
    batches[3][0, 0] = math.nan
    with pytest.raises(ConfigError, match="batches: number 4 holds"):
        compress(network(), batches=batches, accuracy=lambda _: 1.0, target_ratio=3)


def test_of_a_single_tensor_the_part_is_named() -> None:
    data = torch.cat(inputs(4))
    data[21, 3] = math.nan
    with pytest.raises(ConfigError, match=r"batches: the part \[16:24\] holds"):
        compress(network(), batches=data, target_ratio=3)
    with pytest.raises(ConfigError, match="batches: number 1 holds"):
        compress(network(), batches=[data], target_ratio=3)


@pytest.mark.parametrize("spoil", [lambda data: data * 1e20, lambda data: data.index_fill(1, torch.tensor([2]), 1e30)])
def test_inputs_too_large_to_be_squared_are_refused(spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    batches = [spoil(batch) for batch in inputs()]
    with pytest.raises(ConfigError, match=r"batches: number 1: inputs.* are too large .* scale them as in training"):
        compress(network(), batches=batches, target_ratio=3)


def test_masks_of_minus_infinity_are_nothing_to_refuse() -> None:
    mask = torch.zeros(8)
    mask[2] = -math.inf
    found = compress(Masked(), batches=[(batch, mask) for batch in inputs()], target_ratio=3)
    assert 0.9 < (found.kept or 0) < 1


def test_what_is_not_quantised_may_have_any_gradients() -> None:
    class Guarded(nn.Module):
        """Has gradients that are NaN in a branch that is never taken."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = network(), nn.Parameter(torch.zeros(8))

        def forward(self, data: torch.Tensor) -> torch.Tensor:
            found = self.inner(data)
            return found.where(torch.ones_like(found) > 0, found.detach() / self.scale)

    found = compress(Guarded(), batches=inputs(), target_ratio=3, exclude=["scale"])
    assert 0.9 < (found.kept or 0) < 1


def test_a_search_with_nothing_to_go_by_ends() -> None:
    class Estimate:
        def __init__(self, usual: float) -> None:
            self.usual = usual

        def size_bytes(self, multiplier: float) -> float:
            return math.nan * multiplier

    for usual in (math.nan, math.inf, 1.0):
        with pytest.raises(NonFiniteError, match="give other batches"):
            SizeSearch(100, Estimate(usual)).next(lambda: 0)


def test_layers_called_by_keyword_are_measured_as_others_are() -> None:
    batches = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(1)).split(8)
    found = [compress(model, batches=list(batches), target_ratio=3).data for model in (ByKeyword(), ByPlace())]
    assert found[0] == found[1]


def test_networks_that_draw_random_numbers_are_compared_with_the_same_ones() -> None:
    model = Noisy()
    state = torch.get_rng_state()
    assert kept(model, model.state_dict(), inputs()).score == 1.0
    assert torch.equal(torch.get_rng_state(), state)
    found = compress(model, batches=inputs(), keep=0.999)
    assert found.kept is not None
    assert found.kept >= 0.999


def test_other_batches_get_other_random_numbers() -> None:
    seen: list[torch.Tensor] = []

    class Seen(Noisy):
        def forward(self, data: torch.Tensor) -> torch.Tensor:
            seen.append(super().forward(torch.zeros_like(data)))
            return seen[-1]

    model = Seen()
    kept(model, model.state_dict(), inputs(2))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_steps_of_recovery_are_compared_with_the_same_random_numbers() -> None:
    model = Noisy()
    recovery = Recovery(model, inputs(), lambda output, _: output.square().mean())  # type: ignore[attr-defined]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    losses = [recovery.loss(model.state_dict()) for _ in range(2)]
    assert losses[0] == losses[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "options", [{}, {"training_loss": lambda output, _: output.square().mean()}], ids=["without loss", "with loss"]
)
def test_calibration_does_not_mind_where_no_gradients_are_made(options: dict[str, object]) -> None:
    usual = compress(network(), batches=inputs(), target_ratio=3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        found = compress(network(), batches=inputs(), target_ratio=3, **options)  # type: ignore[arg-type]
        assert not torch.is_grad_enabled()
    assert found.data == usual.data


def test_inference_mode_is_refused_where_gradients_are_needed() -> None:
    usual = compress(network(), batches=inputs(), target_ratio=3)
    with torch.inference_mode():
        batches, made = inputs(), network()
        with pytest.raises(ConfigError, match=r"inference_mode.*call compress outside"):
            compress(network(), batches=batches, target_ratio=3)
        assert compress(network(), target_ratio=3).ratio >= 3
    assert compress(network(), batches=batches, target_ratio=3).data == usual.data
    with pytest.raises(ConfigError, match=r"inference_mode.*load the model outside"):
        compress(made, batches=inputs(), target_ratio=3)


def test_sums_that_overflow_are_named_by_the_measure_itself() -> None:
    batches: Sequence[torch.Tensor] = [torch.ones(4, 16), torch.full((4, 16), 1e25)]
    with pytest.raises(ConfigError, match="batches: number 2"):
        curvature.measure(network(), batches, loss=curvature.random_projection_loss)


class LeavesTraces(nn.Module):
    """Counts its runs, keeps the last output, draws random numbers, and normalises its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("last", torch.zeros(8))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        found = self.inner(data.sub_(0.5).mul_(2.0)) + 0.1 * self.last + 1e-6 * torch.randn(8)
        self.last = found.detach().mean(dim=0)
        return found


@pytest.mark.parametrize("goal", [{"target_ratio": 6}, {"keep": 0.99}])
def test_a_network_that_writes_into_its_buffers_and_inputs_is_left_as_it_was(goal: dict[str, float]) -> None:
    model, data = LeavesTraces(), inputs()
    before, given = (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [each.clone() for each in data],
    )
    random_state = torch.get_rng_state()
    found = compress(model, batches=data, **goal)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(*pair) for pair in zip(data, given, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert float(found.state_dict()["runs"]) == 0
    # Were inputs normalised again and again, nothing would be kept.
    assert found.kept is not None
    assert found.kept > 0.95


def test_another_default_device_than_that_of_the_model_changes_nothing() -> None:
    model, data = network(), inputs()
    plain = compress(model, batches=data, target_ratio=6)
    torch.set_default_device("meta")
    try:
        elsewhere = compress(model, batches=data, target_ratio=6)
    finally:
        torch.set_default_device(None)
    assert elsewhere.data == plain.data


class Graph(nn.Module):
    """A layer on a graph, whose sparse matrix is a buffer."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.matrix @ self.inner(data)


def test_a_sparse_buffer_calibrates() -> None:
    assert compress(Graph(torch.eye(16).to_sparse()), batches=inputs(), target_ratio=4).ratio >= 4
