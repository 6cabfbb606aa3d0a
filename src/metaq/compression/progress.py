"""How far a job is, told to whoever shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows stages of a job, one after the other."""

    def stage(self, label: str, total_bytes: int) -> None:
        """Begin a stage that is over after `total_bytes` bytes."""

    def advance(self, size_bytes: int) -> None:
        """So many bytes more of the stage are done."""


class NoProgress:
    """Shows nothing."""

    def stage(self, label: str, total_bytes: int) -> None:
        """See :meth:`Progress.stage`."""

    def advance(self, size_bytes: int) -> None:
        """See :meth:`Progress.advance`."""
