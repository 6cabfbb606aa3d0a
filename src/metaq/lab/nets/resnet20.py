"""ResNet-20 for CIFAR-10 (He, Zhang, Ren and Sun 2016, section 4.2): 269,722 weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from metaq.lab.nets import standardize

INPUT_SHAPE = (3, 32, 32)
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
    """Nineteen convolutions and a linear layer, for ten classes.

    Takes float images of shape (N, 3, 32, 32) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.standardize = standardize.cifar10()
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
