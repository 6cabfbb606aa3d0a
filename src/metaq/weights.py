"""Which tensors of a model are trained towards few bits, and how they are grouped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from metaq.config import near_match
from metaq.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightGroup:
    """Tensors that share one bucket grid and one table of code lengths.

    Attributes
    ----------
    name
        The tensor's own name, or ``"global"`` for the group of all.
    parameters
        The tensors by name, in the model's order.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]

    @property
    def count(self) -> int:
        """Number of weights n in the group."""
        return sum(parameter.numel() for parameter in self.parameters.values())


def select_parameters(
    model: nn.Module, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Floating parameters of `model` chosen by name globs; a tied parameter appears once.

    Raises
    ------
    ConfigError
        If a glob matches no parameter, if nothing is left, or if a chosen tensor holds NaN or infinity.
    """
    named = {name: p for name, p in model.named_parameters() if p.is_floating_point() and p.numel() > 0}
    names = select_names(named, include=include, exclude=exclude)
    chosen = {name: named[name] for name in names}
    for name, parameter in chosen.items():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise ConfigError(f"{name}: holds NaN or infinity; repair the weights before training them to few bits.")
    return chosen


def select_names(names: Iterable[str], *, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Names that match a glob of `include` and none of `exclude`, in their own order."""
    known = list(names)
    for pattern in (*include, *exclude):
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in known):
            raise ConfigError(f"{pattern}: matches no tensor; {near_match(pattern, known)}")
    chosen = [
        name
        for name in known
        if any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)
    ]
    if not chosen:
        raise ConfigError("include/exclude: no floating tensor is left to quantise; widen the patterns.")
    return chosen


def group_per_tensor(parameters: Mapping[str, nn.Parameter]) -> list[WeightGroup]:
    """One group for every tensor."""
    return [WeightGroup(name=name, parameters={name: parameter}) for name, parameter in parameters.items()]


def group_globally(parameters: Mapping[str, nn.Parameter]) -> list[WeightGroup]:
    """One group of all tensors, as in the thesis."""
    return [WeightGroup(name="global", parameters=dict(parameters))]
