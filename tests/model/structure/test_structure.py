from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metaq.errors import ConfigError
from metaq.lab import nets
from metaq.lab.registry import NETWORKS
from metaq.model.structure import arrangement, arrangements, find_chains, fit_layers, fold, is_folded

IMAGES = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))

CHAINED = ("lenet300", "lenet5", "lenet5-caffe")
"""Reference networks whose layers follow each other with nothing but activations and pooling between them."""


def sparse(model: nn.Module, *, share: float, seed: int = 0) -> nn.Module:
    """Most weights zero, whole rows and columns too, the others multiples of a quarter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator) / 4)
            parameter *= torch.rand(parameter.shape, generator=generator) < share
            if parameter.dim() > 1:
                parameter[torch.rand(len(parameter), generator=generator) < 0.3] = 0
                parameter[:, torch.rand(parameter.shape[1], generator=generator) < 0.3] = 0
            parameter += 0.0
    return model.eval()


def nonzeros(weights: Mapping[str, torch.Tensor]) -> int:
    return sum(int((tensor != 0).sum()) for tensor in weights.values())


def computed(model: nn.Module, weights: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """Outputs of `model` with other weights."""
    return functional_call(model, dict(weights), inputs)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("lenet5", [("conv1", "conv2"), ("conv2", "fc1"), ("fc1", "fc2"), ("fc2", "fc3")]),
        ("lenet300", [("fc1", "fc2"), ("fc2", "fc3")]),
        ("lenet5-caffe", [("conv1", "conv2"), ("conv2", "fc1"), ("fc1", "fc2")]),
    ],
)
def test_chains_of_the_reference_networks(name, pairs):
    chains = find_chains(nets.create(name))
    assert [(chain.producer, chain.consumer) for chain in chains] == pairs
    assert all(chain.is_odd == (name == "lenet5") for chain in chains[:1])


@pytest.mark.parametrize("name", CHAINED)
@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_a_folded_network_computes_the_same(name, share):
    model = sparse(nets.create(name), share=share).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter /= 4
    before = [parameter.clone() for parameter in model.parameters()]
    folded = fold(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert folded.parameters < sum(parameter.numel() for parameter in model.parameters())
    assert any(after < units for units, after in folded.units.values())
    torch.testing.assert_close(folded.model(IMAGES.double()), model(IMAGES.double()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(CHAINED)))
def test_a_network_with_normalisation_between_its_layers_is_left_as_it_is(name):
    model = sparse(nets.create(name), share=0.1).eval()
    images = torch.rand(4, *nets.input_shape(name), generator=torch.Generator().manual_seed(0))
    folded = fold(model)
    assert folded.units == {}
    assert torch.equal(folded.model(images), model(images))


def test_a_network_without_any_weight_still_gives_its_constant():
    model = nets.create("lenet5").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_() if name.endswith("weight") else parameter.uniform_(-1, 1)
    folded = fold(model)
    assert all(after == 1 for _, after in folded.units.values())
    torch.testing.assert_close(folded.model(IMAGES), model(IMAGES), rtol=1e-6, atol=1e-6)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return self.last(hidden + self.second(hidden))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.first(x) if x.sum() > 0 else x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Spread(nn.Module):
    """Flattens several rows of features, so that one unit's outputs do not lie side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, x):
        return self.last(torch.flatten(torch.relu(self.first(x.reshape(-1, 2, 4))), 1))


