"""What other libraries put between a loop and its optimiser."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch

from metaq.config import require

StepArguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments of a step, the optimiser first, and the others by name."""


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser that a trainer's own wraps."""
    inner = getattr(optimizer, "optimizer", None)
    return innermost(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


class OptimizerHooks:
    """Work inside every step of some optimisers, until :meth:`remove`; looks through the wrappers of trainers.

    `before` is called before every step with the number of the optimiser and, as `found_inf`, a tensor above 0 if a
    ``GradScaler`` has told the optimiser to leave the weights as they are, or None; `after` with the number after it.
    Where a step is compiled, these are called as they are. An optimiser does not take hooks along when it is copied: a
    copy of this works inside the copies of the optimisers that are made with it.
    """

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], before: Callable[..., None], after: Callable[[int], None]
    ) -> None:
        self.optimizers = [innermost(optimizer) for optimizer in optimizers]
        for optimizer in self.optimizers:
            require(
                isinstance(optimizer, torch.optim.Optimizer),
                f"optimizer {type(optimizer).__name__}: is none of torch.optim; give those that update the model, one "
                "by one: attach(*optimizers).",
            )
            require(not isinstance(optimizer, torch.optim.LBFGS), _refusal(optimizer))
            require(
                not any(group.get("maximize") for group in optimizer.param_groups),
                f"optimizer {type(optimizer).__name__}: maximises, where bits are to become few; give it the negative "
                "of the figure, and maximize=False.",
            )
        self.is_updating = False
        """Whether a step is under way, past what comes before it."""
        self.were_loaded = False
        """Whether one of the optimisers has been given another state since the last step."""
        self._before, self._after = before, after
        self._begun = [0] * len(self.optimizers)
        self._handles = self._registered()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_handles": bool(self._handles)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._handles = self._registered() if state["_handles"] else []

    def remove(self) -> None:
        """Leave the optimisers alone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def trained(self) -> list[list[int]]:
        """What every optimiser updates: identities of its parameters that are not frozen."""
        return [
            [
                id(parameter)
                for group in optimizer.param_groups
                for parameter in group["params"]
                if parameter.requires_grad
            ]
            for optimizer in self.optimizers
        ]

    def _registered(self) -> list[Any]:
        """Handles of the hooks, which are given to the optimisers."""
        return [
            handle
            for number, optimizer in enumerate(self.optimizers)
            for handle in (
                optimizer.register_step_pre_hook(_uncompiled(partial(self._begin, number))),
                optimizer.register_step_post_hook(_uncompiled(partial(self._end, number))),
                optimizer.register_load_state_dict_post_hook(self._note_loaded),
            )
        ]

    def _note_loaded(self, _: torch.optim.Optimizer) -> None:
        self.were_loaded = True

    def _begin(
        self, number: int, optimizer: torch.optim.Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> StepArguments | None:
        # An optimiser whose step calls that of its base class has the hooks of both called: only the outermost counts.
        # As many can be inside one another as classes have a step that calls hooks; where more have begun, one ended by
        # an exception, which calls no hook.
        most = sum(hasattr(vars(cls).get("step"), "hooked") for cls in type(optimizer).__mro__)
        self._begun[number] = 1 if self._begun[number] >= most else self._begun[number] + 1
        if self._begun[number] > 1:
            return None
        closure: Callable[[], Any] | None = options.get("closure", arguments[1] if len(arguments) > 1 else None)
        loss = None
        if closure is not None:
            # It makes the gradients of the step, which are needed now.
            with torch.enable_grad():
                loss = closure()
        _unscale(optimizer)
        found_inf = getattr(optimizer, "found_inf", None)
        self._before(number, found_inf=found_inf if isinstance(found_inf, torch.Tensor) else None)
        self.is_updating = True
        return None if closure is None else (arguments[:1], {**options, "closure": _OneLoss(optimizer, loss)})

    def _end(self, number: int, *_: object) -> None:
        self._begun[number] -= 1
        if self._begun[number] == 0:
            self._after(number)
            self.is_updating = False
        self._begun[number] = max(self._begun[number], 0)


def _uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """`hook`, where ``torch.compile`` breaks its graph instead of looking into it."""
    return cast(Callable[..., Any], cast(Any, torch.compiler).disable(hook))


def _unscale(optimizer: torch.optim.Optimizer) -> None:
    """Do what a ``GradScaler`` leaves to a fused optimiser: divide gradients by the scale of the loss."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_mul_(gradients, [scale.to(gradient.device).reciprocal() for gradient in gradients])
    cast(Any, optimizer).grad_scale = None


def _refusal(optimizer: object) -> str:
    return (
        f"optimizer {type(optimizer).__name__}: does not make one step from one gradient; choose another, such as Adam."
    )


class _OneLoss:
    """A closure whose gradients are there already: its loss, for an optimiser that asks once, and before all else."""

    def __init__(self, optimizer: torch.optim.Optimizer, loss: Any) -> None:
        self._optimizer, self._loss = optimizer, loss
        self._was_asked, self._state = False, self._present_state()

    def __call__(self) -> Any:
        require(not self._was_asked and self._state == self._present_state(), _refusal(self._optimizer))
        self._was_asked = True
        return self._loss

    def _present_state(self) -> list[tuple[int, ...]]:
        """What tells whether weights or gradients have changed."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        return [(p._version, *(() if p.grad is None else (id(p.grad), p.grad._version))) for p in parameters]
