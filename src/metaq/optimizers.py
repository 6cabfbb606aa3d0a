"""What other libraries put between a loop and its optimiser."""

from __future__ import annotations

from typing import Any, cast

import torch


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser that a trainer's own wraps."""
    inner = getattr(optimizer, "optimizer", None)
    return innermost(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def unscale(optimizer: torch.optim.Optimizer) -> None:
    """Do what a ``GradScaler`` leaves to a fused optimiser: divide gradients by the scale of the loss."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_mul_(gradients, [scale.to(gradient.device).reciprocal() for gradient in gradients])
    cast(Any, optimizer).grad_scale = None


def found_inf(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """Above 0 if a ``GradScaler`` has told the optimiser to leave the weights as they are in this step."""
    found = getattr(optimizer, "found_inf", None)
    return found if isinstance(found, torch.Tensor) else None
