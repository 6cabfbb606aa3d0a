"""Which tensors of a model are trained towards few bits."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from metaq.config import near_match, require
from metaq.errors import ConfigError

FilterFn = Callable[[str, torch.Tensor], bool]
"""From the name of a tensor and the tensor to whether it is chosen."""

QUANTIZABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types whose elements can be restored from bucket indices."""

ANY = ("*",)
"""Patterns that leave the choice to everything else."""

TOO_SMALL = "too small to pay"
SMALLEST_BYTES = 8
"""A tensor of no more bytes is not worth a grid, which takes about four."""

Chosen = TypeVar("Chosen", bound=torch.Tensor)


def select_parameters(
    model: nn.Module,
    *,
    include: Sequence[str] = ANY,
    exclude: Sequence[str] = (),
    filter_fn: FilterFn | None = None,
) -> dict[str, nn.Parameter]:
    """Floating parameters of `model` that are trained and that the rules choose; a tied parameter appears once.

    Frozen parameters (``requires_grad`` is False) are left as they are: nothing would move their weights towards the
    buckets. So only the adapters of a model with adapters take part. Unless `include` or `filter_fn` say what to train,
    tensors too small to pay for a grid are left out, where there are others.

    `include` and `exclude` are name globs: a tied parameter is included by any of its names, and excluded by any.
    `filter_fn` is called once for every parameter that the globs leave, with its first name. Raises
    :class:`ConfigError` if a glob matches no parameter, if nothing is left, or if a chosen tensor has no values, NaN or
    infinity.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        require_values(name, parameter)
    reasons = {name: reason for name, p in parameters.items() if (reason := _why_not_trained(p))}
    chosen, _ = choose(parameters, reasons, include=include, exclude=exclude, filter_fn=filter_fn)
    if is_default(include, filter_fn):
        large = {name: p for name, p in chosen.items() if not is_too_small(p.numel(), p.nbytes)}
        chosen = large or chosen
    for name, parameter in chosen.items():
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise ConfigError(f"{name}: holds NaN or infinity; repair the weights before training them to few bits.")
    return chosen


def choose(
    tensors: Mapping[str, Chosen],
    reasons: Mapping[str, str],
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    filter_fn: FilterFn | None,
) -> tuple[dict[str, Chosen], dict[str, str]]:
    """Tensors that the rules choose, by their first names, and why the others are not chosen, by every name.

    `tensors` come in the order of the model; `reasons` tell of those that are left out whatever the rules say, because
    they cannot be quantised or must not be. For the rules see :func:`select_parameters`. Raises :class:`ConfigError` if
    a glob matches no tensor, or nothing is left.
    """
    suited = [name for name in tensors if name not in reasons]
    if not suited:
        summary = _summary({first: reasons[first] for first in alias_of(tensors, reasons).values()})
        raise ConfigError(f"there is no tensor to quantise: {summary or 'the model is empty'}.")
    _check_patterns(tensors, reasons, include, exclude)
    # Suited names come first, so that a tensor that a buffer shares is known by the name of the parameter.
    alias = alias_of(tensors, [*suited, *reasons])
    names: dict[str, list[str]] = {}
    for name, first in alias.items():
        names.setdefault(first, []).append(name)
    why = {first: reasons[first] for first in names if first in reasons}
    firsts = [name for name in suited if name in names]
    for first in firsts:
        reason = _why_not_chosen(names[first], tensors[first], include, exclude, filter_fn)
        if reason is not None:
            why[first] = reason
    chosen = {name: tensors[name] for name in firsts if name not in why}
    if not chosen:
        left_out = {name: why[name] for name in firsts}
        options = "include/exclude" if filter_fn is None else "include/exclude/filter_fn"
        raise ConfigError(
            f"{options}: no floating tensor is left to quantise ({_summary(left_out)}); widen the choice."
        )
    return chosen, {name: why[first] for name, first in alias.items() if first in why}


def is_default(include: Sequence[str], filter_fn: FilterFn | None) -> bool:
    """Whether these rules leave the choice to everything else."""
    return tuple(include) == ANY and filter_fn is None


def is_too_small(count: int, size_bytes: int) -> bool:
    """Whether a grid for a tensor of so many elements and bytes would not pay."""
    return count == 1 or size_bytes <= SMALLEST_BYTES


def require_values(name: str, tensor: object) -> None:
    """Raise :class:`ConfigError` if `tensor` is none, or one without values."""
    require(
        isinstance(tensor, torch.Tensor),
        f"{name}: is not a tensor but {type(tensor).__name__}; take it out of the state dict.",
    )
    require(
        not isinstance(tensor, UninitializedParameter | UninitializedBuffer),
        f"{name}: has no shape yet; send one batch through the model, which initialises its lazy modules.",
    )
    require(
        not (isinstance(tensor, torch.Tensor) and tensor.is_meta),
        f"{name}: is on the meta device and has no values; load the weights first.",
    )


def alias_of(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, str]:
    """For each of `names` the first of them that is the same memory, read alike: itself unless tensors are tied."""
    first: dict[Hashable, str] = {}
    return {name: first.setdefault(_memory(tensors[name]), name) for name in names}


def _why_not_trained(parameter: torch.Tensor) -> str | None:
    """Why a parameter takes no part, in a word or two; None if it does."""
    if not parameter.numel():
        return "empty"
    if parameter.dtype in QUANTIZABLE:
        return None if parameter.requires_grad else "frozen"
    if parameter.is_floating_point():
        return str(parameter.dtype).removeprefix("torch.")
    if parameter.dtype is torch.bool:
        return "boolean"
    return "complex" if parameter.is_complex() else "integer"


def _why_not_chosen(
    names: Sequence[str],
    tensor: torch.Tensor,
    include: Sequence[str],
    exclude: Sequence[str],
    filter_fn: FilterFn | None,
) -> str | None:
    for pattern in exclude:
        if any(_matches(name, pattern) for name in names):
            return f"excluded by {pattern}"
    if not any(_matches(name, pattern) for name in names for pattern in include):
        return "not included"
    return None if filter_fn is None or filter_fn(names[0], tensor) else "left out by filter_fn"


def _matches(name: str, pattern: str) -> bool:
    """Whether a glob is for this name; a name with brackets is one for itself too."""
    return name == pattern or fnmatchcase(name, pattern)


def _check_patterns(
    names: Iterable[str], reasons: Mapping[str, str], include: Sequence[str], exclude: Sequence[str]
) -> None:
    known = list(names)
    for pattern in (*include, *exclude):
        if pattern != "*" and not any(_matches(name, pattern) for name in known):
            raise ConfigError(f"{pattern}: matches no tensor; {near_match(pattern, known)}")
    for pattern in include:
        matched = {name: reasons.get(name) for name in known if _matches(name, pattern)}
        require(
            any(reason is None for reason in matched.values()),
            f"{pattern}: matches only tensors that are not quantised "
            f"({_summary({name: reason for name, reason in matched.items() if reason})}); take it out.",
        )


def _summary(reasons: Mapping[str, str]) -> str:
    """How many tensors are left out for what reason."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons.values()).items())


def _memory(tensor: torch.Tensor) -> Hashable:
    """What only tied tensors have in common."""
    if tensor.layout != torch.strided or not tensor.numel() or not tensor.data_ptr():
        # It is nowhere in particular.
        return id(tensor)
    how = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return tensor.device, tensor.data_ptr(), how
