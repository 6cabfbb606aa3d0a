from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import metaq
from metaq import ConfigError, EntropyRegularizer, RegularizerConfig

CONFIG = RegularizerConfig(strength=1e-6)


class Sharp(torch.optim.Optimizer):
    """A two-step optimiser around another, whose own step is never called."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base.param_groups

    def _parameters(self):
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def first_step(self):
        for parameter in self._parameters():
            self.state[parameter]["old"] = parameter.clone()
            parameter.add_(0.05 * parameter.grad / (parameter.grad.norm() + 1e-12))

    @torch.no_grad()
    def second_step(self):
        for parameter in self._parameters():
            parameter.copy_(self.state[parameter]["old"])
        self.base.step()

    def step(self, closure=None):
        raise NotImplementedError


class Loop:
    def __init__(self, config=CONFIG, *, rate=0.1, **goal):
        torch.manual_seed(0)
        self.model = nn.Linear(8, 8)
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate)
        if not goal:
            goal = {"config": config}
        self.regularizer = EntropyRegularizer(self.model, total_steps=100, **goal).attach(self.optimizer)

    def step(self):
        self.optimizer.zero_grad()
        (self.model(torch.ones(4, 8)) - 3).square().mean().backward()
        self.optimizer.step()

    def still(self):
        """A step that moves nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.step()


@pytest.mark.parametrize("goal", [{}, {"target_bits_per_weight": 7.0}])
def test_loaded_weights_are_trained_on(goal):
    loop = Loop(**goal)
    for _ in range(40):
        loop.step()
    loop.model.load_state_dict({name: torch.full_like(w, 0.5) for name, w in loop.model.state_dict().items()})
    loop.still()
    with loop.regularizer.latent_weights():
        assert all(bool((weight - 0.5).abs().max() < 1e-2) for weight in loop.model.parameters())


def test_weights_that_are_clipped_after_every_step_stay_clipped():
    loop = Loop()
    for _ in range(40):
        loop.step()
        with torch.no_grad():
            for parameter in loop.model.parameters():
                parameter.clamp_(-0.2, 0.2)
    # Of two weights that are one when quantised, clipping sees no difference.
    largest = 0.2 + loop.regularizer.grids()["weight"].step_size / 2
    with loop.regularizer.latent_weights():
        assert float(loop.model.weight.detach().abs().max()) <= largest


def test_the_best_weights_can_be_loaded_and_training_goes_on_from_them():
    loop = Loop()
    for _ in range(40):
        loop.step()
    best = copy.deepcopy(loop.model.state_dict())
    for _ in range(10):
        loop.step()
    loop.model.load_state_dict(best)
    loop.still()
    grids = loop.regularizer.grids()
    for name, weight in loop.model.named_parameters():
        assert float((weight - best[name]).detach().abs().max()) <= 1.01 * grids[name].step_size


def test_what_only_looks_at_the_weights_changes_nothing():
    def trained(look):
        loop = Loop()
        for _ in range(60):
            loop.step()
            look(loop)
        with loop.regularizer.latent_weights():
            return copy.deepcopy(loop.model.state_dict())

    def write_back(loop):
        loop.model.load_state_dict(copy.deepcopy(loop.model.state_dict()))
        with loop.regularizer.latent_weights():
            pass

    one, other = trained(lambda _: None), trained(write_back)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_two_step_optimiser_works_by_the_one_inside_and_is_told_of_else():
    torch.manual_seed(0)
    inputs = torch.randn(200, 20)
    labels = (inputs @ torch.randn(20, 5)).argmax(1)

    def trained(inner):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
        optimizer = Sharp(model.parameters())
        regularizer = EntropyRegularizer(model, total_steps=200, target_ratio=8)
        regularizer.attach(optimizer.base if inner else optimizer)
        for _ in range(200):
            for step in (optimizer.first_step, optimizer.second_step):
                model.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                step()
        regularizer.finish()
        return float((model(inputs).argmax(1) == labels).float().mean())

    assert trained(inner=True) > 0.9
    with pytest.raises(ConfigError, match="before any step of the optimizer"):
        trained(inner=False)


def test_sparse_gradients_are_refused_at_once():
    model = nn.Sequential(nn.EmbeddingBag(100, 8, sparse=True), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match=r"0\.weight: its gradients are sparse; .*sparse=False"):
        EntropyRegularizer(model, CONFIG, total_steps=10)
    EntropyRegularizer(model, RegularizerConfig(strength=1e-6, exclude=("0.weight",)), total_steps=10)


def test_tables_that_change_when_they_are_read_are_refused_at_once():
    model = nn.Sequential(nn.Embedding(100, 8, max_norm=1.0), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match=r"0\.weight: .* max_norm"):
        EntropyRegularizer(model, CONFIG, total_steps=10)
    EntropyRegularizer(model, RegularizerConfig(strength=1e-6, exclude=("0.weight",)), total_steps=10)


class Counting(nn.Module):
    """A layer with a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def get_extra_state(self):
        return {"count": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("goal", [{"target_ratio": 8.0}, {"max_drop": 0.1, "larger_is_better": True}])
def test_what_no_file_can_hold_is_refused_at_once(goal):
    with pytest.raises(ConfigError, match="_extra_state: is not a tensor but dict"):
        EntropyRegularizer(Counting(), total_steps=10, **goal)


@pytest.mark.parametrize("goal", [{}, *({"target_bits_per_weight": bits} for bits in (6.5, 7.0, 7.5))])
def test_averages_that_are_put_into_the_model_are_what_is_packed(tmp_path, goal):
    loop = Loop(rate=0.02, **goal)
    averages = torch.optim.swa_utils.AveragedModel(loop.model)
    for _ in range(100):
        loop.step()
        averages.update_parameters(loop.model)
    wanted = {name: 2 * tensor for name, tensor in averages.module.state_dict().items()}
    with loop.regularizer.latent_weights():
        trained = copy.deepcopy(loop.model.state_dict())
    loop.model.load_state_dict(wanted)
    loop.regularizer.finish()
    for name, weight in loop.model.state_dict().items():
        off, apart = ((weight - other[name]).square().mean().sqrt() for other in (wanted, trained))
        # The last choice may move a weight to a cheaper bucket.
        assert float(off) < 0.5 * loop.regularizer.grids()[name].step_size
        assert float(off) < 0.5 * float(apart)
    loop.regularizer.save(tmp_path / "model.metaq")
    restored = metaq.load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in loop.model.state_dict().items())


def test_weights_that_are_not_of_the_grids_are_not_finished_by_them():
    loop = Loop()
    for _ in range(40):
        loop.step()
    grids = loop.regularizer.grids()
    for _ in range(40):
        loop.step()
    with pytest.raises(ConfigError, match=r"weight: is not on the grid of the training"):
        loop.regularizer.finish(grids)
    loop.step()
    assert loop.regularizer.steps == 81
