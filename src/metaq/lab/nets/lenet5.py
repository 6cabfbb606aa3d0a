"""LeNet-5 as in the thesis that metaq grew out of: 44,426 weights, tanh and average pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_SHAPE = (1, 28, 28)


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998, with average pooling without weights) for ten classes.

    Takes float images of shape (N, 1, 28, 28) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        features = functional.avg_pool2d(torch.tanh(self.conv1(images)), 2)  # (N, 6, 12, 12)
        features = functional.avg_pool2d(torch.tanh(self.conv2(features)), 2)  # (N, 16, 4, 4)
        hidden = torch.tanh(self.fc1(features.flatten(1)))
        hidden = torch.tanh(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits
