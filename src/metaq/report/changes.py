"""What an update changes, tensor by tensor: a model and another one, or an update of it, in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metaq.container.source import is_update
from metaq.model.applying import Model, applied, model_of
from metaq.tensors.quantized import ExactTensor, values_of


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a tensor differs between two models.

    `changed` counts elements; `relative` is the root mean square of the difference over that of the first model's
    elements. Both are None of a tensor that only one of them has, or with another shape or type in each; `relative` is
    None of types that are no floats, and where it is not finite.
    """

    name: str
    elements: int
    changed: int | None
    relative: float | None

    @property
    def share(self) -> float | None:
        """Share of the elements that changed."""
        return None if self.changed is None else self.changed / max(self.elements, 1)


def changes(first: Model, second: Model) -> list[Change]:
    """Tensors of both, in the order of their names; those that are the same are left out."""
    found = []
    for name in sorted(first.held.keys() | second.held.keys(), key=str.encode):
        one, other = first.elements.get(name), second.elements.get(name)
        if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
            held = other or one
            assert held is not None
            found.append(Change(name=name, elements=held.values.size, changed=None, relative=None))
            continue
        changed = int(np.count_nonzero((one.bits() != other.bits()).any(axis=1)))
        if changed:
            relative = _relative(one, other)
            found.append(Change(name=name, elements=one.values.size, changed=changed, relative=relative))
    return found


def opened(source: Path, other: Path) -> tuple[Model, Model] | None:
    """Both models; None where they are no files of weights. The second may be an update of the first."""
    if source.is_dir() or other.is_dir():
        return None
    base = model_of(source)
    return base, applied(base, [other]) if is_update(other) else model_of(other)


def _relative(one: ExactTensor, other: ExactTensor) -> float | None:
    if not one.dtype.is_quantizable:
        return None
    before, after = values_of(one.values, one.dtype), values_of(other.values, other.dtype)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = float(np.sqrt(np.square(after - before).sum() / np.square(before).sum()))
    return found if math.isfinite(found) else None
