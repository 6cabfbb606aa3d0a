"""CIFAR-10: 50,000 and 10,000 photographs of 32×32 pixels in ten classes (Krizhevsky 2009)."""

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
from metaq.lab.data.dataset import (
    DATA_VARIABLE,
    DataSplits,
    ImageDataset,
    LoadOptions,
    cache_folder,
    dataset_of,
    splits_of,
)

NAME = "cifar10"
JPEG_NAME = "cifar10-jpeg"
"""Name of the splits that come from the JPEG copy."""

SIDE, CHANNELS, CLASSES = 32, 3, 10
ARCHIVE = "cifar10_jpeg.npz"
TRAIN_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_BATCH = "test_batch.bin"
PICKLED_BATCH = "data_batch_1"
EXPECTED = f"the six files of its binary version ({TRAIN_BATCHES[0]} to {TEST_BATCH}), or {ARCHIVE}"
SUBFOLDERS = (NAME, "cifar-10-batches-bin")
MAX_BYTES = 1 << 30
RECORD_BYTES = 1 + CHANNELS * SIDE * SIDE
_TRAINING_IMAGES_FOR_ONE_HELD_OUT = 10


def load_cifar10(options: LoadOptions) -> DataSplits:
    """Load CIFAR-10; 5,000 of the 50,000 training images are held out by default.

    It is read from its binary version (``data_batch_1.bin`` and so on), or from ``cifar10_jpeg.npz``, a copy whose
    images are JPEG files; the splits are called ``cifar10-jpeg`` then, because accuracies on a lossy copy compare only
    with each other. Either is looked for in ``options.data_dir`` and nowhere else if that is given; otherwise in the
    folder that the environment variable METAQ_DATA names, then in the user's cache. In each folder the files may lie
    directly or in a subfolder ``cifar10`` or ``cifar-10-batches-bin``. Nothing is downloaded.
    """
    name, train, test = _read(_find(options))
    return splits_of(name, train, test, options, one_in=_TRAINING_IMAGES_FOR_ONE_HELD_OUT)


def read_binary(path: Path) -> ImageDataset:
    """Read one file of the binary version: records of a label and 3,072 bytes, all red, all green, all blue.

    Raises :class:`DataError` if it cannot be read, is no whole number of records, or has a label above 9.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes == 0 or size_bytes % RECORD_BYTES or size_bytes > MAX_BYTES:
            raise DataError(f"{path}: has {size_bytes} bytes, not whole records of {RECORD_BYTES}; fetch it again.")
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, RECORD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    labels = records[:, 0]
    if labels.max() >= CLASSES:
        raise DataError(f"{path}: a record has the label {labels.max()}; CIFAR-10 has labels from 0 to {CLASSES - 1}.")
    return dataset_of(records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE), labels, CLASSES)


def _read(folder: Path) -> tuple[str, ImageDataset, ImageDataset]:
    """Name, training and test images of a folder that holds one of the two forms."""
    batches = [folder / name for name in (*TRAIN_BATCHES, TEST_BATCH)]
    missing = [path.name for path in batches if not path.is_file()]
    if not missing:
        *train, test = (read_binary(path) for path in batches)
        images, labels = (torch.cat([getattr(part, name) for part in train]) for name in ("images", "labels"))
        return NAME, ImageDataset(images=images, labels=labels, classes=CLASSES), test
    if not (folder / ARCHIVE).is_file():
        raise DataError(f"{folder}: {', '.join(missing)} not found; the folder should hold {EXPECTED}.")
    parts = read_jpeg_archive(folder / ARCHIVE)
    return JPEG_NAME, parts["train"], parts["test"]


def _find(options: LoadOptions) -> Path:
    """The folder that holds any of the files."""
    places = options.named_folders if options.data_dir is not None else [*options.named_folders, cache_folder()]
    folders = [folder for place in places for folder in (place, *(place / name for name in SUBFOLDERS))]
    for folder in folders:
        if any((folder / name).is_file() for name in (*TRAIN_BATCHES, TEST_BATCH, ARCHIVE)):
            return folder
    for folder in (*folders, *(place / "cifar-10-batches-py" for place in places)):
        if (folder / PICKLED_BATCH).is_file():
            raise DataError(
                f"{folder / PICKLED_BATCH}: is the Python version of CIFAR-10, whose pickled files can run code when "
                "they are read; fetch the binary version instead (cifar-10-binary.tar.gz)."
            )
    if options.data_dir is not None:
        raise DataError(f"{options.data_dir}: holds no CIFAR-10; it should hold {EXPECTED}.")
    looked = "".join(f", nor in {each}" for each in options.named_folders)
    raise DataError(
        f"CIFAR-10 is not in {cache_folder() / NAME}{looked}. Put {EXPECTED}, into the first, into a folder "
        f"that {DATA_VARIABLE} names, or into one that is given as --data-dir."
    )


_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, MemoryError)


def read_jpeg_archive(path: Path) -> dict[str, ImageDataset]:
    """Read and decode the images of an ``.npz`` archive by part; nothing in it is unpickled.

    Of every part, ``train`` and ``test``, it holds ``{part}_jpeg`` (uint8, all files end to end), ``{part}_offsets``
    (integers, where each file begins and where the last ends) and ``{part}_labels`` (integers). Images are in RGB, 32
    pixels high and wide. Raises :class:`DataError`, which names the file, if it cannot be read, is damaged, or holds
    something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {part: _read_part(archive, path, part) for part in ("train", "test")}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except KeyError as error:
        raise DataError(f"{path}: holds no array of this name: {error}; is it another archive?") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: is a damaged archive ({error}); fetch it again.") from error


