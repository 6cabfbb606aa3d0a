"""Inputs for calibration as they lie in files: texts, arrays and pictures."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

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
    found = _loaded(path)
    if isinstance(found, Mapping):
        raise DataError(f"{path}: holds several arrays; write one with numpy.save.")
    samples = _numbers(path, found)
    return torch.split(samples, batch_size(len(samples)))


def named_arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an ``.npz`` file by name, each as in :func:`arrays` but for single numbers, which may be there too;
    or the one of an ``.npy`` file, whose name is empty.
    """
    found = _loaded(path)
    if not isinstance(found, Mapping):
        return {"": _numbers(path, found)}
    if not found:
        raise DataError(f"{path}: holds no array; write some with numpy.savez.")
    return {name: _numbers(f"{path}: {name}", array, can_be_single=True) for name, array in found.items()}


def _loaded(path: Path) -> Any:
    """What a file holds: an array, or arrays by name."""
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from error


def _numbers(path: Path | str, found: Any, *, can_be_single: bool = False) -> torch.Tensor:
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise DataError(f"{path}: holds no array of real numbers; write one with numpy.save.")
    if not (can_be_single and not found.ndim) and (found.ndim < 1 or not found.size):
        raise DataError(f"{path}: its shape is {found.shape}; the first dimension has to be that of samples.")
    with np.errstate(over="ignore"):
        samples = torch.from_numpy(found.astype({"f": np.float32, "b": np.bool_}.get(found.dtype.kind, np.int64)))
    if not bool(samples.isfinite().all()):
        raise DataError(f"{path}: holds NaN or infinity; repair the inputs first.")
    return samples


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
