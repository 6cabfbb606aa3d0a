"""The entropy regulariser: two lines in anybody's training loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq import objective, passes
from metaq.cells import CellStatistics, bucket_indices, bucket_values
from metaq.config import RegularizerConfig, require
from metaq.context_prices import REFRESH_STEPS, ContextPrices
from metaq.errors import NonFiniteError
from metaq.grid import BucketGrid
from metaq.latent import LatentWeights
from metaq.passes import GridSet, TensorPairs
from metaq.proximal import Multipliers, pull_at
from metaq.schedule import schedule_of
from metaq.step_size import StepLearner
from metaq.weights import FilterFn, group_globally, group_per_tensor, select_parameters


@dataclass(frozen=True, kw_only=True)
class RegularizerReport:
    """Where the weights stand.

    Attributes
    ----------
    phi_bits
        φ of the latent weights, summed over groups, in bits.
    bits
        Zero-order entropy of the bucket indices, one table a group, in bits.
    bits_per_weight
        `bits` over `weights`.
    distance
        Root mean square distance of the latent weights from their reference values, in units of weight.
    weights
        Number of weights that take part.
    frozen
        Weights fixed because they oscillated.
    """

    phi_bits: float
    bits: float
    bits_per_weight: float
    distance: float
    weights: int
    frozen: int


class EntropyRegularizer:
    """Adds λ (α R(w) + (1 - α) φ(w)) to whatever a training loop minimises.

    Attached to an optimiser, it works inside ``optimizer.step()``: before the update it adds its gradient to the
    parameters' ``.grad`` (after unscaling and clipping, if the loop does these), after it, it snaps the weights the
    model holds to their buckets when ``forward="quantized"``, or pulls them to their buckets when it is ``"proximal"``.
    Call :meth:`finish` when training ends.

    Parameters
    ----------
    model
        Any module. Those of its floating parameters take part that are trained (``requires_grad``) and chosen by the
        globs of the configuration and by `filter_fn`; tied parameters once.
    config
        See :class:`RegularizerConfig`.
    total_steps
        Optimiser steps of the whole training; the schedule is relative to it.
    filter_fn
        From the name of a parameter and the parameter to whether it takes part; by default all do.

    Raises
    ------
    ConfigError
        If no parameter is left to regularise or one holds NaN or infinity.

    Examples
    --------
    >>> model = torch.nn.Linear(4, 2)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> regularizer = EntropyRegularizer(model, total_steps=10).attach(optimizer)
    >>> for _ in range(10):
    ...     loss = model(torch.ones(8, 4)).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> regularizer.finish()
    >>> regularizer.report().weights
    10
    """

    def __init__(
        self,
        model: nn.Module,
        config: RegularizerConfig | None = None,
        *,
        total_steps: int,
        filter_fn: FilterFn | None = None,
    ) -> None:
        self.config = config or RegularizerConfig()
        require(total_steps >= 1, f"total_steps: {total_steps} is below 1.")
        self.total_steps = total_steps
        self.steps = 0
        parameters = select_parameters(
            model, include=self.config.include, exclude=self.config.exclude, filter_fn=filter_fn
        )
        grouped = group_per_tensor if self.config.grouping == "tensor" else group_globally
        self._groups = grouped(parameters)
        self._names = [name for group in self._groups for name in group.parameters]
        self._parameters: list[torch.Tensor] = [p for group in self._groups for p in group.parameters.values()]
        self._group_of = [g for g, group in enumerate(self._groups) for _ in group.parameters]
        self.schedule = schedule_of(self.config, weights=sum(group.count for group in self._groups))
        self._latent: LatentWeights | None = None
        self._multipliers: Multipliers | None = None
        self._context_prices = ContextPrices(self._names) if self.config.rate_model == "context" else None
        self._grids: GridSet | None = None
        self._slopes: NDArray[np.float64] | None = None
        self._xi = np.full((len(self._groups), self.config.buckets.count), np.nan)
        self._step_learner = StepLearner(len(self._groups))
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> EntropyRegularizer:
        """Work inside every ``optimizer.step()`` from now on; returns the regulariser itself.

        Raises
        ------
        ConfigError
            If attached already, or if a parameter that takes part is not among the optimiser's.
        """
        require(not self._hooks, "regularizer: attached to an optimizer already; call detach() first.")
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            require(id(parameter) in owned, f"{name}: the optimizer does not update it; add it to `exclude`.")
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self.before_step()),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]
        return self

    def detach(self) -> None:
        """Stop working inside the optimiser; the model keeps the weights it holds."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def active(self) -> bool:
        """Whether the warm-up is over."""
        return self.steps >= self.config.warmup * self.total_steps

    @torch.no_grad()
    def before_step(self) -> None:
        """Give the model back its latent weights and add the term's gradient to ``.grad``; O(n)."""
        if not self.active:
            return
        grids = self._start() if self._grids is None else self._grids
        if self._multipliers is not None:
            self._grids = self._constrain(grids, self._multipliers)
            return
        slopes = self._slopes
        if self.steps % self.config.refresh_every == 0 or slopes is None:
            slopes = self._code_length_slopes(grids) if self._lowers_bits else self._spread_slopes(grids)
        prices = self._context_prices
        if prices is not None and (self.steps % REFRESH_STEPS == 0 or not prices.are_known):
            prices.refresh(self._weights(), grids)
        pairs = self._with_gradient()
        factors = np.ones(len(grids))
        if self._learns_steps:
            factors = self._step_factors(pairs)
            grids = grids.rescaled(factors)
            slopes = slopes / factors[:, None]
        if self._latent is not None:
            self._latent.restore(factors)
        self._add_gradients(pairs, grids, slopes)
        self._grids, self._slopes = grids, slopes

    @torch.no_grad()
    def after_step(self) -> None:
        """Take over the updated weights and snap those the model holds; O(n)."""
        before = self._progress
        self.steps += 1
        if self._grids is None:
            return
        if self._multipliers is not None:
            self._multipliers.after_optimizer()
        if self._latent is None:
            return
        refinement = self.schedule.refinement(before, self._progress)
        if refinement:
            assert self.config.plan is not None
            self._latent.let_some_move(self.config.plan.moving, seed=refinement)
        self._latent.snap(self._grids, freeze_above=self.schedule.freeze_threshold(self._progress))

    def finish(self) -> None:
        """End of training: leave the quantised weights in the model and detach."""
        self.detach()
        with torch.no_grad():
            self._grids = self._stored_grids()
            self._hold(quantized=True)
            self._latent = self._multipliers = None

    @contextlib.contextmanager
    def latent_weights(self) -> Iterator[None]:
        """Let the model hold the latent (float) weights inside the ``with`` block."""
        with self._holding(quantized=False):
            yield

    @contextlib.contextmanager
    def quantized_weights(self) -> Iterator[None]:
        """Let the model hold the quantised weights inside the ``with`` block."""
        with self._holding(quantized=True):
            yield

    def grids(self) -> dict[str, BucketGrid]:
        """Grid of every tensor that takes part, by name; before the warm-up ends, those it would take now.

        Unless buckets are fixed, step sizes are rounded to float16, as in :meth:`quantized_weights` and :meth:`finish`.
        """
        stored = list(self._stored_grids())
        return {name: stored[group] for name, group in zip(self._names, self._group_of, strict=True)}

    def current_strength(self) -> float:
        """λ at the present step."""
        return self.schedule.strength(self._progress) if self.active else 0.0

    @torch.no_grad()
    def report(self) -> RegularizerReport:
        """φ, bits, bits per weight and distance to the grid of the present weights; O(n)."""
        grids, weights = self._present_grids(), self._weights()
        phi_bits = squared_distance = 0.0
        cell_counts, fractions = passes.cell_sums(weights, self._group_of, grids)
        for g, grid in enumerate(grids):
            statistics = CellStatistics(counts=cell_counts[g], fractions=fractions[g], grid=grid)
            phi_bits += self._evaluate(statistics, None if np.isnan(self._xi[g]).any() else self._xi[g]).value_bits
        counts = np.zeros((len(grids), grids.count))
        for tensor, values, group in zip(weights, self._values(grids), self._group_of, strict=True):
            counts += passes.bucket_counts([values], [group], grids)
            squared_distance += float((tensor.double() - values).square().sum())
        bits = entropy_bits(counts)
        n = sum(group.count for group in self._groups)
        return RegularizerReport(
            phi_bits=phi_bits,
            bits=bits,
            bits_per_weight=bits / n,
            distance=math.sqrt(squared_distance / n),
            weights=n,
            frozen=0 if self._latent is None else self._latent.frozen_count,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on to the identical result; holds tensors, numbers, strings only."""
        return {
            "config": self.config.to_json(),
            "total_steps": self.total_steps,
            "steps": self.steps,
            "groups": [group.name for group in self._groups],
            "radius": None if self._grids is None else torch.tensor(self._grids.radius),
            "center": None if self._grids is None else torch.tensor(self._grids.center),
            "slopes": None if self._slopes is None else torch.tensor(self._slopes),
            "xi": torch.tensor(self._xi),
            "step_learner": self._step_learner.state_dict(),
            "schedule": self.schedule.state_dict(),
            "latent": None if self._latent is None else self._latent.state_dict(),
            "multipliers": None if self._multipliers is None else self._multipliers.state_dict(),
            "context_prices": None if self._context_prices is None else self._context_prices.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state another regulariser of the same configuration gave.

        Raises
        ------
        ConfigError
            If the configuration, the number of steps or the groups differ.
        """
        known = set(state_dict) == set(self.state_dict())
        require(known, "regularizer state: parts are missing; it is damaged or of another version; train anew.")
        same = state_dict["config"] == self.config.to_json() and state_dict["total_steps"] == self.total_steps
        require(same, "regularizer state: saved with another configuration; build it with the same one to resume.")
        require(
            state_dict["groups"] == [group.name for group in self._groups],
            "regularizer state: its tensor groups are not those of this model.",
        )
        self.steps = int(state_dict["steps"])
        self._grids = self._slopes = None
        if state_dict["radius"] is not None:
            center, radius = _array(state_dict["center"]), _array(state_dict["radius"])
            self._grids = GridSet(center=center, radius=radius, count=self.config.buckets.count)
        if state_dict["slopes"] is not None:
            self._slopes = _array(state_dict["slopes"])
        self._xi = _array(state_dict["xi"])
        self._step_learner.load_state_dict(state_dict["step_learner"])
        self.schedule.load_state_dict(state_dict["schedule"])
        if state_dict["latent"] is not None:
            self._latent = LatentWeights(self._parameters, self._group_of)
            self._latent.load_state_dict(state_dict["latent"])
        if state_dict["multipliers"] is not None:
            assert self._grids is not None
            self._multipliers = Multipliers(self._parameters, self._group_of)
            self._multipliers.load_state_dict(state_dict["multipliers"], self._grids)
        if self._context_prices is not None:
            self._context_prices.load_state_dict(state_dict["context_prices"])

    @property
    def _progress(self) -> float:
        """Share of all steps that are done."""
        return self.steps / self.total_steps

    @property
    def _learns_steps(self) -> bool:
        config = self.config
        return config.forward == "quantized" and config.buckets.rule == "relative" and config.step_learning_rate > 0

    @property
    def _lowers_bits(self) -> bool:
        return self.config.objective == "code_length"

    def _step_factors(self, pairs: TensorPairs) -> NDArray[np.float64]:
        """What to multiply the step sizes with, of shape (G,): along the loss gradient of their logarithms.

        That is Σ gradient · value.
        """
        products = passes.inner_products(pairs, len(self._groups))
        return self._step_learner.factors(products, self.schedule.step_learning_rate(self._progress))

    def _start(self) -> GridSet:
        grids = self._grids = self._present_grids()
        if self.config.forward == "quantized":
            self._latent = LatentWeights(self._parameters, self._group_of)
            self._latent.begin(grids)
        if self.config.forward == "proximal":
            self._multipliers = Multipliers(self._parameters, self._group_of)
        return grids

    def _constrain(self, grids: GridSet, multipliers: Multipliers) -> GridSet:
        """Before a step on float weights: at a refresh new targets for the pull; the grids for which they are."""
        config, strength = self.config, self.current_strength()
        if self.steps % config.refresh_every == 0 and multipliers.steps > 0:
            share = (self._progress - config.warmup) / (1 - config.warmup)
            grids = multipliers.compress(
                grids,
                strength=strength * (1 - config.alpha),
                pull=pull_at(config.proximal, share),
                refit_share=config.proximal.refit_share,
            )
        self._add_plain(self._with_gradient(), strength * config.alpha)
        multipliers.before_optimizer()
        return grids

    def _present_grids(self) -> GridSet:
        """Grids of the groups; before the term sets in, those they would take now."""
        if self._grids is not None:
            return self._grids
        buckets, group_count = self.config.buckets, len(self._groups)
        if buckets.rule == "fixed":
            grid = BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
            return GridSet.of([grid] * group_count)
        weights = self._weights()
        squares = passes.inner_products(TensorPairs(weights, weights, self._group_of), group_count)
        for group, sum_of_squares in zip(self._groups, squares, strict=True):
            if not math.isfinite(sum_of_squares):
                raise NonFiniteError(
                    f"{group.name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
                )
        root_mean_squares = np.sqrt(squares / [group.count for group in self._groups])
        step_sizes = buckets.step_scale * np.where(root_mean_squares > 0, root_mean_squares, 1.0)
        unit = BucketGrid(center=0.0, radius=1.0, count=buckets.count)
        return GridSet.of([unit] * group_count).rescaled(step_sizes * buckets.count / 2)

    def _weights(self) -> list[torch.Tensor]:
        """Latent weights where they are kept apart, else the model's own."""
        if self._latent is not None:
            return self._latent.tensors()
        return [parameter.detach() for parameter in self._parameters]

    def _values(self, grids: GridSet) -> Iterator[torch.Tensor]:
        """The quantised weights, float64, tensor by tensor."""
        if self._multipliers is not None:
            return self._multipliers.values(grids)
        pairs = zip(self._weights(), self._group_of, strict=True)
        return (bucket_values(bucket_indices(weights, grids[g]), grids[g]) for weights, g in pairs)

    def _with_gradient(self) -> TensorPairs:
        """The weights that the model holds and the gradients of all parameters that have one."""
        weights, gradients, groups = [], [], []
        for parameter, group in zip(self._parameters, self._group_of, strict=True):
            if parameter.grad is not None:
                weights.append(parameter)
                gradients.append(parameter.grad)
                groups.append(group)
        return TensorPairs(weights, gradients, groups)

    def _evaluate(self, statistics: CellStatistics, start: NDArray[np.float64] | None) -> objective.ObjectiveResult:
        if self._lowers_bits:
            return objective.code_length(statistics)
        if self.config.spread_solver == "exact":
            return objective.exact_spread(statistics, start=start)
        return objective.spread(
            statistics,
            start=start,
            iterations=self.config.fista_iterations,
            zeta_per_weight=self.config.fista_zeta_per_weight,
        )

    def _code_length_slopes(self, grids: GridSet) -> NDArray[np.float64]:
        counts = passes.bucket_counts(self._weights(), self._group_of, grids)
        self.schedule.observe(entropy_bits(counts), self._progress)
        if self.config.buckets.rule == "relative":
            return objective.magnitude_slopes(counts, attractor=grids.count // 2, step_size=grids.step_size)
        rows = zip(counts, grids.step_size, strict=True)
        return np.stack(
            [objective.magnitude_slopes(row, attractor=int(row.argmax()), step_size=step) for row, step in rows]
        )

    def _spread_slopes(self, grids: GridSet) -> NDArray[np.float64]:
        cell_counts, fractions = passes.cell_sums(self._weights(), self._group_of, grids)
        if self.config.spread_solver == "exact":
            slopes, self._xi = objective.exact_spread_slopes(
                cell_counts,
                fractions,
                starts=self._xi,
                step_sizes=grids.step_size,
                names=[group.name for group in self._groups],
            )
        else:
            slopes, self._xi = objective.spread_slopes(
                cell_counts,
                fractions,
                starts=self._xi,
                step_sizes=grids.step_size,
                iterations=self.config.fista_iterations,
                zeta_per_weight=self.config.fista_zeta_per_weight,
            )
        return slopes

    def _add_gradients(self, pairs: TensorPairs, grids: GridSet, slopes: NDArray[np.float64]) -> None:
        config, strength = self.config, self.current_strength()
        hysteresis = config.hysteresis if self._lowers_bits else 0.0
        share = strength * (1 - config.alpha)
        passes.add_slopes(pairs, grids, objective.half_cell_slopes(slopes, hysteresis, share))
        if self._context_prices is not None:
            self._context_prices.add_slopes(pairs, grids, slopes, hysteresis=hysteresis, strength=share)
        self._add_plain(pairs, strength * config.alpha)

    def _add_plain(self, pairs: TensorPairs, strength: float) -> None:
        """Add `strength` times the gradient of R."""
        if self.config.alpha > 0 and pairs.gradients:
            plain = pairs.weights if self.config.norm == "l2" else torch._foreach_sign(pairs.weights)
            factor = 2.0 if self.config.norm == "l2" else 1.0
            torch._foreach_add_(pairs.gradients, plain, alpha=factor * strength)

    @contextlib.contextmanager
    def _holding(self, *, quantized: bool) -> Iterator[None]:
        held = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            self._hold(quantized=quantized)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, held)

    def _stored_grids(self) -> GridSet:
        """The present grids as a file holds them."""
        return self._present_grids().rounded() if self.config.buckets.rule == "relative" else self._present_grids()

    def _hold(self, *, quantized: bool) -> None:
        held = self._values(self._stored_grids()) if quantized else self._weights()
        for parameter, tensor in zip(self._parameters, held, strict=True):
            parameter.copy_(tensor)


def entropy_bits(bucket_counts: NDArray[np.float64]) -> float:
    """Zero-order entropy in bits, one table a group; `bucket_counts` has shape (G, C)."""
    shares = bucket_counts / bucket_counts.sum(axis=1, keepdims=True)
    return -float(np.sum(bucket_counts * np.log2(np.where(shares > 0, shares, 1.0))))


def _array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy().copy()
