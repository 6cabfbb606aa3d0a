"""What a training remembers of every epoch, and who follows it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of ``metrics.jsonl``; epochs count from 1, accuracies are on validation images, in percent.

    `loss` is the mean training loss without the regulariser, in nats. `float_accuracy` and `phi_bits` (φ) are of the
    latent weights; `quantized_accuracy` is of the quantised ones, and `bits` the zero-order entropy of their bucket
    indices, per weight in `bits_per_weight`, and without tables and header in `estimated_bytes`. `distance` is the
    root mean square distance of the latent weights from the grid, `frozen` the number of weights frozen because they
    oscillated, `strength` λ at the end of the epoch, and `seconds` includes the evaluation.
    """

    epoch: int
    loss: float
    float_accuracy: float
    quantized_accuracy: float
    phi_bits: float
    bits: float
    bits_per_weight: float
    estimated_bytes: float
    distance: float
    frozen: int
    strength: float
    seconds: float


class Observer(Protocol):
    """Whoever wants to follow a run: a progress bar, a log."""

    def on_step(self, step: int, total_steps: int) -> None:
        """After every optimiser step."""

    def on_epoch(self, record: EpochRecord) -> None:
        """After every epoch, once its checkpoint is on disk."""


class Silent:
    """Follows nothing."""

    def on_step(self, step: int, total_steps: int) -> None:
        """See :meth:`Observer.on_step`."""

    def on_epoch(self, record: EpochRecord) -> None:
        """See :meth:`Observer.on_epoch`."""
