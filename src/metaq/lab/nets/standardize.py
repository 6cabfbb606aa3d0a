"""A fixed first step that makes every channel of images about zero in the mean and one in standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STANDARD_DEVIATION = (0.2470, 0.2435, 0.2616)
"""Of the training images of CIFAR-10 in [0, 1], red, green and blue."""


class Standardize(nn.Module):
    """Subtracts a mean and divides by a standard deviation, channel by channel.

    Being part of the network, it need not be known by whoever loads a file; its constants are in none.
    """

    mean: Tensor
    standard_deviation: Tensor

    def __init__(self, mean: Sequence[float], standard_deviation: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("standard_deviation", standard_deviation)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images of shape (N, channels, height, width); RuntimeError for others, which would broadcast."""
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise RuntimeError(f"images of {channels} channels are needed, of shape (N, {channels}, height, width)")
        return (images - self.mean) / self.standard_deviation


def cifar10() -> Standardize:
    """The step for CIFAR-10."""
    return Standardize(CIFAR10_MEAN, CIFAR10_STANDARD_DEVIATION)
