"""The LeNets: two of LeCun et al. (1998), and the one that most papers on compression take."""

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_SHAPE = (1, 28, 28)


class LeNet5(nn.Module):
    """LeNet-5 as in the thesis that metaq grew out of, with tanh and average pooling without weights: 44,426 weights.

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


class LeNet5Caffe(nn.Module):
    """LeNet-5 as in Caffe's example, with maximum pooling: 431,080 weights.

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


class LeNet300(nn.Module):
    """LeNet-300-100, linear layers 784 → 300 → 100 → 10 with ReLU: 266,610 weights.

    Takes float images of shape (N, 1, 28, 28) in [0, 1], returns logits of shape (N, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        hidden = functional.relu(self.fc1(images.flatten(1)))
        hidden = functional.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits
