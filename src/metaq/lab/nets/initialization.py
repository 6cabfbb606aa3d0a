"""Initial weights other than PyTorch's own."""

from __future__ import annotations

import math

import torch
from torch import nn

from metaq.config import require


def initialize_uniform(model: nn.Module, *, center: float, radius: float, generator: torch.Generator) -> None:
    """Draw every floating-point parameter of `model`, in place, uniformly from ``[center - radius, center + radius]``.

    That is how the thesis starts its best model (centre −0.11, radius 1.114). Tied parameters are drawn once; buffers
    are left alone.

    Parameters
    ----------
    model
        Its parameters are drawn in the order of ``model.parameters()``.
    center, radius
        Middle and half-width of the range, finite; the radius is positive.
    generator
        Source of the weights. They do not depend on the device of the model.

    Raises
    ------
    ConfigError
        If `center` or `radius` is out of range.
    """
    require(math.isfinite(center), f"center: {center} is not a finite number.")
    require(0 < radius < math.inf, f"radius: {radius} is not a positive finite number.")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
                parameter.copy_(drawn.uniform_(center - radius, center + radius, generator=generator))
