"""Labelled JPEG files in one NumPy archive: ``{part}_jpeg`` end to end, ``{part}_offsets`` and ``{part}_labels``."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import needed
from metaq.errors import DataError
from metaq.lab.data.dataset import ImageDataset

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, MemoryError)


def read_jpeg_archive(path: Path, parts: tuple[str, ...], *, side: int, classes: int) -> dict[str, ImageDataset]:
    """Read and decode the images of an ``.npz`` archive by part; nothing in it is unpickled.

    Of every part it holds ``{part}_jpeg`` (uint8, all files end to end), ``{part}_offsets`` (integers, where each file
    begins and where the last ends) and ``{part}_labels`` (integers). Images are in RGB, `side` pixels high and wide.
    Raises :class:`DataError`, which names the file, if it cannot be read, is damaged, or holds something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {part: _read_part(archive, path, part, side, classes) for part in parts}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except KeyError as error:
        raise DataError(f"{path}: holds no array of this name: {error}; is it another archive?") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: is a damaged archive ({error}); fetch it again.") from error


def _read_part(archive: np.lib.npyio.NpzFile, path: Path, part: str, side: int, classes: int) -> ImageDataset:
    jpeg, offsets, labels = (np.asarray(archive[f"{part}_{name}"]) for name in ("jpeg", "offsets", "labels"))
    for name, array, kinds in (("jpeg", jpeg, "u"), ("offsets", offsets, "iu"), ("labels", labels, "iu")):
        if array.dtype.kind not in kinds or array.ndim != 1:
            raise DataError(
                f"{path}: {part}_{name} is {array.dtype} of shape {array.shape}, no vector of whole numbers."
            )
    labels, offsets, data = labels.astype(np.int64), offsets.astype(np.int64), jpeg.tobytes()
    if not labels.size or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path}: {part}_labels are not numbers from 0 to {classes - 1}, or there are none.")
    if len(offsets) != len(labels) + 1 or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) <= 0).any():
        raise DataError(
            f"{path}: {part}_offsets do not rise from 0 to {len(data)} in {len(labels)} steps, the bytes of "
            f"{part}_jpeg and the number of labels; they do not belong together."
        )
    images = [
        _decoded(f"{path}: image {number} of {part}_jpeg", data[start:end], side)
        for number, (start, end) in enumerate(pairwise(offsets.tolist()))
    ]
    return ImageDataset(
        images=torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()),
        labels=torch.from_numpy(labels),
        classes=classes,
    )


def _decoded(name: str, data: bytes, side: int) -> NDArray[np.uint8]:
    """An image as uint8 of shape (side, side, 3)."""
    reader = needed("PIL.Image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # Only the header is read here, so that no memory is asked for by an image of another size.
            image = reader.open(io.BytesIO(data), formats=("JPEG",))
            is_right = image.size == (side, side) and image.mode == "RGB"
            pixels = np.asarray(image) if is_right else None
        except Exception as error:
            raise DataError(f"{name} is no intact JPEG file ({error}); fetch the archive again.") from error
    if pixels is None:
        raise DataError(
            f"{name} has {image.width}×{image.height} pixels in mode {image.mode}; {side}×{side} in RGB are needed."
        )
    return pixels
