"""Labelled JPEG files in one NumPy archive: ``{part}_jpeg`` end to end, ``{part}_offsets`` and ``{part}_labels``.

Archives may come from anywhere: nothing in them is unpickled, and every size is checked before memory is asked for.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from metaq.errors import DataError
from metaq.lab.data.dataset import ImageDataset

MAX_ARRAY_BYTES = 1 << 30
# Deflate codes at best 258 bytes in two bits, so no honest archive expands further than this.
_MAX_DEFLATE_RATIO = 1032
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


def read_jpeg_archive(path: Path, parts: tuple[str, ...], *, side: int, classes: int) -> dict[str, ImageDataset]:
    """Read and decode the images of the archive `path`.

    Parameters
    ----------
    path
        An ``.npz`` file. Of every part it holds ``{part}_jpeg`` (uint8, all files end to end), ``{part}_offsets``
        (integers, where each file begins and where the last ends) and ``{part}_labels`` (integers).
    parts
        Names of the parts.
    side
        Height and width that every image must have, in pixels; it must be in RGB.
    classes
        Number of classes.

    Returns
    -------
    dict
        The images of every part.

    Raises
    ------
    DataError
        If the archive cannot be read, is damaged, or holds something else. The message names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {part: _read_part(archive, path, part, side, classes) for part in parts}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: is a damaged archive ({error}); fetch it again.") from error


def _read_part(archive: zipfile.ZipFile, path: Path, part: str, side: int, classes: int) -> ImageDataset:
    stored = {name: _read_array(archive, path, f"{part}_{name}") for name in ("jpeg", "offsets", "labels")}
    if stored["jpeg"].dtype != np.uint8:
        raise DataError(f"{path}: {part}_jpeg holds {stored['jpeg'].dtype}; the bytes of JPEG files are uint8.")
    for name in ("offsets", "labels"):
        if stored[name].dtype.kind not in "iu":
            raise DataError(f"{path}: {part}_{name} holds {stored[name].dtype}; whole numbers are needed.")
    labels, offsets = stored["labels"].astype(np.int64), stored["offsets"].astype(np.int64)
    _check_offsets(path, part, offsets, len(labels), len(stored["jpeg"]))
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path}: {part}_labels has values from {labels.min()} to {labels.max()}; {classes} classes are numbered "
            f"from 0 to {classes - 1}."
        )
    # A list, not an array for all that the archive promises: memory is taken image by image, as they prove to be some.
    images = list(_decoded(path, part, stored["jpeg"], offsets, side))
    return ImageDataset(
        images=torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()),
        labels=torch.from_numpy(labels),
        classes=classes,
    )


def _check_offsets(path: Path, part: str, offsets: NDArray[np.int64], count: int, size_bytes: int) -> None:
    if count == 0 or len(offsets) != count + 1:
        raise DataError(
            f"{path}: {count} labels and {len(offsets)} offsets in {part}; there must be one label at least, and one "
            "offset more than labels."
        )
    if offsets[0] != 0 or offsets[-1] != size_bytes or not (np.diff(offsets) > 0).all():
        raise DataError(
            f"{path}: {part}_offsets do not rise from 0 to {size_bytes}, the bytes of {part}_jpeg; the two do not "
            "belong together."
        )


def _read_array(archive: zipfile.ZipFile, path: Path, name: str) -> NDArray[np.generic]:
    """A vector of numbers; no more than its header states, and one byte, is unpacked."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise DataError(f"{path}: holds no {name}; is it another archive under this name?") from error
    if member.compress_type not in _METHODS:
        raise DataError(f"{path}: {name} is not compressed by deflate, as NumPy does; make the archive with NumPy.")
    capacity_bytes = min(member.compress_size, path.stat().st_size) * _MAX_DEFLATE_RATIO
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise DataError(f"{path}: {name} is in an unknown version of NumPy's format; make the archive again.")
        shape, _, dtype = _HEADER_READERS[version](stream)
        if dtype.kind not in "iuf" or len(shape) != 1:
            raise DataError(f"{path}: {name} is no vector of numbers ({dtype} of shape {shape}).")
        size_bytes = prod(shape) * dtype.itemsize
        if size_bytes > min(capacity_bytes, MAX_ARRAY_BYTES):
            raise DataError(
                f"{path}: {name} states {size_bytes} bytes, more than the archive can hold; fetch it again."
            )
        payload = stream.read(size_bytes + 1)
    if len(payload) != size_bytes:
        raise DataError(f"{path}: {name} does not have the {size_bytes} bytes that it states; fetch it again.")
    return np.frombuffer(payload, dtype=dtype)


def _decoded(
    path: Path, part: str, jpeg: NDArray[np.generic], offsets: NDArray[np.int64], side: int
) -> Iterator[NDArray[np.uint8]]:
    """Images as uint8 of shape (side, side, 3)."""
    data = jpeg.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, (start, end) in enumerate(pairwise(offsets.tolist())):
            try:
                # Only the header is read here, so that no memory is asked for by an image of another size.
                image = Image.open(io.BytesIO(data[start:end]), formats=("JPEG",))
                is_right = image.size == (side, side) and image.mode == "RGB"
                pixels = np.asarray(image) if is_right else None
            except Exception as error:
                raise DataError(
                    f"{path}: image {number} of {part}_jpeg is no intact JPEG file ({error}); fetch the archive again."
                ) from error
            if pixels is None:
                raise DataError(
                    f"{path}: image {number} of {part}_jpeg has {image.width}×{image.height} pixels in mode "
                    f"{image.mode}; {side}×{side} in RGB are needed."
                )
            yield pixels
