"""What other libraries put between a loop and its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from metaq.config import require

StepArguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments of a step, the optimiser first, and the others by name."""


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


def require_single_gradient(optimizer: object) -> None:
    """Refuse what does not make one step from one gradient."""
    fits = isinstance(optimizer, torch.optim.Optimizer) and not isinstance(optimizer, torch.optim.LBFGS)
    name = type(optimizer).__name__
    require(fits, f"optimizer {name}: does not make one step from one gradient; choose another, such as Adam.")


def with_closure_called(arguments: tuple[Any, ...], options: dict[str, Any]) -> StepArguments | None:
    """Make the gradients of a step now, if it is given a closure that makes them; the arguments that are left then."""
    closure: Callable[[], Any] | None = options.get("closure", arguments[1] if len(arguments) > 1 else None)
    if closure is None:
        return None
    with torch.enable_grad():
        loss = closure()
    return arguments[:1], {**options, "closure": lambda: loss}
