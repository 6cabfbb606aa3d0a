"""How many bytes of a model are quantised, and which tensors are not and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol, Self

from metaq.tensors.quantized import Dtype, QuantizedTensor, Tensor, TiedTensor

ENOUGH = 0.95
"""Share of the bytes below which something was probably left out by mistake."""

MOST_NAMED = 3
"""Tensors that a warning names."""

EXACTLY = "stored exactly"
"""The reason where nothing more is known."""


class Described(Protocol):
    """What is asked of a tensor, or of its entry in a file."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Dtype: ...


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A tensor that is not quantised.

    Attributes
    ----------
    name
        Key in the state dict.
    size_bytes
        Of its elements as the model holds them.
    reason
        Why, in a few words.
    """

    name: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a model is quantised.

    Attributes
    ----------
    tensor_bytes
        Size of all tensors as the model holds them, buffers included, tied ones once.
    quantized_bytes
        Size, as the model holds them, of those that are quantised.
    left_out
        The others, the largest first.
    """

    tensor_bytes: int
    quantized_bytes: int
    left_out: tuple[LeftOut, ...]

    @property
    def share(self) -> float:
        """Share of the bytes that is quantised; 1 if there are none."""
        return self.quantized_bytes / self.tensor_bytes if self.tensor_bytes else 1.0

    def explained(self, reasons: Mapping[str, str]) -> Self:
        """The same with the `reasons` that are known, by name."""
        known = (replace(part, reason=reasons.get(part.name, part.reason)) for part in self.left_out)
        return replace(self, left_out=tuple(known))

    def by_reason(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the tensors that are not quantised by the reason, that of most bytes first."""
        found: dict[str, tuple[int, int]] = {}
        for part in self.left_out:
            number, size_bytes = found.get(part.reason, (0, 0))
            found[part.reason] = (number + 1, size_bytes + part.size_bytes)
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def warning(self) -> str | None:
        """A sentence that names the largest tensors left out, if less than ``ENOUGH`` of the bytes are quantised."""
        if self.share >= ENOUGH:
            return None
        largest = "; ".join(f"{p.name} ({p.size_bytes:,} bytes, {p.reason})" for p in self.left_out[:MOST_NAMED])
        more = len(self.left_out) - MOST_NAMED
        rest = f"; and {more:,} more" if more > 0 else ""
        return f"only {self.share:.1%} of the bytes of the tensors are quantised; not: {largest}{rest}."

    def to_dict(self) -> dict[str, object]:
        """Plain dictionary, ready for JSON."""
        return {
            "tensor_bytes": self.tensor_bytes,
            "quantized_bytes": self.quantized_bytes,
            "quantized_share": self.share,
            "not_quantized": [
                {"name": part.name, "bytes": part.size_bytes, "reason": part.reason} for part in self.left_out
            ],
        }


def measured(parts: Iterable[tuple[Described, bool]]) -> Coverage:
    """Coverage of tensors of which each comes with whether it is quantised; leave out tied ones."""
    total = quantized = 0
    left_out = []
    for part, is_quantized in parts:
        size_bytes = prod(part.shape) * part.dtype.itemsize
        total += size_bytes
        if is_quantized:
            quantized += size_bytes
        else:
            left_out.append(LeftOut(name=part.name, size_bytes=size_bytes, reason=_reason(part)))
    left_out.sort(key=lambda part: (-part.size_bytes, part.name))
    return Coverage(tensor_bytes=total, quantized_bytes=quantized, left_out=tuple(left_out))


def coverage_of(tensors: Iterable[Tensor]) -> Coverage:
    """Coverage of tensors as they are written to a file."""
    held = (tensor for tensor in tensors if not isinstance(tensor, TiedTensor))
    return measured((tensor, isinstance(tensor, QuantizedTensor)) for tensor in held)


def _reason(part: Described) -> str:
    """What the type and the shape tell."""
    if 0 in part.shape:
        return "empty"
    return EXACTLY if part.dtype.kind == "float" else part.dtype.kind
