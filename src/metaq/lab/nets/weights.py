"""Initial weights other than PyTorch's own, and trained ones, with a clear word where they do not fit."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metaq.errors import ConfigError

_NAMES_SHOWN = 3


def load_weights(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load every tensor of both, each of the same shape, or raise :class:`ConfigError` and leave `model` as it was."""
    expected = model.state_dict()
    state_dict = _fitted(state_dict, expected)
    misfits = {
        "missing": [name for name in expected if name not in state_dict],
        "unexpected": [name for name in state_dict if name not in expected],
        "of another shape": [
            f"{name} ({problem})"
            for name in expected
            if name in state_dict and (problem := _misfit(state_dict[name], expected[name]))
        ],
    }
    problem = "; ".join(f"{what}: {_shortened(names)}" for what, names in misfits.items() if names)
    if not problem:
        try:
            model.load_state_dict(state_dict, strict=True)
            return
        except RuntimeError as error:
            problem = str(error)
    raise ConfigError(
        f"weights: they do not fit the network {type(model).__name__} ({problem}); choose the network that they were "
        "saved from, as in --net lenet300 or --net package.module:factory."
    )


def _fitted(state_dict: Mapping[str, Any], expected: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same without what all names begin with, such as ``model.``, if only then they are those expected."""
    found = dict(state_dict)
    while found and not found.keys() & expected.keys():
        firsts = {name.partition(".")[0] for name in found}
        if len(firsts) > 1 or "." not in min(found, key=len):
            return state_dict
        found = {name.partition(".")[2]: value for name, value in found.items()}
    return found


def _misfit(given: Any, expected: Any) -> str:
    """Both shapes if they differ, else nothing. Extra state that is no tensor is the module's own affair."""
    if not isinstance(expected, Tensor) or (isinstance(given, Tensor) and given.shape == expected.shape):
        return ""
    if not isinstance(given, Tensor):
        return f"is {type(given).__name__}, not a tensor"
    return f"has {tuple(given.shape)}, needs {tuple(expected.shape)}"


def _shortened(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{', '.join(names[:_NAMES_SHOWN])}{rest}"


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
