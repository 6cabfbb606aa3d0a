"""What a training run remembers of every epoch, in memory and on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from metaq.files import write_bytes

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of ``metrics.jsonl``.

    Attributes
    ----------
    epoch
        From 1.
    loss
        Mean training loss over the epoch, without the regulariser, in nats.
    float_accuracy, quantized_accuracy
        Validation accuracy of the latent and of the quantised weights, in percent.
    phi_bits, bits
        φ of the latent weights and zero-order entropy of the bucket indices, in bits.
    bits_per_weight
        `bits` over the number of weights.
    estimated_bytes
        `bits` in bytes, without tables and header.
    file_bytes
        Size of the file these weights would make; None where it is not measured.
    distance
        Root mean square distance of the latent weights from the grid.
    frozen
        Weights frozen because they oscillated.
    strength
        λ at the end of the epoch.
    seconds
        Duration of the epoch, evaluation included.
    """

    epoch: int
    loss: float
    float_accuracy: float
    quantized_accuracy: float
    phi_bits: float
    bits: float
    bits_per_weight: float
    estimated_bytes: float
    file_bytes: int | None = None
    distance: float
    frozen: int
    strength: float
    seconds: float


def write_metrics(path: Path, records: Sequence[EpochRecord]) -> None:
    """Write one JSON object a line, atomically."""
    lines = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
    write_bytes(path, lines.encode())


class ScalarLog:
    """TensorBoard event file of a run, where TensorBoard is installed; a context manager.

    Parameters
    ----------
    folder
        Where the event file goes.
    after
        Steps (epochs) already logged by the run this one resumes; later ones are purged.
    """

    def __init__(self, folder: Path, *, after: int) -> None:
        self._writer = _open_writer(folder, after) if tensorboard_available() else None

    def __enter__(self) -> ScalarLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, record: EpochRecord) -> None:
        """Log every number of an epoch."""
        if self._writer is None:
            return
        for name, value in dataclasses.asdict(record).items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, record.epoch)


def _open_writer(folder: Path, after: int) -> SummaryWriter:
    # It takes a second, which only trainings need.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder), purge_step=after + 1)


def tensorboard_available() -> bool:
    """Whether scalars can be written for TensorBoard."""
    return find_spec("tensorboard") is not None
