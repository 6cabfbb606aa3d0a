"""Networks for the photographs of CIFAR-10, which begin by standardising every channel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_SHAPE = (3, 32, 32)
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


BLOCKS = 3
"""In each of the three stages of 16, 32 and 64 channels."""


class Block(nn.Module):
    """Two 3×3 convolutions with batch normalisation beside a shortcut without weights (option A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.new_channels = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """From (N, inputs, h, w) to (N, outputs, h / stride, w / stride)."""
        changed = functional.relu(self.norm1(self.conv1(features)))
        changed = self.norm2(self.conv2(changed))
        return functional.relu(changed + self._shortcut(features))

    def _shortcut(self, features: Tensor) -> Tensor:
        if self.stride == 1:
            return features
        before, after = self.new_channels // 2, self.new_channels - self.new_channels // 2
        return functional.pad(features[:, :, ::2, ::2], (0, 0, 0, 0, before, after))


class ResNet20(nn.Module):
    """ResNet-20, nineteen convolutions and a linear layer (He et al. 2016, section 4.2): 269,722 weights.

    Takes float images of shape (N, 3, 32, 32) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.standardize = Standardize(CIFAR10_MEAN, CIFAR10_STANDARD_DEVIATION)
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16] * BLOCKS + [32] * BLOCKS + [64] * BLOCKS
        self.blocks = nn.Sequential(*(Block(*pair) for pair in zip([16, *widths], widths, strict=False)))
        self.linear = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        features = functional.relu(self.norm(self.conv(self.standardize(images))))  # (N, 16, 32, 32)
        features = self.blocks(features)  # (N, 64, 8, 8)
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (0, 1, 3, 5, 7)
"""Numbers of the blocks that end in maximum pooling."""


class _VGGBlock(nn.Module):
    """A 3×3 convolution, batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """From (N, inputs, h, w) to (N, outputs, h, w)."""
        return functional.relu(self.norm(self.conv(features)))


class VGG11(nn.Module):
    """VGG-11 with batch normalisation, as it is cut for CIFAR-10: 9,228,362 weights.

    Eight convolutions with five poolings, and one linear layer (after Simonyan and Zisserman 2015).

    Takes float images of shape (N, 3, 32, 32) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.standardize = Standardize(CIFAR10_MEAN, CIFAR10_STANDARD_DEVIATION)
        self.blocks = nn.ModuleList(_VGGBlock(*pair) for pair in zip((3, *WIDTHS), WIDTHS, strict=False))
        self.linear = nn.Linear(WIDTHS[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        features = self.standardize(images)
        for number, block in enumerate(self.blocks):
            features = block(features)
            if number in POOLED:
                features = functional.max_pool2d(features, 2)
        logits: Tensor = self.linear(features.flatten(1))  # from (N, 512, 1, 1)
        return logits
