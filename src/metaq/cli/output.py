"""What the commands print: tables and JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypedDict

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from metaq.lab.runs import Summary
from metaq.lab.train import EpochRecord
from metaq.tensors.coverage import Coverage

STDOUT = Console(highlight=False)
STDERR = Console(stderr=True, highlight=False)

MOST_ROWS = 20
"""Tensors listed one by one."""


class _Display(TypedDict):
    console: Console
    transient: bool
    disable: bool


def error(message: str) -> None:
    """One sentence on stderr."""
    STDERR.print(f"metaq: {message}", markup=False, soft_wrap=True)


def note(message: str) -> None:
    """Progress in words on stderr."""
    STDERR.print(message, markup=False, soft_wrap=True)


def note_names(what: str, names: Mapping[str, str]) -> None:
    """A line on stderr with names, and the reason of each if there is one; nothing without names."""
    if not names:
        return
    listed = ", ".join(f"{name} ({reason})" if reason else name for name, reason in islice(names.items(), MOST_ROWS))
    more = f" and {len(names) - MOST_ROWS} more" if len(names) > MOST_ROWS else ""
    note(f"{what}: {listed}{more}")


@contextmanager
def silent(*, unless: bool) -> Iterator[None]:
    """Print nothing inside the ``with`` block, if there is somebody else to print it."""
    before = STDOUT.quiet, STDERR.quiet
    STDOUT.quiet, STDERR.quiet = before[0] or not unless, before[1] or not unless
    try:
        yield
    finally:
        STDOUT.quiet, STDERR.quiet = before


def print_json(values: Mapping[str, object]) -> None:
    """One object on stdout."""
    STDOUT.out(json.dumps(values), highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers."""
    STDOUT.print(title, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0))
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    STDOUT.print(table, markup=False)


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """A summary as rows of a two-column table."""
    return [
        ("accuracy of the restored weights", f"{summary.accuracy:.2f} %"),
        *size_rows(summary.to_dict()),
        ("seconds", f"{summary.seconds:.1f}"),
    ]


def size_rows(sizes: Mapping[str, float | int]) -> list[tuple[str, str]]:
    """Sizes as rows of a two-column table."""
    return [
        ("file", f"{sizes['bytes']:,} bytes"),
        ("float tensors", f"{sizes['float_bytes']:,} bytes"),
        ("ratio", f"{sizes['ratio']:.1f} x"),
        ("weights", f"{sizes['weights']:,}"),
        ("bits per weight", f"{sizes['bits_per_weight']:.3f}"),
    ]


def coverage_rows(coverage: Coverage) -> list[tuple[str, str]]:
    """How much is quantised, as rows of a two-column table."""
    return [
        ("quantised", f"{coverage.quantized_bytes:,} of {coverage.tensor_bytes:,} bytes, {coverage.share:.1%}"),
    ]


def print_left_out(coverage: Coverage) -> None:
    """What is not quantised and why on stdout, and on stderr a warning if that is much."""
    if coverage.left_out:
        rows = [(part.name, f"{part.size_bytes:,}", part.reason) for part in coverage.left_out[:MOST_ROWS]]
        rest = coverage.left_out[MOST_ROWS:]
        if rest:
            rows.append((f"and {len(rest):,} more", f"{sum(part.size_bytes for part in rest):,}", ""))
        print_table("stored exactly, not quantised", ["tensor", "bytes", "why"], rows)
    warn_of_left_out(coverage)


def warn_of_left_out(coverage: Coverage) -> None:
    """A warning on stderr if much is not quantised."""
    warning = coverage.warning()
    if warning is not None:
        note(f"warning: {warning}")


def folded_rows(units: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    """Units of every layer that folding makes smaller, as rows of a two-column table."""
    return [(f"units of {name}", f"{before:,}, {after:,} folded") for name, (before, after) in units.items()]


class TrainingProgress:
    """A bar with the time left, and the numbers of the last epoch."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    def on_step(self, step: int, total_steps: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, total=total_steps)

    def on_epoch(self, record: EpochRecord) -> None:
        """Print one line for the epoch."""
        exact = record.file_bytes is not None
        size = f"{record.file_bytes:,} bytes" if exact else f"about {record.estimated_bytes:,.0f} bytes"
        self._progress.console.print(
            f"epoch {record.epoch:3d}  loss {record.loss:.4f}  validation {record.float_accuracy:.2f} % float, "
            f"{record.quantized_accuracy:.2f} % quantised  {size}"
            f"  {record.seconds:.1f} s",
            markup=False,
            soft_wrap=True,
        )


class QuietProgress(TrainingProgress):
    """The bar alone."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Print nothing."""


class DownloadProgress:
    """A bar for every file that is downloaded."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, bytes_done: int, bytes_total: int | None, filename: str) -> None:
        """Move the bar of `filename`."""
        if filename not in self._tasks:
            self._tasks[filename] = self._progress.add_task(filename, total=bytes_total)
        self._progress.update(self._tasks[filename], completed=bytes_done, total=bytes_total)


class StageProgress:
    """A bar for the stage that a job is in, by bytes, with the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def stage(self, label: str, total_bytes: int) -> None:
        """Begin a stage of `total_bytes` bytes."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(label, total=total_bytes)

    def advance(self, size_bytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, size_bytes)


def _display() -> _Display:
    """Where bars are drawn: on a terminal, and nowhere else."""
    return {"console": STDERR, "transient": True, "disable": not STDERR.is_terminal}


@contextmanager
def step_progress() -> Iterator[Progress]:
    """A progress display on stderr that counts steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), **_display()) as progress:
        yield progress


@contextmanager
def stage_progress(*, is_silent: bool = False) -> Iterator[StageProgress]:
    """A progress display on stderr for the stages of a job."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), TextColumn("left"))
    display = _display()
    display["disable"] = display["disable"] or is_silent
    with Progress(*columns, TimeRemainingColumn(), **display) as progress:
        yield StageProgress(progress)


@contextmanager
def download_progress() -> Iterator[DownloadProgress]:
    """A progress display on stderr that counts bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, **_display()) as progress:
        yield DownloadProgress(progress)
