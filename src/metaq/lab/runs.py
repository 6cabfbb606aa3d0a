"""Whole runs: a configuration in, a folder with the file, its measured accuracy and the pictures out."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.nn import functional

from metaq import container
from metaq.compression import pipeline
from metaq.compression.pipeline import trained_tensors
from metaq.config import needs, require
from metaq.errors import ConfigError, OutputError
from metaq.files import write_bytes
from metaq.lab import environment, nets
from metaq.lab.data import DataSplits, ImageDataset, to_float
from metaq.lab.registry import NETWORKS
from metaq.lab.train import (
    ALONE,
    CPU,
    Candidate,
    EpochRecord,
    Loss,
    Observer,
    Processes,
    Silent,
    TrainConfig,
    Trainer,
    accuracy,
    checkpointing,
    label_loss,
    plain,
)
from metaq.lab.train.config import LEAST_EPOCHS_TO_A_FIGURE, TeacherConfig
from metaq.model import checkpoint, structure
from metaq.model.checkpoint import StateDict
from metaq.progress import NoProgress, Progress


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Size and accuracy of one file.

    The accuracy is that of the weights restored from the file, in percent. `bytes` is the file's size on disk,
    `float_bytes` that of the same tensors as the model holds them, `ratio` the second over the first; `weights` counts
    the elements of all tensors, and `bits_per_weight` are the bits of the file over them. `seconds` is the wall-clock
    time of the whole command, of what it wrote and measured too.
    """

    accuracy: float
    bytes: int
    float_bytes: int
    ratio: float
    weights: int
    bits_per_weight: float
    seconds: float

    def to_dict(self) -> dict[str, float | int]:
        """Plain dictionary, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingOutcome:
    """A finished run; the summary is of ``model.metaq`` on the test images.

    `validation_accuracy` is that of the same weights, in percent; `kept_epoch` the epoch that they are of; `weights`
    what was packed, as it was in memory.
    """

    summary: Summary
    validation_accuracy: float
    kept_epoch: int
    epochs: int
    folder: Path
    weights: Mapping[str, torch.Tensor]


MODEL_FILE, CONFIG_FILE, METRICS_FILE = "model.metaq", "config.json", "metrics.jsonl"
CURVES_FILE, SUMMARY_FILE = "curves.png", "summary.json"
REPORT_FILE = "report.html"

DEFAULT_NET = "lenet5"

TRIED_STEPS = 30
"""Steps by which the speed of this machine is measured."""

OTHER_FILES = environment.FILE_NAME, checkpointing.FILE_NAME
RUN_FILES = (MODEL_FILE, CONFIG_FILE, METRICS_FILE, CURVES_FILE, SUMMARY_FILE, *OTHER_FILES)
"""What a run leaves by itself; a report is made of it later."""


def new_folder(path: str | os.PathLike[str], *, force: bool) -> Path:
    """Make the folder of a new run; one that holds a run already is refused, or emptied of it with `force`."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = [folder / name for name in (*RUN_FILES, REPORT_FILE) if (folder / name).exists()]
        require(force or not old, f"{folder}: holds a run already; give --force to replace it, or --resume to go on.")
        for file in old:
            file.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used as the run's folder ({error.strerror}).") from error
    return folder


