"""What compression is asked for, and what it gives: a file that is ready, and what became of the model in it."""

import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

from metaq import container
from metaq.config import Config, require
from metaq.container import carried
from metaq.files import write_bytes
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.tensors.coverage import Coverage
from metaq.tensors.quantized import Tensor


@dataclass(frozen=True, kw_only=True)
class Goal(Config):
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
    target_value
        What the figure of merit has to be.
    larger_is_better
        Of that figure; no goal of its own.
    keep
        Least score of the outputs, between 0 and 1: see :mod:`metaq.compression.quality`.

    Raises
    ------
    ConfigError
        If more than one is given, or it is out of range.
    """

    target_bytes: int | None = None
    target_ratio: float | None = None
    target_bits_per_weight: float | None = None
    max_drop: float | None = None
    target_value: float | None = None
    keep: float | None = None
    larger_is_better: bool | None = None

    def __post_init__(self) -> None:
        given = self.to_dict()
        is_better = given.pop("larger_is_better")
        given = {name: value for name, value in given.items() if value is not None}
        require(len(given) <= 1, f"{', '.join(given)}: give one of them; each is a goal of its own.")
        for name, value in given.items():
            require(isinstance(value, Real), f"{name}: {value!r} is no number.")
            allowed = math.isfinite(value) and (value > 0 or (name == "max_drop" and value == 0))
            allowed = math.isfinite(value) if name == "target_value" else allowed
            wanted = {"max_drop": "zero or more", "target_value": "a finite number"}.get(name, "positive and finite")
            require(allowed, f"{name}: {value} must be {wanted}.")
        require(is_better in (None, True, False), f"larger_is_better: {is_better!r} is neither True nor False.")
        require(
            is_better is None or self.is_quality, "larger_is_better: is about a figure; give max_drop or target_value."
        )
        require(self.keep is None or self.keep < 1, f"keep: {self.keep} must be below 1, where outputs are the same.")

    @property
    def is_quality(self) -> bool:
        """Whether a figure of merit is the goal."""
        return self.max_drop is not None or self.target_value is not None

    @property
    def size_option(self) -> str:
        """The option that asks for a size; ``"target_bytes"`` if none does."""
        given = (name for name in ("target_ratio", "target_bits_per_weight") if getattr(self, name) is not None)
        return next(given, "target_bytes")

    def bound(self, best: float) -> float:
        """What the figure of merit has to keep to, where the best value is `best`."""
        if self.target_value is not None:
            return self.target_value
        assert self.max_drop is not None
        return best + self.max_drop if self.larger_is_better is False else best - self.max_drop

    def keeps(self, figure: float, bound: float) -> bool:
        """Whether it does; NaN does not."""
        return figure <= bound if self.larger_is_better is False else figure >= bound

    def of_training(self) -> dict[str, Any]:
        """What of it a training takes, by the names of its parameters."""
        return {name: value for name, value in self.to_dict().items() if name != "keep"}

    def limit_bytes(self, *, float_bytes: int, weights: int) -> int | None:
        """Most bytes of the file of a model with so many bytes of tensors and elements; None if the goal is no size."""
        if self.target_bytes is not None:
            return int(self.target_bytes)
        if self.target_ratio is not None:
            return int(float_bytes / self.target_ratio)
        if self.target_bits_per_weight is not None:
            return int(self.target_bits_per_weight * weights / 8)
        return None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a model.

    Attributes
    ----------
    file_bytes
        Size of the file.
    float_bytes, weights
        Size of the tensors as the model holds them, tied ones once, and their number of elements.
    coverage
        How much of them is quantised, and what is not and why.
    multiplier
        λ; None where the grids were given.
    relative_error
        About the root mean square error of the weights over their root mean square, where there were no data.
    accuracy, float_accuracy
        Figure of merit of the quantised and of the original weights, where it was measured.
    kept, kept_error
        Score of the outputs on inputs that were held out of calibration, 1 where they are the same, and its standard
        error (:mod:`metaq.compression.quality`); None where there were none.
    carried, carried_bytes, left_out
        Paths of files that are in the file too, of a folder or around the tensors, what they take of it; and what is
        not, paths or entries, each with the reason.
    notes
        Sentences about what was found, such as where in a checkpoint.
    has_discarded
        Whether an unfinished run with other options, or of another model, was thrown away.
    """

    file_bytes: int
    float_bytes: int
    weights: int
    coverage: Coverage
    multiplier: float | None = None
    relative_error: float | None = None
    accuracy: float | None = None
    float_accuracy: float | None = None
    kept: float | None = None
    kept_error: float | None = None
    carried: tuple[str, ...] = ()
    carried_bytes: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    has_discarded: bool = False

    @property
    def ratio(self) -> float:
        """Bytes of the tensors over those of the file."""
        return self.float_bytes / self.file_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file per element."""
        return 8 * self.file_bytes / max(self.weights, 1)


@dataclass(frozen=True, kw_only=True)
class Compressed(Report):
    """A compressed model; besides what a :class:`Report` tells, the file itself.

    Attributes
    ----------
    data
        Bytes of the file.
    """

    data: bytes

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors as the file holds them, without carried files."""
        file = self._file
        return tuple(tensor for tensor in file.tensors if not carried.is_carried(tensor.name, file.metadata))

    def state_dict(self) -> StateDict:
        """The quantised weights, as they are restored from the file."""
        return checkpoint.weights_of(self._file)

    @cached_property
    def _file(self) -> container.File:
        return container.decode(self.data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        write_bytes(path, self.data)
