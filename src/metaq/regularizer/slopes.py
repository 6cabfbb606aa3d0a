"""How the slopes of the term follow from sums over weights: one rule an objective, one signature."""

import abc
from collections.abc import Sequence

import torch
from typing_extensions import override

from metaq.entropy import objective
from metaq.entropy.cells import CellStatistics
from metaq.entropy.dual import SpreadDual, solve_fista
from metaq.entropy.passes import dispatch
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.regularizer.config import RegularizerConfig


class SlopeRule(abc.ABC):
    """From weights to slopes, by way of sums that several processes may add up.

    `xi` are the multipliers that the next call starts from, float64 of shape (G, C); NaN where there are none.
    """

    def __init__(self, config: RegularizerConfig, group_count: int) -> None:
        self._config = config
        self.xi = torch.full((group_count, config.buckets.count), torch.nan, dtype=torch.float64, device=CPU)

    @abc.abstractmethod
    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        """What the slopes need to know of the weights; O(n)."""

    @abc.abstractmethod
    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        """β on every cell of all groups, float64 of shape (G, C - 1); O(C)."""

    @abc.abstractmethod
    def value(self, statistics: CellStatistics, group: int) -> float:
        """φ of one group, in bits."""


def slope_rule(config: RegularizerConfig, group_count: int) -> SlopeRule:
    """The rule of a configuration for G groups."""
    rule = CodeLengthSlopes if config.objective == "code_length" else SpreadSlopes
    return rule(config, group_count)


class CodeLengthSlopes(SlopeRule):
    """Slopes that lower the code length, from counts of buckets."""

    @override
    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        return (dispatch.bucket_counts(weights, groups, grids),)

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
        return dispatch.cell_sums(weights, groups, grids)

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
            start=None if self.xi[group].isnan().any() else self.xi[group].numpy(),
            max_iterations=self._config.fista_iterations,
            zeta_per_weight=self._config.fista_zeta_per_weight,
        ).value
