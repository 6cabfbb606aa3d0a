"""The figure of merit of weights, by a function of the user's: checked, and without a trace in the model itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from reprlib import repr as shortened

import numpy as np
import torch
from torch import nn

from metaq.config import require
from metaq.model.checkpoint import StateDict
from metaq.model.opened import OpenedModel
from metaq.model.sharding import is_sharded
from metaq.model.weights import alias_of
from metaq.progress import Progress

Accuracy = Callable[[StateDict], float]
"""From restored weights to a figure of merit, such as percent of images classified rightly."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types in which elements of so many bytes can be compared, NaN among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Held:
    """The memory of a tensor, and a copy of what it held, outside of any accelerator."""

    memory: torch.Tensor
    copy: torch.Tensor


class Figure:
    """An `accuracy` that may load weights into the model itself, or into the `module` that calibrates it: what their
    tensors held before is put back after every call. For that it keeps a copy of them.
    """

    def __init__(self, accuracy: Accuracy, model: OpenedModel, module: nn.Module | None, progress: Progress) -> None:
        self._accuracy = accuracy
        self._model = model
        self._modules = [each for each in (model.module, module) if each is not None]
        self._progress = progress
        tensors = self._tensors()
        alias = alias_of(tensors, tensors)
        copies = {name: tensors[name].detach().to("cpu", copy=True) for name in set(alias.values())}
        self._held = {name: _Held(memory=tensor.detach(), copy=copies[alias[name]]) for name, tensor in tensors.items()}

    def __call__(self, weights: StateDict) -> float:
        """The figure of some weights; raises :class:`ConfigError` if it is no number."""
        self._progress.stage("measuring accuracy", 1)
        try:
            found = self._accuracy(weights)
        finally:
            self._put_back()
        require(
            is_number(found), f"accuracy: gives {shortened(found)}, which is no number; let it return a finite one."
        )
        return found

    def of_original(self) -> float:
        """The figure of the original weights; raises :class:`ConfigError` if it is no finite number."""
        found = self(self._model.state_dict())
        require(
            math.isfinite(np.asarray(found).item()),
            f"accuracy: gives {found} for the original weights, so that no other figure can be compared with it; check "
            "the function and its data.",
        )
        return found

    def _tensors(self) -> dict[str, torch.Tensor]:
        """All tensors in memory whose change would change what is compressed, as they are now."""
        parts = [*(each.state_dict(keep_vars=True) for each in self._modules)]
        if self._model.module is None:
            parts.append(dict(self._model.shown))
        return {
            f"{number}.{name}": tensor
            for number, part in enumerate(parts)
            for name, tensor in part.items()
            if isinstance(tensor, torch.Tensor)
            and not tensor.is_meta
            and tensor.layout == torch.strided
            and not is_sharded(tensor)
        }

    def _put_back(self) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                held = self._held.get(name)
                if held is not None:
                    _restore(tensor, held)


def _restore(tensor: torch.Tensor, held: _Held) -> None:
    """Let a tensor hold what it held, on the device and in the type that it has now."""
    memory = held.memory
    is_alike = (tensor.dtype, tensor.device, tensor.shape) == (memory.dtype, memory.device, memory.shape)
    if is_alike and tensor.data_ptr() != memory.data_ptr():
        # Other memory was set in its place, which is that of the weights that were tried.
        tensor.data = memory
    wanted = held.copy.to(tensor)
    if not torch.equal(_bits(tensor.detach()), _bits(wanted)):
        tensor.data.copy_(wanted)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_complex() else tensor.view(BITS[tensor.itemsize])


def is_number(found: object) -> bool:
    """Whether it stands for one real number."""
    if isinstance(found, torch.Tensor):
        return found.numel() == 1 and not found.is_complex()
    if isinstance(found, np.ndarray):
        return found.size == 1 and found.dtype.kind in "fiub"
    return isinstance(found, Real)
