"""VGG-11 with batch normalisation, as it is cut for CIFAR-10: 9,228,362 weights (after Simonyan and Zisserman 2015)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from metaq.lab.nets import standardize

INPUT_SHAPE = (3, 32, 32)

WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (0, 1, 3, 5, 7)
"""Numbers of the blocks that end in maximum pooling."""


class Block(nn.Module):
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
    """Eight convolutions with five poolings, and one linear layer, for ten classes.

    Takes float images of shape (N, 3, 32, 32) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.standardize = standardize.cifar10()
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip((3, *WIDTHS), WIDTHS, strict=False))
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
