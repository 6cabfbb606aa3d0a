from __future__ import annotations

import torch
from torch import nn

from metaq import EntropyRegularizer

STEPS = 400


class Loop:
    """A network learns what a random one computes, by any optimiser; its loss times `scale`."""

    def __init__(self, *, width: int = 48, scale: float = 1.0, make_optimizer=None, seed: int = 0) -> None:
        torch.manual_seed(seed)
        hidden = [nn.Linear(8, width), nn.GELU(), nn.Linear(width, width), nn.GELU()]
        self.model = nn.Sequential(*hidden, nn.Linear(width, 3))
        with torch.random.fork_rng():
            torch.manual_seed(99)
            self._teacher = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        make_optimizer = make_optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=3e-3))
        self.optimizer = make_optimizer(self.model.parameters())
        self._scale = scale
        self._generator = torch.Generator().manual_seed(seed)

    def step(self) -> None:
        inputs = torch.randn(32, 8, generator=self._generator)
        self.optimizer.zero_grad()
        (self._scale * self._loss(inputs)).backward()
        self.optimizer.step()

    def _loss(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = self._teacher(inputs)
        return nn.functional.mse_loss(self.model(inputs), wanted)

    @torch.no_grad()
    def error(self) -> float:
        return float(self._loss(torch.randn(1000, 8, generator=torch.Generator().manual_seed(7))))


def float_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def trained(loop: Loop, *, steps: int = STEPS, total_steps: int = STEPS, **goal) -> EntropyRegularizer:
    regularizer = EntropyRegularizer(loop.model, total_steps=total_steps, **goal).attach(loop.optimizer)
    for _ in range(steps):
        loop.step()
    return regularizer
