"""Model folders, as ``metaq decompress`` restores them."""

from __future__ import annotations

import time
from pathlib import Path

from metaq.cli import output
from metaq.compression.restoring import holds_folder, restore_folder

__all__ = ["decompress", "holds_folder"]


def decompress(source: Path, out: Path, *, force: bool, as_json: bool) -> None:
    """Restore a folder and print what is in it."""
    begun = time.perf_counter()
    with output.stage_progress(is_silent=as_json) as progress:
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
    output.note_names("files", dict.fromkeys(restored.files, ""))
