"""What the commands print: tables and JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from metaq import compiled
from metaq.errors import OutputError
from metaq.files import is_standard_output, refuse_overwrite

if TYPE_CHECKING:
    from metaq.lab.runs import Summary
    from metaq.lab.train import EpochRecord
    from metaq.tensors.coverage import Coverage

STDOUT = Console(highlight=False, markup=False, emoji=False)
STDERR = Console(stderr=True, highlight=False, markup=False, emoji=False)

MOST_ROWS = 20
"""Tensors listed one by one."""

MOST_REASONS = 3
"""Reasons why tensors are kept exactly that have a line of their own."""

QUIET_SECONDS = 1.0
"""A job that takes longer says what it is doing."""

NARROWEST_NAME = 16
"""Characters to which the first column may be folded, inside words if need be."""

PLAIN = {"×": "x", "±": "+-", "…": "...", "–": "-", "−": "-", "→": "->", "≤": "<=", "≥": ">="}
"""What stands for characters that a terminal cannot show."""


def error(message: str) -> None:
    """One sentence on stderr."""
    _print(STDERR, f"metaq: {message}")


def note(message: str) -> None:
    """Progress in words on stderr."""
    _print(STDERR, message)


def line(message: str) -> None:
    """One line on stdout."""
    _print(STDOUT, message)


def claim(path: Path, *, force: bool, sources: Iterable[Path] = ()) -> None:
    """Refuse a place where no file can be written, and keep standard output for the file if it goes there.

    One of the `sources`, which are still to be read, is never replaced.
    """
    refuse_overwrite(path, force=force)
    for source in sources:
        if path.is_file() and source.exists() and path.samefile(source):
            raise OutputError(f"{path}: is what is read; give the output another name.")
    if is_standard_output(path):
        STDOUT.stderr = True


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` without what would steer a terminal or cannot be encoded for it: such characters are escaped.

    Examples
    --------
    >>> printable("a\x1b[31mb")
    'a\\\\x1b[31mb'
    >>> printable("6×5 größe", "ascii")
    '6x5 gr\\\\xf6\\\\xdfe'
    """
    plain = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    unknown = {ord(special): known for special, known in PLAIN.items() if not special.encode(encoding, "ignore")}
    return plain.translate(unknown).encode(encoding, "backslashreplace").decode(encoding)


def _print(console: Console, message: str) -> None:
    console.print(printable(message, console.encoding), soft_wrap=True)


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


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, legend: str = "") -> None:
    """A table on stdout with its legend below; the first column is text, the others are numbers.

    Where a terminal is too narrow for the columns, every cell gets a line of its own.
    """
    line(title)
    cells = [[printable(cell, STDOUT.encoding) for cell in row] for row in rows]
    widths = _widths([columns, *cells], _room())
    if widths is None:
        for first, *others in cells:
            named = [f"  {column}: {cell}" for column, cell in zip(columns[1:], others, strict=True)]
            for text in [f"{first}: {others[0]}"] if len(columns) == 2 else [first, *named]:
                line(text)
    else:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0))
        for position, (column, width) in enumerate(zip(columns, widths, strict=True)):
            table.add_column(column, justify="left" if position == 0 else "right", overflow="fold", width=width)
        for row in cells:
            table.add_row(*row)
        STDOUT.print(table, width=sum(widths) + 2 * len(widths) + 2, crop=False, no_wrap=False)
    if legend:
        line(legend)


def _room() -> int | None:
    """Characters of a line; None where nobody counts them."""
    return STDOUT.width if STDOUT.is_terminal or os.environ.get("COLUMNS") else None


def _widths(rows: Sequence[Sequence[str]], room: int | None) -> list[int] | None:
    """Widths of columns such that none but the first breaks a word; None if they do not fit."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    least = [max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    least[0] = min(least[0], NARROWEST_NAME)
    while room is not None and sum(widths) + len(widths) + 1 > room:
        widest = max(range(len(widths)), key=lambda position: widths[position] - least[position])
        if widths[widest] <= least[widest]:
            return None
        widths[widest] -= 1
    return widths


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


def score(value: float, error: float | None) -> str:
    """A score and its standard error with as many places as tell it from 1.

    Examples
    --------
    >>> score(0.99987654, 0.0000321)
    '0.99988 ± 0.00003'
    """
    places = max(3, 1 - math.floor(math.log10(max(1 - value, 1e-9))))
    return f"{value:.{places}f} ± {error or 0.0:.{places}f}"


def left_out_rows(coverage: Coverage) -> list[tuple[str, str]]:
    """What is kept exactly, and why, as rows of a two-column table."""
    reasons = list(coverage.by_reason().items())
    rows = [
        ("kept exactly", f"{size:,} bytes in {counted(number, 'tensor')}: {why}")
        for why, (number, size) in reasons[:MOST_REASONS]
    ]
    rest = [told for _, told in reasons[MOST_REASONS:]]
    if rest:
        numbers, sizes = zip(*rest, strict=True)
        rows.append(("kept exactly", f"{sum(sizes):,} bytes in {counted(sum(numbers), 'tensor')}: other reasons"))
    return rows


def counted(number: int, what: str) -> str:
    """So many of something.

    Examples
    --------
    >>> counted(1, "tensor"), counted(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def print_left_out(coverage: Coverage) -> None:
    """What is not quantised and why, tensor by tensor, on stdout, and on stderr a warning if that is much."""
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
    return [(f"units of {name}", f"{after:,} of {before:,} left") for name, (before, after) in units.items()]


class StageProgress:
    """Shows the stage that a job is in on stderr, with the share that is done and the time left.

    It is a bar on a terminal, and elsewhere a line for a stage during which nothing was said for a moment.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._timer: Timer | None = None
        self._spoke = time.monotonic()

    def stage(self, label: str, total: float | None) -> None:
        """Begin a stage; see :meth:`metaq.progress.Progress.stage`. The total may be unknown."""
        self.close()
        self._task = self._progress.add_task(printable(label, STDERR.encoding), total=total)
        if self._progress.disable:
            silence = time.monotonic() - self._spoke
            self._timer = Timer(max(QUIET_SECONDS - silence, 0.0), self._say, [label])
            self._timer.daemon = True
            self._timer.start()

    def _say(self, label: str) -> None:
        note(f"{label} …")
        self._spoke = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        """Move the bar by so much."""
        if self._task is not None:
            self._progress.advance(self._task, amount)

    def move_to(self, done: float, total: float | None) -> None:
        """Move the bar to where so much of so much is done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """End the stage."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def stage_progress() -> Iterator[StageProgress]:
    """A display on stderr of the stages of a job."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(
        *columns, TextColumn("left"), console=STDERR, transient=True, disable=not STDERR.is_terminal
    ) as display:
        progress = StageProgress(display)
        try:
            yield progress
        finally:
            progress.close()


class CompilationNotice:
    """Says once that machine code is being made, when that has taken longer than a moment in all."""

    def __init__(self) -> None:
        self._depth = 0
        self._begun = 0.0
        self._spent = 0.0
        self._timer: Timer | None = None

    def __call__(self, begins: bool) -> None:
        """See :data:`metaq.compiled.listeners`."""
        self._depth += 1 if begins else -1
        if self._spent >= QUIET_SECONDS:
            return
        if begins and self._depth == 1:
            self._begun = time.monotonic()
            self._timer = Timer(QUIET_SECONDS - self._spent, note, ["compiling once for this machine …"])
            self._timer.daemon = True
            self._timer.start()
        elif self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._spent += time.monotonic() - self._begun


@contextmanager
def telling_of_compilation() -> Iterator[None]:
    """Say inside the ``with`` block when functions are compiled for the first time."""
    notice = CompilationNotice()
    compiled.listeners.append(notice)
    try:
        yield
    finally:
        compiled.listeners.remove(notice)


class TrainingProgress:
    """A bar with the time left, and the numbers of the last epoch; `is_verbose` adds those of the latent weights."""

    def __init__(self, progress: StageProgress, label: str, *, is_verbose: bool = False) -> None:
        self._progress = progress
        self._is_verbose = is_verbose
        self._label: str | None = label

    def on_step(self, step: int, total_steps: int) -> None:
        """Move the bar."""
        if self._label is not None:
            self._progress.stage(self._label, total_steps)
            self._label = None
        self._progress.move_to(step, total_steps)

    def on_epoch(self, record: EpochRecord) -> None:
        """Print one line for the epoch."""
        latent = f" ({record.float_accuracy:.2f} % latent)" if self._is_verbose else ""
        note(
            f"epoch {record.epoch:3d}  loss {record.loss:.4f}  validation {record.quantized_accuracy:.2f} %{latent}"
            f"  about {record.estimated_bytes:,.0f} bytes  {record.seconds:.1f} s"
        )


class QuietProgress(TrainingProgress):
    """The bar alone."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Print nothing."""


class DownloadProgress:
    """A bar for the file that is downloaded."""

    def __init__(self, progress: StageProgress) -> None:
        self._progress = progress
        self._filename = ""

    def __call__(self, bytes_done: int, bytes_total: int | None, filename: str) -> None:
        """Move the bar of `filename`."""
        if filename != self._filename:
            self._filename = filename
            self._progress.stage(f"downloading {filename}", bytes_total)
        self._progress.move_to(bytes_done, bytes_total)
