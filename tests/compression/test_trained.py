from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metaq import container
from metaq.compression.pipeline import estimated_bits, quantized_state_dict, to_tensors, trained_tensors
from metaq.lab import nets
from metaq.model import checkpoint
from metaq.tensors.grid import BucketGrid

IMAGES = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def sparse(model: nn.Module, *, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator) / 32)
            parameter *= torch.rand(parameter.shape, generator=generator) < 0.05
            parameter += 0.0
    return model.eval()


def grids_of(model: nn.Module, *, center: float = 0.0, count: int = 255) -> dict[str, BucketGrid]:
    grid = BucketGrid(center=center, radius=count / 64, count=count)
    return {name: grid for name, _ in model.named_parameters()}


def size_of(tensors) -> int:
    return len(container.encode(tensors))


def loaded(model: nn.Module, tensors) -> nn.Module:
    other = copy.deepcopy(model)
    other.load_state_dict(checkpoint.restore(tensors))
    return other.eval()


@pytest.mark.parametrize("name", ["lenet5", "lenet5-caffe"])
def test_the_file_gets_smaller_and_the_outputs_stay(name):
    model = sparse(nets.create(name))
    before = copy.deepcopy(model.state_dict())
    grids = grids_of(model)
    tensors = trained_tensors(model, grids)
    assert size_of(tensors) < size_of(to_tensors(model, grids=grids))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(loaded(model, tensors)(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("center", "count"), [(0.01, 255), (1 / 64, 254)])
def test_no_sign_changes_where_the_grid_does_not_hold_both(center, count):
    """The thesis's grid has its middle at -0.11, so that the negative of a value lies beside it."""
    model = sparse(nets.create("lenet5"))
    grids = grids_of(model, center=center, count=count)
    model.load_state_dict(quantized_state_dict(model, grids=grids))
    tensors = trained_tensors(model, grids)
    torch.testing.assert_close(loaded(model, tensors)(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Linear(64, 3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


def test_statistics_are_rounded():
    generator = torch.Generator().manual_seed(0)
    model = Normalised()
    model.norm.running_mean.copy_(torch.randn(64, generator=generator))
    model.norm.running_var.copy_(torch.rand(64, generator=generator) + 0.5)
    model = sparse(model)
    with torch.no_grad():
        model.norm.weight += 1
    grids = {"first.weight": BucketGrid(center=0.0, radius=255 / 64, count=255)}
    tensors = trained_tensors(model, grids)
    assert size_of(tensors) < size_of(to_tensors(model, grids=grids))
    inputs = torch.randn(32, 16, generator=generator)
    assert (loaded(model, tensors)(inputs) - model(inputs)).square().mean() < 1e-3 * model(inputs).square().mean()


class Convolving(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second, self.other_norm = nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.last = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(self.other_norm(self.second(x))).mean((2, 3)))


def test_an_estimate_counts_all_that_is_quantised(tmp_path):
    """Vectors of batch normalisation without a grid are rounded in the file; here they are an eighth of it."""
    generator = torch.Generator().manual_seed(0)
    model = Convolving().eval()
    for norm in (model.norm, model.other_norm):
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, std=0.25, generator=generator)
    names = ("first.weight", "second.weight", "last.weight")
    for name in names:
        nn.init.normal_(model.get_parameter(name), generator=generator)
    grids = {name: BucketGrid(center=0.0, radius=7.5, count=15) for name in names}
    container.write(tmp_path / "model.metaq", trained_tensors(model, grids))
    coded_bits = sum(container.account(tmp_path / "model.metaq").parts_bits)
    assert estimated_bits(model, grids) == pytest.approx(coded_bits, rel=0.05)


class Twice(nn.Module):
    """One layer under two names: what changes under one must change under the other."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)
        self.again = self.first

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


class Optional(nn.Module):
    """Reads its hidden units a second time only if it is asked to."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.other = nn.Linear(8, 8), nn.Linear(8, 2), nn.Parameter(torch.arange(8.0))

    def forward(self, x, scale=None):
        hidden = torch.tanh(self.first(x))
        if scale is None:
            hidden = hidden * self.other
        return self.last(hidden)


class Remembering(nn.Module):
    """Keeps what it has computed."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.seen = nn.Linear(8, 8), nn.Linear(8, 2), None

    def forward(self, x):
        self.seen = torch.tanh(self.first(x))
        return self.last(self.seen)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    model[1].register_forward_hook(lambda _module, _inputs, output: output * torch.arange(8.0))
    return model


def replaced() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    first = model[0]
    first.forward = lambda x: nn.functional.linear(x, first.weight, first.bias) * torch.arange(8.0)
    return model


@pytest.mark.parametrize("make", [Twice, Optional, Remembering, hooked, replaced])
def test_what_a_module_computes_never_changes(make):
    model = sparse(make())
    inputs = torch.rand(5, 8)
    grids = grids_of(model)
    grids.pop("other", None)
    expected = model(inputs)
    model.seen = None
    tensors = trained_tensors(model, grids)
    assert model.seen is None
    model.load_state_dict(checkpoint.restore(tensors))
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)


def test_tied_tensors_stay_tied():
    restored = checkpoint.restore(trained_tensors(sparse(Twice()), grids_of(Twice())))
    assert restored["first.weight"] is restored["again.weight"]


class Counting:
    def __init__(self):
        self.stages = []

    def stage(self, label, total):
        self.stages.append([label, total, 0])

    def advance(self, amount=1):
        self.stages[-1][2] += amount


def test_arranging_says_how_far_it_is():
    told = Counting()
    model = sparse(nets.create("lenet5"))
    trained_tensors(model, grids_of(model), progress=told)
    assert told.stages == [["arranging units", 3, 3]]
