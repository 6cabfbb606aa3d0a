"""The training loop: loss plus regulariser, one checkpoint an epoch, the epoch to keep chosen on validation data."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from metaq.container import Metadata
from metaq.errors import MetaqError
from metaq.lab import nets
from metaq.lab.data import DataSplits, augment, channels_last, crop_and_flip, to_float
from metaq.lab.train import checkpointing
from metaq.lab.train.config import TrainConfig
from metaq.lab.train.evaluate import accuracy
from metaq.lab.train.processes import ALONE, CPU, Processes
from metaq.lab.train.records import EpochRecord, Observer
from metaq.model.norms import holding, rounded_norms
from metaq.regularizer.base import Regularizer, RegularizerReport
from metaq.regularizer.entropy_regularizer import EntropyRegularizer
from metaq.tensors.grid import BucketGrid


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """The epoch to keep so far.

    It holds the weights that its file would restore, the grids of those that are quantised, and a rank, larger is
    better.
    """

    record: EpochRecord
    state_dict: dict[str, torch.Tensor]
    grids: dict[str, BucketGrid]
    rank: tuple[float, ...]


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits, labels and images to the mean loss."""


def label_loss(logits: torch.Tensor, labels: torch.Tensor, _images: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the labels."""
    return functional.cross_entropy(logits, labels)


class Trainer:
    """Trains one network as its configuration says; resumable to the identical result.

    The `folder`, which must exist, gets the checkpoint of every epoch. The test images are not touched. The
    `metadata` that its file will hold count in a size that is the goal. Trained weights to `start`
    from are optional. Results differ from `device` to device by rounding. Several `processes` share out every batch,
    and the first writes the checkpoints. `make_regularizer` takes what :class:`metaq.EntropyRegularizer` does. Raises
    :class:`DataError` if the network does not take these images or has fewer outputs than they have classes, and
    :class:`ConfigError` if the goal cannot be reached.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: DataSplits,
        folder: Path,
        observer: Observer,
        *,
        metadata: Metadata | None = None,
        loss: Loss = label_loss,
        start: Mapping[str, torch.Tensor] | None = None,
        device: torch.device = CPU,
        processes: Processes = ALONE,
        make_regularizer: Callable[..., Regularizer] = EntropyRegularizer,
    ) -> None:
        self.config = config
        self.processes = processes
        self.device = device
        self.train, self.validation = data.train.to(device), data.validation.to(device)
        self.folder = folder
        self.observer = observer
        self.loss = loss
        self.model = _initial_model(config, start).to(device)
        accuracy(self.model, self.validation.take(torch.arange(1)))
        self.steps_per_epoch = math.ceil(len(self.train) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.regularizer = make_regularizer(
            self.model, config.regularizer, total_steps=self.total_steps, **self._targets(metadata)
        )
        self.optimizer = _make_optimizer(config, self.model)
        self.regularizer.attach(self.optimizer)
        if start is not None:
            self._tell(accuracy(self.model, self.validation))
        self.records: list[EpochRecord] = []
        self.best: Candidate | None = None

    def run(self) -> Candidate:
        """Train to the last epoch; returns the epoch to keep.

        Raises :class:`MetaqError` if the loss becomes NaN or infinite. After a KeyboardInterrupt the checkpoint of the
        last finished epoch is on disk.
        """
        self._save()
        while len(self.records) < self.config.epochs:
            self.advance()
        assert self.best is not None
        return self.best

    def advance(self) -> EpochRecord:
        """Train one epoch on; see :meth:`run`."""
        record = self._run_epoch(len(self.records) + 1)
        self.records.append(record)
        if self.config.has_goal:
            self._approach(record)
        else:
            self._consider(record)
        self._save()
        self.observer.on_epoch(record)
        return record

    def _save(self) -> None:
        if self.processes.is_first:
            checkpointing.save(self.folder, self.config, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything :meth:`load_state_dict` needs to go on: tensors, numbers and strings."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "regularizer": self.regularizer.state_dict(),
            "records": [dataclasses.asdict(record) for record in self.records],
            "best": None if self.best is None else _candidate_to_dict(self.best),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a run of the same configuration."""
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.regularizer.load_state_dict(state_dict["regularizer"])
        self.records = [EpochRecord(**record) for record in state_dict["records"]]
        self.best = None if state_dict["best"] is None else _candidate_from_dict(state_dict["best"])

    def _run_epoch(self, epoch: int) -> EpochRecord:
        begun = time.perf_counter()
        self.model.train()
        total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed(_mix(self.config.seed, epoch) + self.processes.rank)
            for images, labels in self._batches(epoch):
                self._set_learning_rates()
                self.optimizer.zero_grad()
                total_loss += self._backward(images, labels)
                self.processes.sum_gradients(list(self.model.parameters()))
                self.optimizer.step()
                self.observer.on_step(self.regularizer.steps, self.total_steps)
        mean_loss = self.processes.total(float(total_loss)) / len(self.train)
        if not math.isfinite(mean_loss):
            raise MetaqError(f"epoch {epoch}: the loss is {mean_loss}; lower optimizer.learning_rate.")
        self.processes.average_buffers(self.model)
        return self._measure(epoch, mean_loss, begun)

    def _backward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradients of this process's share of the mean loss of a batch; returns the sum of its losses."""
        own_images, own = self.processes.share(images), self.processes.share(labels)
        if not len(own):
            return torch.zeros((), dtype=torch.float64, device=self.device)
        with self._precision():
            loss = self.loss(self.model(own_images).float(), own, own_images)
        torch.autograd.backward(loss * (len(own) / len(labels)))
        return loss.detach().double() * len(own)

    def _precision(self) -> torch.autocast:
        """Where the forward pass and the loss are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        config, train = self.config, self.train
        generator = torch.Generator().manual_seed(_mix(config.seed, epoch))
        order = torch.randperm(len(train), generator=generator).to(self.device)
        clean_fraction = self._clean_fraction(epoch)
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            images = train.images[chosen]
            if config.crop is not None:
                images = crop_and_flip(images, config.crop, generator=generator)
            images = to_float(images)
            if config.augmentation is not None:
                images = augment(images, config.augmentation, clean_fraction=clean_fraction, generator=generator)
            yield channels_last(images), train.labels[chosen]

    def _clean_fraction(self, epoch: int) -> float:
        if self.config.augmentation is None:
            return 1.0
        first, last = self.config.augmentation.clean_fraction, self.config.clean_fraction_last
        share = (epoch - 1) / max(1, self.config.epochs - 1)
        return first + (last - first) * min(1.0, share / self.config.clean_from)

    def _set_learning_rates(self) -> None:
        optimizer = self.config.optimizer
        progress = self.regularizer.steps / self.total_steps
        share = self._learning_rate_share(progress)
        relative = optimizer.relative_learning_rate if self.regularizer.active else None
        step_sizes = {name: grid.step_size for name, grid in self.regularizer.grids().items()} if relative else {}
        for group in self.optimizer.param_groups:
            own = relative * step_sizes[group["name"]] if relative and group["name"] in step_sizes else None
            group["lr"] = share * (own or optimizer.learning_rate)

    def _learning_rate_share(self, progress: float) -> float:
        """Learning rate over that at the start."""
        optimizer = self.config.optimizer
        decayed = max(0.0, progress - optimizer.decay_start) / max(1 - optimizer.decay_start, 1 / self.total_steps)
        return optimizer.last_share + (1 - optimizer.last_share) * (1 + math.cos(math.pi * min(decayed, 1.0))) / 2

    @contextlib.contextmanager
    def _as_in_file(self) -> Iterator[dict[str, BucketGrid]]:
        """Let the model hold what its file would restore; gives the grids by tensor name."""
        if self.config.is_plain:
            yield {}
            return
        with self.regularizer.quantized_weights():
            grids = self.regularizer.grids()
            norms = rounded_norms(self.model.state_dict(), taken=grids)
            with holding(self.model, norms.values):
                yield grids | norms.grids

    def _measure(self, epoch: int, mean_loss: float, begun: float) -> EpochRecord:
        with self._as_in_file():
            quantized_accuracy = accuracy(self.model, self.validation)
        if self.config.is_plain:
            float_accuracy, report = quantized_accuracy, _plain_report(self.model)
        else:
            report = self.regularizer.report()
            with self.regularizer.latent_weights(), self._precision():
                float_accuracy = accuracy(self.model, self.validation)
        return EpochRecord(
            epoch=epoch,
            loss=mean_loss,
            float_accuracy=float_accuracy,
            quantized_accuracy=quantized_accuracy,
            phi_bits=report.phi_bits,
            bits=report.bits,
            bits_per_weight=report.bits_per_weight,
            estimated_bytes=report.bits / 8,
            distance=report.distance,
            frozen=report.frozen,
            strength=self.regularizer.current_strength(),
            seconds=time.perf_counter() - begun,
        )

    def _targets(self, metadata: Metadata | None) -> dict[str, Any]:
        """The goal by the names that a regulariser takes."""
        if not self.config.has_goal:
            return {}
        better = True if self.config.goal.is_quality else None
        return {**self.config.goal.of_training(), "larger_is_better": better, "metadata": metadata}

    def _tell(self, figure: float) -> None:
        if self.config.goal.is_quality:
            assert isinstance(self.regularizer, EntropyRegularizer)
            self.regularizer.observe(figure)

    def _approach(self, record: EpochRecord) -> None:
        """Tell what the epoch has reached; the last one ends in what the goal asks for, and is kept."""
        self._tell(record.quantized_accuracy)
        if record.epoch == self.config.epochs:
            evaluate = partial(accuracy, self.model, self.validation) if self.config.goal.is_quality else None
            self.regularizer.finish(evaluate=evaluate)
            with self._as_in_file():
                reached = accuracy(self.model, self.validation)
            self._keep(dataclasses.replace(record, quantized_accuracy=reached), rank=(1.0,))

    def _keep(self, record: EpochRecord, rank: tuple[float, ...]) -> None:
        """Keep the present weights."""
        with self._as_in_file() as grids:
            self.best = Candidate(record=record, state_dict=_on_cpu(self.model), grids=grids, rank=rank)

    def _consider(self, record: EpochRecord) -> None:
        """Keep this epoch if it beats the one kept so far; epochs before `select_from` only stand in."""
        eligible = record.epoch > self.config.select_from * self.config.epochs or record.epoch == self.config.epochs
        rank = eligible, record.quantized_accuracy, -record.bits
        if self.best is None or rank >= self.best.rank:
            self._keep(record, rank)


def _initial_model(config: TrainConfig, start: Mapping[str, torch.Tensor] | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = nets.create(config.net)
    if config.init is not None:
        generator = torch.Generator().manual_seed(config.seed)
        nets.initialize_uniform(model, center=config.init.center, radius=config.init.radius, generator=generator)
    if start is not None:
        nets.load_weights(model, start)
    return model


def _on_cpu(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state dict."""
    return {name: tensor.detach().to(CPU, copy=True) for name, tensor in model.state_dict().items()}


def _make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    options = config.optimizer
    groups = [{"params": [parameter], "name": name} for name, parameter in model.named_parameters()]
    rate, decay = options.learning_rate, options.weight_decay
    if options.name == "sgd":
        momentum = options.momentum
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, options.beta2), weight_decay=decay)


def _plain_report(model: nn.Module) -> RegularizerReport:
    """Of weights that are not quantised: each takes the bits of its type."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    bits = 8.0 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return RegularizerReport(
        phi_bits=bits, bits=bits, bits_per_weight=bits / weights, distance=0.0, weights=weights, frozen=0
    )


def _mix(seed: int, epoch: int) -> int:
    """A seed for every epoch of a run, so that a resumed run needs no generator states."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _candidate_to_dict(candidate: Candidate) -> dict[str, Any]:
    grids = {name: dataclasses.asdict(grid) for name, grid in candidate.grids.items()}
    return {**vars(candidate), "record": dataclasses.asdict(candidate.record), "grids": grids}


def _candidate_from_dict(values: dict[str, Any]) -> Candidate:
    grids = {name: BucketGrid(**grid) for name, grid in values["grids"].items()}
    return Candidate(**{**values, "record": EpochRecord(**values["record"]), "grids": grids})
