"""LeNet-300-100: two hidden layers on the pixels, 266,610 weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

INPUT_SHAPE = (1, 28, 28)


class LeNet300(nn.Module):
    """Linear layers 784 → 300 → 100 → 10 with ReLU (LeCun et al. 1998).

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
