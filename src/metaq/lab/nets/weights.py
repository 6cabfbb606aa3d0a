"""Initial weights other than PyTorch's own, and trained ones, with a clear word where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import ConfigError

_NAMES_SHOWN = 3


def load_weights(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load every tensor of both, each of the same shape, or raise :class:`ConfigError` and leave `model` as it was."""
    expected = model.state_dict()
    shared = [name for name in expected if name in state_dict]
    misfits = [
        _list("missing", [name for name in expected if name not in state_dict]),
        _list("unexpected", [name for name in state_dict if name not in expected]),
        _list("of another shape", [_shapes(name, state_dict[name], expected[name]) for name in shared]),
    ]
    if any(misfits):
        raise ConfigError(_sentence(model, "; ".join(filter(None, misfits))))
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise ConfigError(_sentence(model, str(error))) from error


def _sentence(model: nn.Module, problem: str) -> str:
    return (
        f"weights: they do not fit the network {type(model).__name__} ({problem}); choose the network that they were "
        "saved from, as in --net lenet300 or --net package.module:factory."
    )


def _shapes(name: str, given: Any, expected: Any) -> str:
    """Name and both shapes if they differ, else nothing. Extra state that is no tensor is the module's own affair."""
    if not isinstance(expected, Tensor):
        return ""
    if not isinstance(given, Tensor):
        return f"{name} (is {type(given).__name__}, not a tensor)"
    if given.shape == expected.shape:
        return ""
    return f"{name} (has {tuple(given.shape)}, needs {tuple(expected.shape)})"


def _list(what: str, entries: list[str]) -> str:
    names = [entry for entry in entries if entry]
    if not names:
        return ""
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{what}: {', '.join(names[:_NAMES_SHOWN])}{rest}"


def initialize_uniform(model: nn.Module, *, center: float, radius: float, generator: torch.Generator) -> None:
    """Draw every floating-point parameter of `model`, in place, uniformly from ``[center - radius, center + radius]``.

    That is how the thesis starts its best model (centre −0.11, radius 1.114). Parameters are drawn in their order, tied
    ones once, whatever the device of the model; buffers are left alone.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
                parameter.copy_(drawn.uniform_(center - radius, center + radius, generator=generator))
