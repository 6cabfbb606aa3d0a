"""Trainings to a size of models of which parts take no part, or are no matrices."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

import metaq
from metaq import ConfigError, EntropyRegularizer, RegularizerConfig
from metaq.errors import GoalError

CLASSES = 5


class Task:
    """Points around two centres for every class, and a network that learns them in a second."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(CLASSES, 2, 16, generator=generator)
        self.labels = torch.randint(0, CLASSES, (1500,), generator=generator)
        which = torch.randint(0, 2, (1500,), generator=generator)
        self.points = centres[self.labels, which] + 0.7 * torch.randn(1500, 16, generator=generator)
        self.generator = torch.Generator().manual_seed(2)
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)

    def train(self, steps: int) -> None:
        self.model.train()
        for _ in range(steps):
            batch = torch.randint(0, 1000, (64,), generator=self.generator)
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(self.points[batch]), self.labels[batch]).backward()
            self.optimizer.step()

    @torch.no_grad()
    def accuracy(self) -> float:
        self.model.eval()
        return float((self.model(self.points[1000:]).argmax(1) == self.labels[1000:]).float().mean())


def test_a_layer_in_front_that_takes_no_part_is_kept_as_it_is(tmp_path):
    task = Task()
    task.train(300)
    config = RegularizerConfig(exclude=("0.*",))
    with pytest.raises(GoalError, match="with every weight at zero the file takes 3,6"):
        EntropyRegularizer(task.model, config, total_steps=400, target_ratio=20)
    regularizer = EntropyRegularizer(task.model, config, total_steps=400, target_ratio=4).attach(task.optimizer)
    task.train(400)
    left = task.model[0].weight.detach().clone()
    before = task.accuracy()
    regularizer.finish()
    assert task.accuracy() > before - 0.02
    file = regularizer.save(tmp_path / "model.metaq")
    assert 0.97 * 22_292 / 4 <= file.file_bytes <= 22_292 / 4
    assert torch.equal(metaq.load(tmp_path / "model.metaq")["0.weight"], left)


def test_a_number_that_is_trained_is_no_trouble(tmp_path):
    task = Task()
    task.model.scale = nn.Parameter(torch.tensor(1.0))
    task.model.register_forward_hook(lambda module, _, outputs: outputs * module.scale)
    task.optimizer = torch.optim.Adam(task.model.parameters(), 1e-3)
    regularizer = EntropyRegularizer(task.model, total_steps=200, target_ratio=20).attach(task.optimizer)
    task.train(200)
    regularizer.finish()
    assert regularizer.save(tmp_path / "model.metaq").file_bytes <= 22_296 / 20
    assert metaq.load(tmp_path / "model.metaq")["scale"].shape == ()


@pytest.mark.parametrize("reloaded", [80, 100, 200])
def test_weights_of_an_earlier_step_get_steps_that_suit_them(tmp_path, reloaded):
    task = Task()
    regularizer = EntropyRegularizer(task.model, total_steps=400, target_ratio=20).attach(task.optimizer)
    task.train(reloaded)
    kept = copy.deepcopy(task.model.state_dict())
    task.train(400 - reloaded)
    task.model.load_state_dict(kept)
    before = task.accuracy()
    regularizer.finish()
    assert task.accuracy() > before - 0.06
    assert 0.9 * 22_292 / 20 < regularizer.save(tmp_path / "model.metaq").file_bytes <= 22_292 / 20


def test_a_goal_that_is_missed_is_told(tmp_path, caplog):
    task = Task()
    wide = nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()
    task.model = nn.Sequential(*wide, nn.Linear(64, CLASSES))
    task.optimizer = torch.optim.Adam(task.model.parameters(), 1e-2)
    regularizer = EntropyRegularizer(task.model, total_steps=100, target_bytes=130).attach(task.optimizer)
    task.train(100)
    with caplog.at_level(logging.WARNING):
        regularizer.finish()
    size = regularizer.save(tmp_path / "model.metaq").file_bytes
    assert size > 130
    assert f"The file takes {size:,} bytes, more than the goal (130 bytes)" in caplog.text


def test_changes_are_trained_on_from_the_same_base_alone_and_finished_once():
    task = Task()
    base = copy.deepcopy(task.model.state_dict())
    options = {"total_steps": 100, "target_bytes": 500}
    regularizer = EntropyRegularizer(task.model, base=base, **options).attach(task.optimizer)
    task.train(50)
    state = regularizer.state_dict()
    other = {name: tensor + 0.1 for name, tensor in base.items()}
    with pytest.raises(ConfigError, match="with another base"):
        EntropyRegularizer(Task().model, base=other, **options).load_state_dict(state)
    with pytest.raises(ConfigError, match="with another base, or with none"):
        EntropyRegularizer(Task().model, **options).load_state_dict(state)
    with pytest.raises(ConfigError, match=r"0.weight: holds NaN or infinity in the base"):
        EntropyRegularizer(Task().model, base={**base, "0.weight": base["0.weight"] / 0}, **options)
    task.train(50)
    regularizer.finish()
    with pytest.raises(ConfigError, match="it is called once"):
        regularizer.finish()


@pytest.mark.parametrize("names", ["dg", "gd"])
@pytest.mark.parametrize("steps_of_first", [1, 3])
def test_graphs_that_wait_for_their_gradients_stay_right(tmp_path, names, steps_of_first):
    torch.manual_seed(0)
    networks = {
        "g": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)),
        "d": nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1)),
    }
    optimizers = {name: torch.optim.Adam(network.parameters(), 1e-3) for name, network in networks.items()}
    regularizer = EntropyRegularizer(nn.ModuleDict(networks), total_steps=300, target_ratio=10)
    regularizer.attach(*(optimizers[name] for name in names))
    for _ in range(300):
        fake, real = networks["g"](torch.randn(32, 8)), torch.randn(32, 2)
        for _ in range(steps_of_first):
            optimizers["d"].zero_grad()
            told = functional.softplus(-networks["d"](real)) + functional.softplus(networks["d"](fake.detach()))
            told.mean().backward()
            optimizers["d"].step()
        optimizers["g"].zero_grad()
        functional.softplus(-networks["d"](fake)).mean().backward()
        optimizers["g"].step()
    regularizer.finish()
    assert regularizer.save(tmp_path / "model.metaq").file_bytes <= 4 * 483 / 10
