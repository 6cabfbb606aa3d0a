"""How far a job is, told to whoever shows it: every stage that may last longer than two seconds says so here."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Shows the stages of a job, one after the other."""

    def stage(self, label: str, total: float) -> None:
        """Begin a stage, which ends the one before. `total` is in any unit: bytes, steps, tensors."""

    def advance(self, amount: float = 1) -> None:
        """So much more of the stage is done, in the unit of its total."""


class NoProgress:
    """Shows nothing."""

    def stage(self, label: str, total: float) -> None:
        """See :meth:`Progress.stage`."""

    def advance(self, amount: float = 1) -> None:
        """See :meth:`Progress.advance`."""


def tracked(items: Sequence[Item], progress: Progress, label: str) -> Iterator[Item]:
    """`items`, one after the other, as a stage of their number."""
    progress.stage(label, len(items))
    for item in items:
        yield item
        progress.advance()
