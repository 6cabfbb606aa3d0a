"""Who follows a training."""

from __future__ import annotations

from typing import Protocol

from metaq.lab.train.records import EpochRecord


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
