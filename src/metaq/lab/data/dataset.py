"""What a data set is: images and labels in memory, in three splits that are the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.errors import ConfigError, DataError

ProgressCallback = Callable[[int, int | None, str], object]
"""Called with the bytes done, the bytes in all (None where the server does not say) and the name of the file."""

DATA_VARIABLE = "METAQ_DATA"
"""Environment variable with the folder of all data sets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """Labelled images: uint8 of shape (N, channels, height, width), and int64 labels of shape (N,) in ``[0, classes)``.

    Raises :class:`DataError` if a tensor has another dtype or shape, there are no images, or a label is out of range.
    """

    images: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.numel() == 0:
            raise DataError(
                f"images: {_describe(self.images)} given; uint8 of shape (N, channels, height, width) is needed, "
                "with one image at least."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels: {_describe(self.labels)} given; int64 of shape ({len(self.images)},) is needed, "
                "one label for each image."
            )
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        if lowest < 0 or highest >= self.classes:
            raise DataError(
                f"labels: values from {lowest} to {highest} given; {self.classes} classes are numbered from 0 to "
                f"{self.classes - 1}."
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def take(self, indices: Tensor) -> ImageDataset:
        """A copy that holds only the images at `indices` (int64, any length), in that order."""
        return ImageDataset(images=self.images[indices], labels=self.labels[indices], classes=self.classes)

    def to(self, device: torch.device) -> ImageDataset:
        """The same images on `device`; no copy if they are there."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSplits:
    """A data set in three parts that share no image: to learn from, to choose with, and to report on.

    The name is that in the registry, or of a copy that is not the original, or of the folder.
    """

    name: str
    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the caller of :func:`metaq.lab.data.load` asked for; see there. Every loader takes one."""

    data_dir: Path | None = None
    validation_count: int | None = None
    progress: ProgressCallback | None = None

    @property
    def named_folders(self) -> list[Path]:
        """The folder that the caller names, or else METAQ_DATA, if either does."""
        if self.data_dir is not None:
            return [self.data_dir]
        named = os.environ.get(DATA_VARIABLE)
        return [Path(named).expanduser()] if named else []


def cache_folder() -> Path:
    """Folder for downloads: ``metaq`` in XDG_CACHE_HOME, or in ``~/.cache`` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "metaq"


def dataset_of(images: NDArray[np.uint8], labels: NDArray[np.integer], classes: int) -> ImageDataset:
    """Images (N, channels, height, width) and labels (N,) of arrays, copied."""
    return ImageDataset(
        images=torch.from_numpy(images.copy()), labels=torch.from_numpy(labels.astype(np.int64)), classes=classes
    )


def to_float(images: Tensor) -> Tensor:
    """uint8 `images` of any shape as float32 in [0, 1]; raises :class:`DataError` for another dtype, never divides it.

    Examples
    --------
    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.dtype != torch.uint8:
        raise DataError(f"images: {_describe(images)} given; to_float takes uint8.")
    return images.to(torch.float32).div_(255)


def channels_last(images: Tensor) -> Tensor:
    """`images` of shape (N, C, H, W) with the same values, laid out for convolutions; others are returned as they are.

    Strides that say so even where C = 1 let oneDNN train a LeNet in about two thirds of the time.

    Examples
    --------
    >>> channels_last(torch.zeros(2, 1, 28, 28)).stride()
    (784, 1, 28, 1)
    """
    if images.ndim != 4:
        return images
    _, channels, height, width = images.shape
    laid_out = images.contiguous(memory_format=torch.channels_last)
    return laid_out.as_strided(images.shape, (channels * height * width, 1, width * channels, channels))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


SPLIT_SEED = 0
"""Seed of every split. Changing it makes results incomparable with earlier ones."""


def fixed_permutation(count: int) -> Tensor:
    """A permutation of ``range(count)`` that never changes, int64 of shape (count,).

    The raw output of PCG64 is sorted, because numpy promises that stream for ever; it does not promise what
    ``Generator.permutation`` makes of it.

    Examples
    --------
    >>> fixed_permutation(6).tolist()
    [3, 2, 1, 0, 4, 5]
    """
    draws = np.random.PCG64(SPLIT_SEED).random_raw(count)
    return torch.from_numpy(np.argsort(draws, kind="stable"))


def hold_out(dataset: ImageDataset, *, count: int) -> tuple[ImageDataset, ImageDataset]:
    """Split in two: what is left, and `count` images held out, both in order; :class:`ConfigError` if one is empty."""
    if not 1 <= count < len(dataset):
        raise ConfigError(
            f"validation count: {count} cannot be held out of {len(dataset)} images; choose a number from 1 to "
            f"{len(dataset) - 1}."
        )
    order = fixed_permutation(len(dataset))
    return dataset.take(order[count:].sort().values), dataset.take(order[:count].sort().values)


def splits_of(
    name: str, training: ImageDataset, test: ImageDataset, options: LoadOptions, *, one_in: int
) -> DataSplits:
    """Hold as many training images out as the options say, by default one in so many."""
    count = options.validation_count
    train, validation = hold_out(training, count=max(1, len(training) // one_in) if count is None else count)
    return DataSplits(name=name, train=train, validation=validation, test=test)
