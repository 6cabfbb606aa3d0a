"""A folder of four IDX files with MNIST's names: the way to bring one's own images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.errors import DataError
from metaq.lab.data.dataset import DataSplits, ImageDataset, LoadOptions, hold_out
from metaq.lab.data.idx import read_idx

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
DIMENSIONS = {TRAIN_IMAGES: 3, TRAIN_LABELS: 1, TEST_IMAGES: 3, TEST_LABELS: 1}
"""Names of the four files, each with the number of its axes. Every name may be followed by ``.gz``."""

_TRAINING_IMAGES_FOR_ONE_HELD_OUT = 12


def load_folder(folder: Path, options: LoadOptions) -> DataSplits:
    """Read the four IDX files of `folder`; a twelfth of the training images is held out by default.

    Raises :class:`DataError` if a file is missing or damaged, or files disagree about the size or the number of images.
    """
    paths = find_files(folder)
    refuse_missing(folder, paths)
    return splits_from_arrays(folder.resolve().name, read_files(paths), paths, options)


def find_files(folder: Path) -> dict[str, Path]:
    """Those of the four files that lie in `folder`; an uncompressed file comes before its ``.gz``."""
    candidates = {name: (folder / name, folder / f"{name}.gz") for name in DIMENSIONS}
    found = {name: next((path for path in paths if path.is_file()), None) for name, paths in candidates.items()}
    return {name: path for name, path in found.items() if path is not None}


def refuse_missing(folder: Path, paths: Mapping[str, Path]) -> None:
    """Raise :class:`DataError`, naming the folder and the files expected, unless `paths` has all four."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it should hold {expected_files()}.")
    missing = [name for name in DIMENSIONS if name not in paths]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} not found; the folder should hold {expected_files()}.")


def expected_files() -> str:
    """Half a sentence that lists the four names."""
    return f"the IDX files {', '.join(DIMENSIONS)}, each as it is or with .gz"


def read_files(paths: Mapping[str, Path]) -> dict[str, NDArray[np.uint8]]:
    """Read all four files."""
    return {name: read_idx(paths[name], dimensions=count) for name, count in DIMENSIONS.items()}


def splits_from_arrays(
    name: str, arrays: Mapping[str, NDArray[np.uint8]], paths: Mapping[str, Path], options: LoadOptions
) -> DataSplits:
    """Join images and labels and hold out the validation images; `paths` are for messages.

    Raises :class:`DataError` if numbers of images and labels, or sizes of images, do not fit together.
    """
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        if len(arrays[images]) != len(arrays[labels]):
            raise DataError(
                f"{paths[labels]}: {len(arrays[labels])} labels for the {len(arrays[images])} images of "
                f"{paths[images]}; the two files do not belong together."
            )
    if arrays[TRAIN_IMAGES].shape[1:] != arrays[TEST_IMAGES].shape[1:]:
        raise DataError(
            f"{paths[TEST_IMAGES]}: images of {_size(arrays[TEST_IMAGES])}, while those of {paths[TRAIN_IMAGES]} have "
            f"{_size(arrays[TRAIN_IMAGES])}; the two files do not belong together."
        )
    classes = 1 + max(int(arrays[TRAIN_LABELS].max()), int(arrays[TEST_LABELS].max()))
    training = _dataset(arrays[TRAIN_IMAGES], arrays[TRAIN_LABELS], classes)
    count = options.validation_count
    if count is None:
        count = max(1, len(training) // _TRAINING_IMAGES_FOR_ONE_HELD_OUT)
    train, validation = hold_out(training, count=count)
    test = _dataset(arrays[TEST_IMAGES], arrays[TEST_LABELS], classes)
    return DataSplits(name=name, train=train, validation=validation, test=test)


def _dataset(images: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> ImageDataset:
    return ImageDataset(
        images=torch.from_numpy(images[:, None].copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=classes,
    )


def _size(images: NDArray[np.uint8]) -> str:
    return f"{images.shape[1]}×{images.shape[2]} pixels"
