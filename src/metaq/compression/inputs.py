"""Inputs for calibration as they lie in files: texts, arrays and pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaq.config import needed
from metaq.errors import DataError

BATCH_SIZE, LEAST_BATCHES = 32, 8
"""Samples that are run at once at most, and batches at least, so that those held out are like the others."""

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"))


def batch_size(samples: int) -> int:
    """How many of so many samples are run at once."""
    return min(BATCH_SIZE, -(-samples // LEAST_BATCHES))


def texts(path: Path) -> list[str]:
    """Lines of a text file in UTF-8, without empty ones; raises :class:`DataError` if there are none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"{path}: holds no text; give one text a line.")
    return found


def arrays(path: Path) -> Sequence[torch.Tensor]:
    """Batches of the samples of an ``.npy`` file, whose first dimension is that of samples.

    Floating numbers become float32, integers int64. Raises :class:`DataError` if the file cannot be read, has no
    sample, numbers of another kind, or NaN or infinity.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise DataError(f"{path}: holds no array of real numbers; write one with numpy.save.")
    if found.ndim < 1 or not found.size:
        raise DataError(f"{path}: its shape is {found.shape}; the first dimension has to be that of samples.")
    with np.errstate(over="ignore"):
        samples = torch.from_numpy(found.astype({"f": np.float32, "b": np.bool_}.get(found.dtype.kind, np.int64)))
    if not bool(samples.isfinite().all()):
        raise DataError(f"{path}: holds NaN or infinity; repair the inputs first.")
    return torch.split(samples, batch_size(len(samples)))


def pictures(folder: Path) -> Iterator[list[Any]]:
    """Pictures of a folder in the order of their names, RGB, some at once; :class:`DataError` without any."""
    image = needed("PIL.Image")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not paths:
        raise DataError(f"{folder}: holds no picture; give one with {', '.join(sorted(PICTURES))}.")
    size = batch_size(len(paths))
    for start in range(0, len(paths), size):
        try:
            yield [image.open(path).convert("RGB") for path in paths[start : start + size]]
        except (OSError, ValueError) as error:
            raise _unreadable(folder, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(f"{path}: cannot be read ({reason}); check the file.")
