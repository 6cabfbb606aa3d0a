"""How small, or how good, a file has to be."""

import math
from dataclasses import dataclass, fields

from metaq.config import require


@dataclass(frozen=True, kw_only=True)
class Goal:
    """At most one of these; without any, the default quality.

    Attributes
    ----------
    target_bytes
        Largest size of the file.
    target_ratio
        Least ratio of the tensors' bytes to the file's.
    target_bits_per_weight
        Most bits of the file per element.
    max_drop
        How far the figure of merit may fall, in its own unit.

    Raises
    ------
    ConfigError
        If more than one is given, or it is out of range.
    """

    target_bytes: int | None = None
    target_ratio: float | None = None
    target_bits_per_weight: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        require(len(given) <= 1, f"{', '.join(given)}: give one of them; each is a goal of its own.")
        for name, value in given.items():
            allowed = math.isfinite(value) and (value > 0 or (name == "max_drop" and value == 0))
            require(allowed, f"{name}: {value} must be {'zero or more' if name == 'max_drop' else 'positive'}.")

    def limit_bytes(self, *, float_bytes: int, weights: int) -> int | None:
        """Most bytes of the file of a model with so many bytes of tensors and elements; None if the goal is no size."""
        if self.target_bytes is not None:
            return int(self.target_bytes)
        if self.target_ratio is not None:
            return int(float_bytes / self.target_ratio)
        if self.target_bits_per_weight is not None:
            return int(self.target_bits_per_weight * weights / 8)
        return None
