"""Checks of where files and the tensors in them claim to lie."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from metaq.errors import FormatError
from metaq.model.stored import FileRange, StoredTensor

SNAPSHOTS, BLOBS = "snapshots", "blobs"
"""Folders of a cache of Hugging Face's hub: files of the first are links into the second beside it."""


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into the folder, or to the blobs of the hub's cache of which the folder is a snapshot."""
    target, home = path.resolve(), folder.resolve()
    blobs = [each.parent.parent / BLOBS for each in (home, *home.parents) if each.parent.name == SNAPSHOTS]
    return target.is_relative_to(home) or target.parent in blobs


def check_places(path: Path, tensors: Iterable[StoredTensor], stop: int) -> None:
    """Raise :class:`FormatError` if tensors in the file `path` overlap or reach beyond byte `stop`."""
    ranges = sorted(
        (tensor.place.start, tensor.size_bytes, tensor.name)
        for tensor in tensors
        if isinstance(tensor.place, FileRange)
    )
    for (start, size, name), (after, _, _) in pairwise([*ranges, (stop, 0, "")]):
        if start + size > after:
            raise FormatError(f"{path}: {name!r} is cut off or overlaps another tensor; copy or make the file again.")
