from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from metaq.errors import ConfigError, DataError, FormatError, MetaqError
from metaq.lab import data
from metaq.lab.data import CropAndFlip, DataSplits, ImageDataset
from metaq.lab.train import Trainer, accuracy, checkpointing, preset
from metaq.lab.train.config import InitConfig, OptimizerConfig


class Silent:
    def __init__(self):
        self.steps = []
        self.records = []

    def on_step(self, step, total_steps):
        self.steps.append((step, total_steps))

    def on_epoch(self, record):
        self.records.append(record)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    splits = data.load("digits")
    part = ImageDataset(images=splits.train.images[:320], labels=splits.train.labels[:320], classes=10)
    return replace(splits, train=part)


def short(name="lenet5-digits", **changes):
    return replace(preset(name), **{"epochs": 4, **changes})


def test_a_run_tells_of_every_step_and_epoch_and_keeps_quantised_weights(tmp_path, digits):
    observer = Silent()
    trainer = Trainer(short(), digits, tmp_path, observer)
    kept = trainer.run()
    assert observer.steps == [(step, 20) for step in range(1, 21)]
    assert [record.epoch for record in observer.records] == [1, 2, 3, 4]
    assert kept.record in observer.records
    assert kept.grids.keys() == kept.state_dict.keys()
    for name, weights in kept.state_dict.items():
        grid = kept.grids[name]
        values = torch.from_numpy(grid.values_of(grid.assign(weights.double().numpy()))).float()
        assert torch.equal(values, weights)


def test_the_kept_weights_have_the_recorded_validation_accuracy(tmp_path, digits):
    trainer = Trainer(short(), digits, tmp_path, Silent())
    kept = trainer.run()
    trainer.model.load_state_dict(kept.state_dict)
    assert accuracy(trainer.model, digits.validation) == kept.record.quantized_accuracy


def test_same_seed_same_run_other_seed_other_run(tmp_path, digits):
    def weights(seed):
        trainer = Trainer(short(epochs=2, seed=seed), digits, tmp_path, Silent())
        trainer.run()
        return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_photographs_are_cropped_and_mirrored_by_the_seed(tmp_path, digits):
    def seen(**changes):
        trainer = Trainer(short(augmentation=None, batch_size=320, **changes), digits, tmp_path, Silent())
        return [next(trainer._batches(epoch))[0] for epoch in (1, 1, 2)]

    first, again, other = seen(crop=CropAndFlip())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain = seen()[0]
    moved = [not torch.equal(one, two) for one, two in zip(first, plain, strict=True)]
    assert sum(moved) > 300


def test_the_epoch_kept_is_the_most_accurate_of_the_last_ones(tmp_path, digits):
    trainer = Trainer(short(epochs=6, select_from=0.5), digits, tmp_path, Silent())
    kept = trainer.run()
    last = trainer.records[3:]
    assert kept.record.epoch > 3
    assert kept.record.quantized_accuracy == max(record.quantized_accuracy for record in last)


def test_the_thesis_preset_runs_its_own_problem(tmp_path, digits):
    trainer = Trainer(short("thesis-digits", epochs=2), digits, tmp_path, Silent())
    kept = trainer.run()
    grids = set(kept.grids.values())
    assert len(grids) == 1
    assert next(iter(grids)).count == 6
    assert trainer.records[-1].phi_bits > 0


def test_initial_weights_fill_the_asked_range(tmp_path, digits):
    config = short(init=InitConfig(center=-0.5, radius=0.25))
    model = Trainer(config, digits, tmp_path, Silent()).model
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert -0.75 <= weights.min().item() < -0.74
    assert -0.26 < weights.max().item() <= -0.25


def test_a_diverging_run_is_stopped_with_a_sentence(tmp_path, digits):
    config = short().override(["optimizer.name=sgd", "optimizer.learning_rate=1e30", "augmentation.clean_fraction=1"])
    with pytest.raises(MetaqError, match=r"NaN|nan|inf"):
        Trainer(config, digits, tmp_path, Silent()).run()


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weights_decay_in_proportion_to_the_learning_rate(name, tmp_path, digits):
    def norm(decay):
        optimizer = OptimizerConfig(name=name, learning_rate=1e-3, relative_learning_rate=None, weight_decay=decay)
        trainer = Trainer(short(epochs=2, optimizer=optimizer), digits, tmp_path, Silent())
        trainer.run()
        with trainer.regularizer.latent_weights():
            return sum(float(p.detach().square().sum()) for p in trainer.model.parameters())

    assert norm(10.0) < 0.9 * norm(0.0)


@pytest.mark.parametrize("decay", [-1e-9, float("nan"), float("inf")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ConfigError, match="weight_decay"):
        OptimizerConfig(weight_decay=decay)


def test_accuracy_leaves_the_mode_alone_and_refuses_what_is_no_classifier(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert 0 <= accuracy(model, digits.test) <= 100
    assert model.training
    few_outputs = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    for wrong in (nn.Flatten(0), nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), few_outputs):
        with pytest.raises(DataError, match="--net"):
            accuracy(wrong, digits.test)


def test_a_damaged_checkpoint_is_refused(tmp_path, digits):
    Trainer(short(epochs=1), digits, tmp_path, Silent()).run()
    path = tmp_path / checkpointing.FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(FormatError, match=r"checkpoint\.pt"):
        checkpointing.load(tmp_path)
