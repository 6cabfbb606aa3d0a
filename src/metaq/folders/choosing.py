"""Which tensors of a folder are quantised, how, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metaq.config import require
from metaq.container.layout import grid_fits
from metaq.errors import ConfigError
from metaq.folders.planning import Choice
from metaq.folders.quantizing import GridSource, SymbolSource, quantized
from metaq.folders.stored import Reader, StoredTensor
from metaq.folders.survey import Survey
from metaq.grid import BucketGrid
from metaq.pipeline import RUNNING_STATISTICS
from metaq.tensors import Basis
from metaq.weights import select_names

NOT_FINITE = "holds NaN, infinity or numbers near it"


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Tensors by what becomes of them.

    Attributes
    ----------
    quantized
        Those that are quantised if all their weights are finite.
    reasons
        Why the others are kept exactly, by name.
    """

    quantized: tuple[StoredTensor, ...]
    reasons: dict[str, str]


def select(
    tensors: Sequence[StoredTensor],
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    grids: Mapping[str, BucketGrid] | None,
) -> Selection:
    """Tell which tensors are quantised.

    Raises
    ------
    ConfigError
        If a glob matches nothing, nothing is left, or a grid is given for a tensor that cannot have it.
    """
    reasons = {tensor.name: reason for tensor in tensors if (reason := _reason(tensor)) is not None}
    possible = [tensor.name for tensor in tensors if tensor.name not in reasons]
    if grids is not None:
        _check_grids(tensors, possible, grids)
        chosen = {name for name in possible if name in grids}
    else:
        chosen = set(select_names(possible, include=include, exclude=exclude))
    reasons |= {name: "was not chosen" for name in possible if name not in chosen}
    return Selection(quantized=tuple(tensor for tensor in tensors if tensor.name in chosen), reasons=reasons)


class RateQuantizer:
    """Quantises by choices of a rule.

    Parameters
    ----------
    reader, survey
        Where the weights are, and what is known of them.
    tensors
        Those that are quantised.
    choices
        How, by name.

    Attributes
    ----------
    bases
        The bases that are used, in the order in which tensors first need them.
    """

    def __init__(
        self, reader: Reader, survey: Survey, tensors: Sequence[StoredTensor], choices: Mapping[str, Choice]
    ) -> None:
        self._reader = reader
        self._survey = survey
        self._choices = choices
        self.bases: list[Basis] = []
        self._numbers: dict[int, int] = {}
        for tensor in tensors:
            axes = choices[tensor.name].axes
            if axes is not None and axes not in self._numbers:
                self._numbers[axes] = self._numbered(survey.axes[axes].basis)

    def is_exact(self, tensor: StoredTensor) -> bool:
        """See :class:`metaq.folders.coding.Quantizer`."""
        return tensor.name not in self._choices

    def basis_of(self, tensor: StoredTensor) -> int | None:
        """See :class:`metaq.folders.coding.Quantizer`."""
        axes = self._choices[tensor.name].axes
        return None if axes is None else self._numbers[axes]

    def source(self, tensor: StoredTensor) -> SymbolSource:
        """See :class:`metaq.folders.coding.Quantizer`."""
        choice = self._choices[tensor.name]
        axes = None if choice.axes is None else self._survey.axes[choice.axes]
        return quantized(self._reader, tensor, choice, self._survey.facts[tensor.name], axes)

    def _numbered(self, basis: Basis) -> int:
        """Number of a basis; a file holds equal ones once."""
        for number, other in enumerate(self.bases):
            if other.grid == basis.grid and np.array_equal(other.indices, basis.indices):
                return number
        self.bases.append(basis)
        return len(self.bases) - 1


class GridQuantizer:
    """Quantises on grids that are given, by name of the tensor; without bases."""

    def __init__(self, reader: Reader, grids: Mapping[str, BucketGrid]) -> None:
        self.bases: list[Basis] = []
        self._reader = reader
        self._grids = grids

    def is_exact(self, tensor: StoredTensor) -> bool:
        """See :class:`metaq.folders.coding.Quantizer`."""
        return tensor.name not in self._grids

    def basis_of(self, _tensor: StoredTensor) -> int | None:
        """See :class:`metaq.folders.coding.Quantizer`."""
        return None

    def source(self, tensor: StoredTensor) -> SymbolSource:
        """See :class:`metaq.folders.coding.Quantizer`."""
        return GridSource(self._reader, tensor, self._grids[tensor.name])


def _reason(tensor: StoredTensor) -> str | None:
    """Why a tensor cannot be quantised, or None."""
    if tensor.count == 0:
        return "is empty"
    if not tensor.dtype.is_quantizable:
        return f"is of type {tensor.dtype.name}"
    if tensor.name.rpartition(".")[2] in RUNNING_STATISTICS:
        return "is a running statistic"
    return None


def _check_grids(tensors: Sequence[StoredTensor], possible: Sequence[str], grids: Mapping[str, BucketGrid]) -> None:
    require(bool(grids), "grids: there is none; give those of a regulariser, or none at all for a budget.")
    by_name = {tensor.name: tensor for tensor in tensors}
    for name, grid in grids.items():
        if name not in possible:
            raise ConfigError(f"{name}: a grid is given for it, but there is no floating tensor of this name.")
        if not grid_fits(grid, by_name[name].dtype):
            raise ConfigError(f"{name}: its grid reaches beyond the largest {by_name[name].dtype.name}.")
