"""Running a network for a while without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from metaq.model.random_state import random_state_kept


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the ``with`` block; after it, every part of `module` is in the mode that it was in, has
    the buffers that it had, and the same random numbers come next from PyTorch as before.
    """
    parts = list(module.modules())
    modes = [part.training for part in parts]
    buffers = [
        (part, name, buffer, buffer.clone() if _may_change(buffer) else None)
        for part in parts
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False)
    ]
    module.eval()
    try:
        with random_state_kept(module):
            yield
    finally:
        for part, was_training in zip(parts, modes, strict=True):
            part.training = was_training
        with torch.no_grad():
            for part, name, buffer, held in buffers:
                setattr(part, name, buffer)
                if held is not None and not torch.equal(buffer, held):
                    buffer.copy_(held)


def _may_change(buffer: torch.Tensor) -> bool:
    """Whether its elements can be compared and written."""
    return buffer.layout == torch.strided and not buffer.is_meta and not buffer.is_inference()