def train_to_folder(
    config: TrainConfig,
    splits: DataSplits,
    folder: Path,
    observer: Observer,
    *,
    force: bool = False,
    device: torch.device = CPU,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> TrainingOutcome:
    """Train as `config` says, write everything into a new folder, and measure the file on the test images, once.

    Of several processes the first writes and measures; all get the outcome. `progress` is told of what follows the last
    epoch, `observer` of the training.
    """
    begun = time.perf_counter()
    needs("matplotlib")
    trainer = _trainer(config, splits, folder, observer, device=device, processes=processes)

    def begin() -> None:
        new_folder(folder, force=force)
        write_bytes(folder / CONFIG_FILE, config.to_json().encode())
        made_with = json.dumps(environment.describe(device=device)) + "\n"
        write_bytes(folder / environment.FILE_NAME, made_with.encode())

    processes.by_first(begin)
    return _finish(trainer, splits, begun, progress or NoProgress())


def epochs_within(
    config: TrainConfig,
    splits: DataSplits,
    seconds: float,
    *,
    device: torch.device = CPU,
    processes: Processes = ALONE,
) -> int:
    """About how many epochs of `config` this machine trains in `seconds`; measured on a few steps."""
    steps = -(-len(splits.train.labels) // config.batch_size)
    tried = min(TRIED_STEPS, steps)
    few = replace(
        splits, train=splits.train.take(torch.arange(min(tried * config.batch_size, len(splits.train.labels))))
    )
    # Two of more epochs: the end of a training takes time of its own.
    at_once = replace(config, epochs=4, regularizer=replace(config.regularizer, warmup=0.0))
    with TemporaryDirectory() as scratch:
        trainer = _trainer(at_once, few, Path(scratch), Silent(), device=device, processes=processes)
        trainer.advance()
        record = trainer.advance()
    begun = time.perf_counter()
    accuracy(trainer.model, trainer.validation)
    evaluating = 2 * (time.perf_counter() - begun)
    per_step = max(record.seconds - evaluating, 0.0) / tried
    # Times may differ from process to process.
    least = LEAST_EPOCHS_TO_A_FIGURE if config.goal.is_quality else 1
    return processes.by_first(lambda: max(least, int(seconds / (per_step * steps + evaluating))))


def resume_in_folder(
    folder: Path,
    splits: DataSplits,
    observer: Observer,
    *,
    device: torch.device = CPU,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> TrainingOutcome:
    """Go on with the run in `folder` from its last finished epoch, to the result it would have had on one device."""
    begun = time.perf_counter()
    needs("matplotlib")
    config, state = checkpointing.load(folder)
    trainer = _trainer(config, splits, folder, observer, device=device, processes=processes, is_resumed=True)
    trainer.load_state_dict(state)
    return _finish(trainer, splits, begun, progress or NoProgress())


def train_plain(config: TrainConfig, splits: DataSplits, folder: Path, observer: Observer) -> nn.Module:
    """The network the same settings give without the entropy term: what accuracy is compared with."""
    trainer = Trainer(plain(config), splits, folder, observer)
    trainer.run()
    return trainer.model


def measure_file(
    path: str | os.PathLike[str], *, net: str | None = None, load_dataset: Callable[[], ImageDataset]
) -> Summary:
    """Restore a model from any file metaq reads and measure it; the data are loaded once the file has been read.

    Its network is by default the one that :func:`network_of` finds.
    """
    begun = time.perf_counter()
    state_dict = checkpoint.read(path)
    model = build(network_of(path) if net is None else net, state_dict)
    return summarize(
        state_dict,
        file_bytes=Path(path).stat().st_size,
        accuracy_percent=accuracy(model, load_dataset()),
        seconds=time.perf_counter() - begun,
    )


def network_of(path: str | os.PathLike[str]) -> str:
    """The network that a file names, ``lenet5`` if it names none.

    Raises :class:`ConfigError` if metaq does not know it: a file alone makes no code of a stranger run.
    """
    named = str(container.read(path).metadata.get("net", DEFAULT_NET)) if container.is_metaq(path) else DEFAULT_NET
    require(
        named in NETWORKS,
        f"{path}: is of the network {named!r}, which metaq does not know; name it with --net package.module:factory.",
    )
    return named


def build(net: str, state_dict: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network `net` with the weights of `state_dict`, which may have been made smaller by folding."""
    model = nets.create(net)
    if structure.is_folded(model, state_dict):
        return structure.fit_layers(model, state_dict)
    nets.load_weights(model, state_dict)
    return model


def summarize(
    state_dict: Mapping[str, torch.Tensor], *, file_bytes: int, accuracy_percent: float, seconds: float
) -> Summary:
    """Put the sizes of a state dict and of its file beside the accuracy."""
    numbers = pipeline.sizes(state_dict, file_bytes=file_bytes)
    return Summary(accuracy=accuracy_percent, seconds=seconds, **numbers)  # type: ignore[arg-type]


class _Recorder:
    """Writes metrics after every epoch, then passes the news on."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._observer = trainer.observer
        self.on_step = self._observer.on_step

    def on_epoch(self, record: EpochRecord) -> None:
        lines = "".join(json.dumps(dataclasses.asdict(each)) + "\n" for each in self._trainer.records)
        write_bytes(self._trainer.folder / METRICS_FILE, lines.encode())
        self._observer.on_epoch(record)


def _trainer(
    config: TrainConfig,
    splits: DataSplits,
    folder: Path,
    observer: Observer,
    *,
    device: torch.device,
    processes: Processes,
    is_resumed: bool = False,
) -> Trainer:
    loss = label_loss if config.teacher is None else _teacher_loss(config, config.teacher, splits.validation, device)
    return Trainer(
        config,
        splits,
        folder,
        observer,
        metadata=_metadata(config),
        loss=loss,
        start=None if config.start is None or is_resumed else _start_weights(config.start, config.net),
        device=device,
        processes=processes,
    )


def _start_weights(path: str, net: str) -> StateDict:
    """The weights that a new run starts from, which must fit its network."""
    weights = checkpoint.read(path)
    try:
        nets.load_weights(nets.create(net), weights)
    except ConfigError as error:
        raise ConfigError(f"--from {path}: {error}") from error
    return weights


def _teacher_loss(config: TrainConfig, teacher: TeacherConfig, images: ImageDataset, device: torch.device) -> Loss:
    """Cross-entropy with the labels mixed with the probabilities of a trained network, which must take `images`."""
    model = build(teacher.net or config.net, checkpoint.read(teacher.file)).eval()
    own, known = (_outputs(network, images) for network in (nets.create(config.net), model))
    require(own == known, f"--teacher {teacher.file}: has {known} outputs and the network {own}; check --teacher-net.")
    model.to(device)

    def loss(logits: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            known = model(images).float().softmax(dim=1)
        own = functional.cross_entropy(logits, labels)
        return (1 - teacher.share) * own + teacher.share * functional.cross_entropy(logits, known)

    return loss


def _outputs(model: nn.Module, images: ImageDataset) -> int:
    """How many a network has."""
    one = images.take(torch.arange(1))
    accuracy(model, one)
    with torch.no_grad():
        return int(model.eval()(to_float(one.images)).shape[1])


def _metadata(config: TrainConfig) -> container.Metadata:
    return {"net": config.net, "data": config.data}


def _finish(trainer: Trainer, splits: DataSplits, begun: float, progress: Progress) -> TrainingOutcome:
    if trainer.processes.is_first:
        trainer.observer = _Recorder(trainer)
    kept = trainer.run()
    return trainer.processes.by_first(lambda: _written(trainer, kept, splits, begun, progress))


def _written(
    trainer: Trainer, kept: Candidate, splits: DataSplits, begun: float, progress: Progress
) -> TrainingOutcome:
    """Write the file of the epoch that was kept, measure it, and write what else a run leaves."""
    path = trainer.folder / MODEL_FILE
    if trainer.config.is_plain:
        tensors = pipeline.to_tensors(kept.state_dict, grids={})
    else:
        model = build(trainer.config.net, kept.state_dict)
        tensors = trained_tensors(model, kept.grids, progress=progress)
    progress.stage("writing the file", 1)
    container.write(path, tensors, metadata=_metadata(trainer.config))
    progress.stage("measuring the file", 1)
    measured = measure_file(path, net=trainer.config.net, load_dataset=lambda: splits.test)
    from metaq.lab.plots import save_curves

    save_curves(trainer.folder / CURVES_FILE, trainer.records, kept_epoch=kept.record.epoch)
    summary = replace(measured, seconds=time.perf_counter() - begun)
    outcome = TrainingOutcome(
        summary=summary,
        validation_accuracy=kept.record.quantized_accuracy,
        kept_epoch=kept.record.epoch,
        epochs=len(trainer.records),
        folder=trainer.folder,
        weights=checkpoint.restore(tensors),
    )
    write_bytes(trainer.folder / SUMMARY_FILE, (json.dumps(outcome_to_dict(outcome)) + "\n").encode())
    return outcome


def outcome_to_dict(outcome: TrainingOutcome) -> dict[str, float | int | str]:
    """Plain dictionary with the summary's numbers at the top."""
    return {
        **outcome.summary.to_dict(),
        "validation_accuracy": outcome.validation_accuracy,
        "kept_epoch": outcome.kept_epoch,
        "epochs": outcome.epochs,
        "file": str(outcome.folder / MODEL_FILE),
    }
