"""What compression gives: a file that is ready, and what became of the model in it."""

import os
from dataclasses import dataclass, field
from functools import cached_property

from metaq import container
from metaq.container import carried
from metaq.files import write_bytes
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.tensors.coverage import Coverage
from metaq.tensors.quantized import Tensor


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
    accuracy, float_accuracy
        Figure of merit of the quantised and of the original weights, where it was measured.
    carried, carried_bytes, left_out
        Paths of the files of a folder that are in the file too, what they take of it, and the paths of the others, each
        with the reason.
    has_discarded
        Whether an unfinished run with other options, or of another model, was thrown away.
    """

    file_bytes: int
    float_bytes: int
    weights: int
    coverage: Coverage
    multiplier: float | None = None
    accuracy: float | None = None
    float_accuracy: float | None = None
    carried: tuple[str, ...] = ()
    carried_bytes: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
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
        file = container.decode(self.data)
        return tuple(tensor for tensor in file.tensors if not carried.is_carried(tensor.name, file.metadata))

    def state_dict(self) -> StateDict:
        """The quantised weights, as they are restored from the file."""
        return checkpoint.restore(list(self.tensors))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        write_bytes(path, self.data)
