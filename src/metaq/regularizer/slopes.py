"""How the slopes of the term follow from sums over weights: one rule an objective, one signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from metaq.entropy import objective, passes
from metaq.entropy.cells import CellStatistics
from metaq.entropy.objective import ObjectiveResult
from metaq.entropy.passes import CPU, GridSet
from metaq.regularizer.config import RegularizerConfig


class SlopeRule(Protocol):
    """From weights to slopes, by way of sums that several processes may add up.

    Attributes
    ----------
    xi
        Multipliers that the next call starts from, float64 of shape (G, C); NaN where there are none.
    """

    xi: torch.Tensor

    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        """What the slopes need to know of the weights; O(n)."""

    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        """β on every cell of all groups, float64 of shape (G, C - 1); O(C)."""

    def value(self, statistics: CellStatistics, group: int) -> ObjectiveResult:
        """φ of one group."""


def slope_rule(config: RegularizerConfig, names: Sequence[str]) -> SlopeRule:
    """The rule of a configuration; `names` of the groups are for errors."""
    return CodeLengthSlopes(config, names) if config.objective == "code_length" else SpreadSlopes(config, names)


class CodeLengthSlopes:
    """Slopes that lower the code length, from counts of buckets."""

    def __init__(self, config: RegularizerConfig, names: Sequence[str]) -> None:
        self._has_central_attractor = config.buckets.rule == "relative"
        self.xi = torch.full((len(names), config.buckets.count), torch.nan, dtype=torch.float64)

    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        """See :class:`SlopeRule`."""
        return (passes.bucket_counts(weights, groups, grids),)

    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        """See :class:`SlopeRule`."""
        (counts,) = sums
        if self._has_central_attractor:
            return objective.magnitude_slopes(counts, attractor=grids.count // 2, step_size=grids.step_size)
        rows = zip(counts, grids.step_size, strict=True)
        return torch.stack(
            [objective.magnitude_slopes(row, attractor=int(row.argmax()), step_size=step) for row, step in rows]
        )

    def value(self, statistics: CellStatistics, _group: int) -> ObjectiveResult:
        """See :class:`SlopeRule`."""
        return objective.code_length(statistics)


class SpreadSlopes:
    """Slopes of the thesis's problem, from counts and sums of cells."""

    def __init__(self, config: RegularizerConfig, names: Sequence[str]) -> None:
        self._config = config
        self._names = names
        self.xi = torch.full((len(names), config.buckets.count), torch.nan, dtype=torch.float64)

    def sums(self, weights: Sequence[torch.Tensor], groups: Sequence[int], grids: GridSet) -> tuple[torch.Tensor, ...]:
        """See :class:`SlopeRule`."""
        return passes.cell_sums(weights, groups, grids)

    def slopes(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        """See :class:`SlopeRule`."""
        counts, fractions = sums
        step_sizes = grids.on(CPU).step_size
        if self._config.spread_solver == "exact":
            slopes, self.xi = objective.exact_spread_slopes(
                counts, fractions, starts=self.xi, step_sizes=step_sizes, names=self._names
            )
            return slopes
        slopes, self.xi = objective.spread_slopes(
            counts,
            fractions,
            starts=self.xi,
            step_sizes=step_sizes,
            iterations=self._config.fista_iterations,
            zeta_per_weight=self._config.fista_zeta_per_weight,
        )
        return slopes

    def value(self, statistics: CellStatistics, group: int) -> ObjectiveResult:
        """See :class:`SlopeRule`."""
        start = None if self.xi[group].isnan().any() else self.xi[group].numpy()
        if self._config.spread_solver == "exact":
            return objective.exact_spread(statistics, start=start)
        return objective.spread(
            statistics,
            start=start,
            iterations=self._config.fista_iterations,
            zeta_per_weight=self._config.fista_zeta_per_weight,
        )
