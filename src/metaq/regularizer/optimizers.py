"""What other libraries put between a loop and its optimiser."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
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


class OutermostStep:
    """Tells the steps that a loop asks for from those that they ask for themselves.

    An optimiser whose ``step`` calls that of its base class has the hooks of both called.
    """

    def __init__(self) -> None:
        self._caller: FrameType | None = None
        self._inner = 0

    def begins(self, caller: FrameType) -> bool:
        """Whether a step that begins is not inside another; `caller` is the frame that calls the hook."""
        if self._caller is not None and _is_running(self._caller, caller):
            self._inner += 1
            return False
        # A step that ended by an exception has told of no end.
        self._caller, self._inner = caller, 0
        return True

    def ends(self) -> bool:
        """Whether the step that ends is not inside another."""
        if self._inner > 0:
            self._inner -= 1
            return False
        self._caller = None
        return True


def hook_caller() -> FrameType:
    """The frame that calls the hook that calls this."""
    return sys._getframe(2)


def _is_running(frame: FrameType, inside: FrameType) -> bool:
    """Whether `frame` is one of those that have called `inside`, themselves or by way of others."""
    outer: FrameType | None = inside
    while outer is not None and outer is not frame:
        outer = outer.f_back
    return outer is frame
