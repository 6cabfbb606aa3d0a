"""A check of where the tensors of a damaged file claim to lie."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from metaq.errors import FormatError
from metaq.model.stored import FileRange, StoredTensor


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
