"""Which tensors of a folder are quantised, how, and why the others are not."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from metaq.compression.planning import Choice
from metaq.compression.quantizing import GridSource, SymbolSource, quantized
from metaq.compression.survey import Survey
from metaq.config import require
from metaq.container.layout import grid_fits
from metaq.errors import ConfigError
from metaq.model.selection import NO_GRID, TOO_SMALL, kind_of_buffer
from metaq.model.stored import Reader, StoredTensor
from metaq.model.weights import choose
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis

NOT_FINITE = "holds NaN, infinity or numbers near it"
SCALE = "scale of weights of eight bits"
SCALES = re.compile(r"(.*[._])?scale(_inv)?")
"""Last parts of the names under which the scales of weights of eight bits are kept."""

FEWEST = 16
"""A tensor of fewer elements is not worth a grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderSelection:
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
) -> FolderSelection:
    """Tell which tensors are quantised.

    Raises
    ------
    ConfigError
        If a glob matches nothing, nothing is left, or a grid is given for a tensor that cannot have it.
    """
    if grids is not None:
        _check_grids(tensors, grids)
        reasons = {tensor.name: NO_GRID for tensor in tensors if tensor.name not in grids}
        return FolderSelection(quantized=tuple(tensor for tensor in tensors if tensor.name in grids), reasons=reasons)
    # The rules look at names alone; a tensor without memory stands for each of them.
    names = {tensor.name: torch.empty(0, device="meta") for tensor in tensors}
    has_float8 = any(tensor.dtype.is_float8 for tensor in tensors)
    reasons = {
        tensor.name: reason
        for tensor in tensors
        if (reason := _reason(tensor, names, has_float8=has_float8)) is not None
    }
    chosen, reasons = choose(names, reasons, include=include, exclude=exclude, filter_fn=None)
    return FolderSelection(quantized=tuple(tensor for tensor in tensors if tensor.name in chosen), reasons=reasons)


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
        """See :class:`metaq.compression.coding.Quantizer`."""
        return tensor.name not in self._choices

    def basis_of(self, tensor: StoredTensor) -> int | None:
        """See :class:`metaq.compression.coding.Quantizer`."""
        axes = self._choices[tensor.name].axes
        return None if axes is None else self._numbers[axes]

    def source(self, tensor: StoredTensor) -> SymbolSource:
        """See :class:`metaq.compression.coding.Quantizer`."""
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
        """See :class:`metaq.compression.coding.Quantizer`."""
        return tensor.name not in self._grids

    def basis_of(self, _tensor: StoredTensor) -> int | None:
        """See :class:`metaq.compression.coding.Quantizer`."""
        return None

    def source(self, tensor: StoredTensor) -> SymbolSource:
        """See :class:`metaq.compression.coding.Quantizer`."""
        return GridSource(self._reader, tensor, self._grids[tensor.name])


def _reason(tensor: StoredTensor, names: Container[str], *, has_float8: bool) -> str | None:
    """Why a tensor is not quantised whatever the rules say, or None."""
    if tensor.count == 0:
        return "empty"
    if not tensor.dtype.is_quantizable:
        return tensor.dtype.kind
    if has_float8 and SCALES.fullmatch(tensor.name):
        return SCALE
    return TOO_SMALL if tensor.count < FEWEST else kind_of_buffer(tensor.name, names)


def _check_grids(tensors: Sequence[StoredTensor], grids: Mapping[str, BucketGrid]) -> None:
    require(bool(grids), "grids: there is none; give those of a regulariser, or none at all for a budget.")
    by_name = {tensor.name: tensor for tensor in tensors}
    for name, grid in grids.items():
        if name not in by_name or not by_name[name].dtype.is_quantizable or not by_name[name].count:
            raise ConfigError(f"{name}: a grid is given for it, but there is no floating tensor of this name.")
        if not grid_fits(grid, by_name[name].dtype):
            raise ConfigError(f"{name}: its grid reaches beyond the largest {by_name[name].dtype.name}.")
