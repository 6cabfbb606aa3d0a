"""LeNet-5 as in Caffe's example, the variant of most papers on compression: 431,080 weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

INPUT_SHAPE = (1, 28, 28)


class LeNet5Caffe(nn.Module):
    """Two convolutions with maximum pooling and two linear layers, for ten classes.

    Takes float images of shape (N, 1, 28, 28) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        features = functional.max_pool2d(self.conv1(images), 2)  # (N, 20, 12, 12)
        features = functional.max_pool2d(self.conv2(features), 2)  # (N, 50, 4, 4)
        logits: Tensor = self.fc2(functional.relu(self.fc1(features.flatten(1))))
        return logits
