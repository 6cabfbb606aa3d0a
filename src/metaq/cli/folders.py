"""Model folders, as ``metaq compress`` and ``metaq decompress`` treat them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from metaq.cli import output
from metaq.compression.compressing import FolderReport, compress_folder
from metaq.compression.restoring import restore_folder
from metaq.compression.work import work_path
from metaq.model.folder import open_folder

LISTED = 20
"""Most names that a note lists."""


def compress(
    source: Path,
    out: Path,
    target_bytes: int | None,
    target_ratio: float | None,
    include: list[str] | None,
    exclude: list[str] | None,
    coder: str,
    *,
    as_json: bool,
) -> None:
    """Compress a folder and print what became of it."""
    begun = time.perf_counter()
    try:
        with output.stage_progress() as progress:
            report = compress_folder(
                open_folder(source),
                out,
                target_bytes=target_bytes,
                target_ratio=target_ratio,
                include=include or ("*",),
                exclude=exclude or (),
                coder=coder,
                progress=progress,
            )
    except KeyboardInterrupt:
        if work_path(out).exists():
            output.note(f"What is done is kept in {work_path(out)}; the same command goes on from there.")
        raise
    if report.has_discarded:
        output.note(f"{work_path(out)} was of another folder or other options; it was thrown away, and all done anew.")
    numbers = _sizes(report)
    if as_json:
        seconds = time.perf_counter() - begun
        files = {"carried": list(report.carried), "left_out": report.left_out}
        told = {**numbers, "seconds": seconds, "file": str(out), "multiplier": report.multiplier, **files}
        output.print_json({**told, **report.coverage.to_dict()})
        output.warn_of_left_out(report.coverage)
        return
    carried_row = ("of that, carried files", f"{report.carried_bytes:,} bytes")
    rows = output.size_rows(numbers)
    covered = output.coverage_rows(report.coverage)
    output.print_table(str(out), ["", "value"], [rows[0], carried_row, *rows[1:], *covered])
    _note("carried along", dict.fromkeys(report.carried, ""))
    _note("left out", report.left_out)
    output.print_left_out(report.coverage)


def decompress(source: Path, out: Path, *, force: bool, as_json: bool) -> None:
    """Restore a folder and print what is in it."""
    begun = time.perf_counter()
    with output.stage_progress() as progress:
        restored = restore_folder(source, out, force=force, progress=progress)
    file_bytes = source.stat().st_size
    numbers = {
        "bytes": file_bytes,
        "float_bytes": restored.float_bytes,
        "ratio": restored.float_bytes / file_bytes,
        "weights": restored.weights,
        "bits_per_weight": 8 * file_bytes / max(restored.weights, 1),
    }
    if as_json:
        files = list(restored.files)
        output.print_json({**numbers, "seconds": time.perf_counter() - begun, "file": str(out), "files": files})
        return
    output.print_table(f"{source} restored as {out}", ["", "value"], output.size_rows(numbers))
    _note("files", dict.fromkeys(restored.files, ""))


def _sizes(report: FolderReport) -> dict[str, float | int]:
    return {
        "bytes": report.file_bytes,
        "carried_bytes": report.carried_bytes,
        "float_bytes": report.float_bytes,
        "ratio": report.float_bytes / report.file_bytes,
        "weights": report.weights,
        "bits_per_weight": 8 * report.file_bytes / max(report.weights, 1),
    }


def _note(what: str, names: Mapping[str, str]) -> None:
    """A line with names, and the reason of each if there is one."""
    if not names:
        return
    listed = ", ".join(f"{name} ({reason})" if reason else name for name, reason in islice(names.items(), LISTED))
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    output.note(f"{what}: {listed}{more}")
