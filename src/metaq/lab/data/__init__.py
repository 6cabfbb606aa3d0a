"""Image data sets, loaded whole into memory as uint8 tensors, and their augmentation."""

from metaq.lab.data.augmentation import Augmentation, CropAndFlip, augment, crop_and_flip
from metaq.lab.data.dataset import DataSplits, ImageDataset, ProgressCallback, channels_last, to_float
from metaq.lab.data.registry import load

__all__ = [
    "Augmentation",
    "CropAndFlip",
    "DataSplits",
    "ImageDataset",
    "ProgressCallback",
    "augment",
    "channels_last",
    "crop_and_flip",
    "load",
    "to_float",
]