def _read_part(archive: np.lib.npyio.NpzFile, path: Path, part: str) -> ImageDataset:
    jpeg, offsets, labels = (np.asarray(archive[f"{part}_{name}"]) for name in ("jpeg", "offsets", "labels"))
    for name, array, kinds in (("jpeg", jpeg, "u"), ("offsets", offsets, "iu"), ("labels", labels, "iu")):
        if array.dtype.kind not in kinds or array.ndim != 1:
            raise DataError(
                f"{path}: {part}_{name} is {array.dtype} of shape {array.shape}, no vector of whole numbers."
            )
    labels, offsets, data = labels.astype(np.int64), offsets.astype(np.int64), jpeg.tobytes()
    if not labels.size or labels.min() < 0 or labels.max() >= CLASSES:
        raise DataError(f"{path}: {part}_labels are not numbers from 0 to {CLASSES - 1}, or there are none.")
    if len(offsets) != len(labels) + 1 or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) <= 0).any():
        raise DataError(
            f"{path}: {part}_offsets do not rise from 0 to {len(data)} in {len(labels)} steps, the bytes of "
            f"{part}_jpeg and the number of labels; they do not belong together."
        )
    images = [
        _decoded(f"{path}: image {number} of {part}_jpeg", data[start:end])
        for number, (start, end) in enumerate(pairwise(offsets.tolist()))
    ]
    return dataset_of(np.stack(images).transpose(0, 3, 1, 2), labels, CLASSES)


def _decoded(name: str, data: bytes) -> NDArray[np.uint8]:
    """An image as uint8 of shape (32, 32, 3)."""
    reader = needed("PIL.Image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            # Only the header is read here, so that no memory is asked for by an image of another size.
            image = reader.open(io.BytesIO(data), formats=("JPEG",))
            is_right = image.size == (SIDE, SIDE) and image.mode == "RGB"
            pixels = np.asarray(image) if is_right else None
        except Exception as error:
            raise DataError(f"{name} is no intact JPEG file ({error}); fetch the archive again.") from error
    if pixels is None:
        raise DataError(
            f"{name} has {image.width}×{image.height} pixels in mode {image.mode}; {SIDE}×{SIDE} in RGB are needed."
        )
    return pixels