class PooledUnits(nn.Module):
    """Takes the mean of units that lie side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.pool, self.last = nn.Linear(8, 8), nn.AvgPool1d(3, stride=1, padding=1), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.pool(self.first(x)))


@pytest.mark.parametrize("model", [Residual(), Branching(), Recurrent(), Spread(), PooledUnits()])
def test_units_that_others_may_read_are_left_alone(model):
    assert "first" not in {chain.producer for chain in find_chains(model)}
    assert "inner" not in {chain.producer for chain in find_chains(model)}
    model = sparse(model, share=0.3)
    inputs = torch.rand(5, 8)
    torch.testing.assert_close(fold(model).model(inputs), model(inputs))


def test_padding_keeps_constant_channels_but_not_unread_ones():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(1352, 3)
    )
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 1
        model[2].weight[:, 3] = 0
    folded = fold(model)
    assert folded.units["0"] == (4, 3)
    torch.testing.assert_close(folded.model(IMAGES), model(IMAGES), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CHAINED)
@pytest.mark.parametrize("share", [0.05, 0.9])
def test_arrangements_compute_the_same(name, share):
    model = sparse(nets.create(name), share=share)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter /= 8
    weights, chains = model.state_dict(), find_chains(model)
    first, *others = arrangements(weights, chains)
    assert all(torch.equal(first[name], tensor) for name, tensor in weights.items())
    assert len(others) == 2
    for arranged in others:
        assert nonzeros(arranged) <= nonzeros(weights)
        torch.testing.assert_close(computed(model, arranged, IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
        assert not any(bool(torch.signbit(tensor[tensor == 0]).any()) for tensor in arranged.values())


def layers(into: list[list[float]], out: list[list[float]], activation: nn.Module) -> nn.Module:
    """Two linear layers: what goes into every unit, and what comes out of it."""
    model = nn.Sequential(nn.Linear(len(into[0]), len(into)), activation, nn.Linear(len(into), len(out[0])))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(into))
        model[2].weight.copy_(torch.tensor(out).T)
        model[0].bias.copy_(torch.arange(1.0, len(into) + 1))
    return model


def test_each_unit_is_followed_by_the_one_most_like_it():
    model = layers([[0.0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]], [[1.0], [1], [1], [0.5]], nn.ReLU())
    arranged = arrangement(model.state_dict(), find_chains(model))
    assert arranged["0.bias"].tolist() == [1, 4, 2, 3]
    assert arranged["0.weight"].tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert arranged["2.weight"].tolist() == [[1, 0.5, 1, 1]]


def test_an_opposite_unit_is_alike_behind_an_odd_function():
    into, out = [[1.0, 1, 1, 0], [1, 1, 0, 0], [-1, -1, -1, 0]], [[1.0], [1], [-1]]
    weights = {}
    for activation in (nn.Tanh(), nn.ReLU()):
        model = layers(into, out, activation)
        weights[type(activation)] = arrangement(model.state_dict(), find_chains(model))
    assert weights[nn.Tanh]["0.weight"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
    assert weights[nn.Tanh]["0.bias"].tolist() == [1, -3, 2]
    assert weights[nn.Tanh]["2.weight"].tolist() == [[1, 1, 1]]
    assert weights[nn.ReLU]["0.bias"].tolist() == [1, 2, 3]


def test_what_reads_a_unit_tells_nothing_where_everything_does():
    model = layers([[1.0, 2], [3, 4]], [[1.0, 0], [1, 1]], nn.ReLU())
    assert len(arrangements(model.state_dict(), find_chains(model))) == 2


def test_weights_that_nobody_reads_become_zero():
    model = layers([[1.0, 2], [3, 4]], [[1.0, 0], [0, 0]], nn.ReLU())
    arranged = arrangement(model.state_dict(), find_chains(model))
    assert arranged["0.weight"].tolist() == [[1, 2], [0, 0]]
    assert arranged["0.bias"].tolist() == [1, 0]


def test_folded_weights_load_into_the_network_they_came_from():
    model = sparse(nets.create("lenet5"), share=0.05)
    folded = fold(model).model
    fitted = fit_layers(nets.create("lenet5"), folded.state_dict())
    torch.testing.assert_close(fitted(IMAGES), folded(IMAGES))
    with pytest.raises(ConfigError, match="not the weights of this network"):
        fit_layers(nets.create("lenet300"), folded.state_dict())


def test_only_fewer_units_along_chains_are_taken_for_folded():
    model = nets.create("lenet300")
    folded = fold(sparse(model, share=0.01)).model.state_dict()
    assert is_folded(model, folded)
    assert not is_folded(model, model.state_dict())
    for name, shape in {"fc1.weight": (300, 700), "fc3.weight": (9, 100), "fc1.bias": (299,), "fc2.weight": ()}.items():
        assert not is_folded(model, {**model.state_dict(), name: torch.zeros(shape)})
    assert not is_folded(model, {name: tensor for name, tensor in folded.items() if name != "fc1.bias"})
