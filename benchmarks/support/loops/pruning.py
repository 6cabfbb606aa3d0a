"""Pruning by magnitude to a number of bytes: what is left of a trained model without training it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import require
from support.peers import Floats, halved, over, squeezed

State = Mapping[str, torch.Tensor]

LARGEST = 127
"""Of the integers of a tensor."""

FINENESS = 1 << 12
"""The number of pruned weights is found to about one in so many."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Weights that are restored, the bytes they are restored from, and the share of the matrices' weights at zero."""

    weights: dict[str, torch.Tensor]
    size_bytes: int
    share: float


def pruned_to(state: State, limit_bytes: int) -> Pruned:
    """The model with as few weights at zero as a size allows.

    Of all tensors of two or more dimensions together, the weights of the smallest magnitude are set to zero. Each of
    these tensors has 8-bit integers with one float32 step, all other floats are in float16. Everything is one string of
    bytes that zstd compresses; names and shapes do not count. Takes a dozen compressions.

    Raises
    ------
    ConfigError
        If even with every weight at zero the bytes are more.
    """
    sizes = np.sort(
        np.concatenate([np.abs(_floats(tensor)).reshape(-1) for tensor in state.values() if _is_matrix(tensor)])
    )
    count = len(sizes)

    def pruned(number: int) -> Pruned:
        return _pruned(state, sizes[number - 1] if number else np.float32(-1), number / count)

    most, best = count, pruned(count)
    require(
        best.size_bytes <= limit_bytes,
        f"pruning: {limit_bytes:,} bytes cannot be reached; with every weight at zero it takes {best.size_bytes:,}.",
    )
    least = -1
    while most - least > 1 + count // FINENESS:
        middle = (least + most) // 2
        found = pruned(middle)
        if found.size_bytes <= limit_bytes:
            most, best = middle, found
        else:
            least = middle
    return best


def _pruned(state: State, threshold: np.float32, share: float) -> Pruned:
    """Weights whose magnitude is not above the threshold are set to zero."""
    integers, steps, others = list[NDArray[np.int8]](), list[np.float32](), list[bytes]()
    restored = {}
    for name, tensor in state.items():
        if _is_matrix(tensor):
            values = _floats(tensor)
            kept = np.where(np.abs(values) > threshold, values, np.float32(0))
            step = np.abs(kept).max() / np.float32(LARGEST)
            integers.append(np.rint(over(kept, step)).astype(np.int8))
            steps.append(step)
            restored[name] = torch.from_numpy(integers[-1] * step).to(tensor.dtype)
        elif tensor.is_floating_point():
            restored[name] = torch.from_numpy(halved(_floats(tensor), others)).to(tensor.dtype)
        else:
            others.append(tensor.detach().numpy().tobytes())
            restored[name] = tensor.clone()
    data = b"".join([*(its.tobytes() for its in integers), np.array(steps, np.float32).tobytes(), *others])
    return Pruned(weights=restored, size_bytes=squeezed(data), share=share)


def _is_matrix(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2


def _floats(tensor: torch.Tensor) -> Floats:
    return tensor.detach().float().numpy()
