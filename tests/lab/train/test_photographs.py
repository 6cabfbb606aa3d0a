"""Training a network with batch normalisation on images like those of CIFAR-10."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metaq import compress, load
from metaq.lab import runs
from metaq.lab.data import CropAndFlip, DataSplits, ImageDataset
from metaq.lab.train import CPU, TrainConfig, Trainer, accuracy, device_named
from metaq.lab.train.config import OptimizerConfig


class Silent:
    def on_step(self, step: int, total_steps: int) -> None:
        pass

    def on_epoch(self, record: object) -> None:
        pass


def stripes(count: int, seed: int) -> ImageDataset:
    """Noisy images of ten classes, each with a brightness of its own in two channels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 80, (count, 3, 32, 32), generator=generator)
    images[:, 0] += (labels % 5 * 35)[:, None, None]
    images[:, 1] += (labels // 5 * 120)[:, None, None]
    return ImageDataset(images=images.to(torch.uint8), labels=labels, classes=10)


@pytest.fixture(scope="module")
def photographs() -> DataSplits:
    return DataSplits(name="stripes", train=stripes(80, 1), validation=stripes(40, 2), test=stripes(40, 3))


CONFIG = TrainConfig(
    net="resnet20",
    data="cifar10",
    epochs=3,
    batch_size=16,
    optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=1e-3),
    augmentation=None,
    crop=CropAndFlip(),
    precision="bfloat16",
)


def states(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_goes_on_from_any_epoch_to_the_identical_result(tmp_path: Path, photographs: DataSplits) -> None:
    whole = Trainer(CONFIG, photographs, tmp_path, Silent())
    whole.run()
    stopped = Trainer(CONFIG, photographs, tmp_path, Silent())
    stopped.records.append(stopped._run_epoch(1))
    resumed = Trainer(CONFIG, photographs, tmp_path, Silent())
    resumed.load_state_dict(stopped.state_dict())
    resumed.run()
    assert same(states(whole), states(resumed))
    timeless = [[replace(record, seconds=0.0) for record in trainer.records] for trainer in (whole, resumed)]
    assert timeless[0] == timeless[1]


def test_bfloat16_is_for_computing_and_not_for_keeping(tmp_path: Path, photographs: DataSplits) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = replace(CONFIG, epochs=1, batch_size=80, precision=precision)  # type: ignore[arg-type]
        trainer = Trainer(config, photographs, tmp_path, Silent())
        losses[precision] = trainer.run().record.loss
        assert {tensor.dtype for tensor in states(trainer).values()} == {torch.float32, torch.int64}
    # In the only step, both compute the loss of the same initial weights.
    assert 0 < abs(losses["bfloat16"] - losses["float32"]) < 0.03


def test_the_file_restores_what_was_measured(tmp_path: Path, photographs: DataSplits) -> None:
    trainer = Trainer(CONFIG, photographs, tmp_path, Silent())
    before = states(trainer)
    kept = trainer.run()
    compress(kept.state_dict, grids=kept.grids).save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert same(restored, kept.state_dict)
    exact = [name for name in restored if name not in kept.grids]
    assert all(name.endswith("num_batches_tracked") for name in exact)
    model = runs.build("resnet20", restored)
    assert accuracy(model, photographs.validation) == kept.record.quantized_accuracy
    assert not torch.equal(before["norm.running_mean"], restored["norm.running_mean"])


def test_statistics_of_a_run_are_rounded_in_files_alone(tmp_path: Path, photographs: DataSplits) -> None:
    trainer = Trainer(CONFIG, photographs, tmp_path, Silent())
    trainer.records.append(trainer._run_epoch(1))
    before = states(trainer)
    trainer._consider(trainer.records[0])
    assert trainer.best is not None
    assert same(before, states(trainer))
    assert not torch.equal(before["norm.running_var"], trainer.best.state_dict["norm.running_var"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_run_moves_from_one_device_to_another(tmp_path: Path, photographs: DataSplits) -> None:
    first = Trainer(CONFIG, photographs, tmp_path, Silent(), device=device_named("cuda"))
    first.records.append(first._run_epoch(1))
    second = Trainer(CONFIG, photographs, tmp_path, Silent(), device=CPU)
    second.load_state_dict(first.state_dict())
    kept = second.run()
    assert [record.epoch for record in second.records] == [1, 2, 3]
    assert {tensor.device for tensor in kept.state_dict.values()} == {CPU}
