"""How the slopes of the term follow from sums over weights: one rule an objective, one signature."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from metaq.entropy import objective, passes
from metaq.entropy.cells import CellStatistics
from metaq.entropy.dual import SpreadDual, solve_exact, solve_fista
from metaq.entropy.passes import CPU, GridSet
from metaq.regularizer.config import RegularizerConfig


class SlopeRule(abc.ABC):
    """From weights to slopes, by way of sums that several processes may add up.

    `xi` are the multipliers that the next call starts from, float64 of shape (G, C); NaN where there are none.
    """

    def __init__(self, config: RegularizerConfig, names: Sequence[str]) -> None:
        self._config, self._names = config, names
        self.xi = torch.full((len(names), config.buckets.count), torch.nan, dtype=torch.float64)

    @abc.abstractmethod
    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        """What the slopes need to know of the weights; O(n)."""

    @abc.abstractmethod
    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        """β on every cell of all groups, float64 of shape (G, C - 1); O(C)."""

    @abc.abstractmethod
    def value(self, statistics: CellStatistics, group: int) -> float:
        """φ of one group, in bits."""


def slope_rule(config: RegularizerConfig, names: Sequence[str]) -> SlopeRule:
    """The rule of a configuration; `names` of the groups are for errors."""
    if config.objective == "code_length":
        return CodeLengthSlopes(config, names)
    return ExactSpreadSlopes(config, names) if config.spread_solver == "exact" else SpreadSlopes(config, names)


class CodeLengthSlopes(SlopeRule):
    """Slopes that lower the code length, from counts of buckets."""

    @override
    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        return (passes.bucket_counts(weights, groups, grids),)

    @override
    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        (counts,) = sums
        if self._config.buckets.rule == "relative":
            return objective.magnitude_slopes(counts, attractor=grids.count // 2, step_size=grids.step_size)
        rows = zip(counts, grids.step_size, strict=True)
        return torch.stack(
            [objective.magnitude_slopes(row, attractor=int(row.argmax()), step_size=step) for row, step in rows]
        )

    @override
    def value(self, statistics: CellStatistics, group: int) -> float:
        return objective.code_length(statistics)[0]


class SpreadSlopes(SlopeRule):
    """Slopes of the thesis's problem, from counts and sums of cells, by some steps of FISTA."""

    @override
    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        return passes.cell_sums(weights, groups, grids)

    @override
    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        slopes, self.xi = objective.spread_slopes(
            *sums,
            starts=self.xi,
            step_sizes=grids.on(CPU).step_size,
            iterations=self._config.fista_iterations,
            zeta_per_weight=self._config.fista_zeta_per_weight,
        )
        return slopes

    @override
    def value(self, statistics: CellStatistics, group: int) -> float:
        return solve_fista(
            SpreadDual(statistics=statistics),
            start=self._start(group),
            max_iterations=self._config.fista_iterations,
            zeta_per_weight=self._config.fista_zeta_per_weight,
        ).value

    def _start(self, group: int) -> NDArray[np.float64] | None:
        return None if self.xi[group].isnan().any() else self.xi[group].numpy()


class ExactSpreadSlopes(SpreadSlopes):
    """The same from the exact solution of the dual."""

    @override
    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        slopes, self.xi = objective.exact_spread_slopes(
            *sums, starts=self.xi, step_sizes=grids.on(CPU).step_size, names=self._names
        )
        return slopes

    @override
    def value(self, statistics: CellStatistics, group: int) -> float:
        return solve_exact(SpreadDual(statistics=statistics), start=self._start(group)).value
