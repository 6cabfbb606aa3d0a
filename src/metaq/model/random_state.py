"""Random numbers that a network draws while it runs, drawn again: outputs differ by the weights alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class RandomState:
    """Which random numbers come next from PyTorch's own generators, on the CPU and on the devices of `model`."""

    def __init__(self, model: nn.Module) -> None:
        places = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
        self._cpu = torch.get_rng_state()
        self._others = {place: _generator(place).get_rng_state(*_number(place)) for place in places if _draws(place)}

    def restore(self) -> None:
        """Let the same numbers come next."""
        torch.set_rng_state(self._cpu)
        for place, state in self._others.items():
            _generator(place).set_rng_state(state, *_number(place))


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """After the ``with`` block the same random numbers come next as before it."""
    before = RandomState(model)
    try:
        yield
    finally:
        before.restore()


def _draws(place: torch.device) -> bool:
    """Whether an accelerator has a generator of its own."""
    return place.type not in ("cpu", "meta") and hasattr(_generator(place), "set_rng_state")


def _generator(place: torch.device) -> Any:
    return getattr(torch, place.type, None)


def _number(place: torch.device) -> tuple[torch.device, ...]:
    """The device where there may be several."""
    return () if place.type == "mps" else (place,)
