"""Digits: 1,797 handwritten digits that come with scikit-learn, so that nothing need be downloaded."""

import numpy as np
import torch
from torch.nn import functional

from metaq.config import needed
from metaq.errors import ConfigError
from metaq.lab.data.dataset import DataSplits, ImageDataset, LoadOptions, fixed_permutation, hold_out

NAME = "digits"
TEST_COUNT = 400
VALIDATION_COUNT = 200
IMAGE_SIZE = 28
_HIGHEST_VALUE = 16.0


def load_digits(options: LoadOptions) -> DataSplits:
    """Load scikit-learn's digits, enlarged from 8×8 to 28×28 pixels so that networks for MNIST take them.

    By default 1,197 images are for training, 200 for validation and 400 for test. The test images do not depend on the
    validation count. Raises :class:`ConfigError` if a folder is given, as these images are not read from one.
    """
    datasets = needed("sklearn.datasets")
    if options.data_dir is not None:
        raise ConfigError(
            f"data folder: {options.data_dir} was given, but digits come with scikit-learn and are read from no "
            "folder; leave the folder out."
        )
    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images.astype(np.float32))[:, None]
    large = functional.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
    everything = ImageDataset(
        images=large.mul(255 / _HIGHEST_VALUE).round().clamp(0, 255).to(torch.uint8),
        labels=torch.from_numpy(bunch.target.astype(np.int64)),
        classes=len(bunch.target_names),
    )
    order = fixed_permutation(len(everything))
    count = VALIDATION_COUNT if options.validation_count is None else options.validation_count
    train, validation = hold_out(everything.take(order[TEST_COUNT:]), count=count)
    return DataSplits(name=NAME, train=train, validation=validation, test=everything.take(order[:TEST_COUNT]))
