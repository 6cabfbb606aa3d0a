"""The entropy regulariser: two lines in anybody's training loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq.config import require
from metaq.entropy import objective, passes
from metaq.entropy.cells import bucket_indices, bucket_values
from metaq.entropy.objective import entropy_bits
from metaq.entropy.passes import GridSet, GroupArray, TensorPairs, on_host
from metaq.model.sharding import local_part
from metaq.model.weights import FilterFn
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.context_prices import REFRESH_STEPS, ContextPrices
from metaq.regularizer.first_grids import first_grids
from metaq.regularizer.host_copy import HostCopy
from metaq.regularizer.latent import LatentWeights
from metaq.regularizer.optimizers import (
    OutermostStep,
    StepArguments,
    found_inf,
    hook_caller,
    innermost,
    require_single_gradient,
    unscale,
    with_closure_called,
)
from metaq.regularizer.participants import Participants
from metaq.regularizer.proximal import Multipliers, pull_at
from metaq.regularizer.report import RegularizerReport, report_of
from metaq.regularizer.schedule import PlannedSchedule, schedule_of
from metaq.regularizer.slopes import slope_rule
from metaq.regularizer.step_size import StepLearner
from metaq.tensors.grid import BucketGrid


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
        self._participants = Participants(model, self.config, total_steps=total_steps, filter_fn=filter_fn)
        self.schedule = schedule_of(self.config, weights=self._participants.total)
        self._rule = slope_rule(self.config, self._participants.groups)
        self._latent: LatentWeights | None = None
        self._multipliers: Multipliers | None = None
        asks_coder = self.config.rate_model == "context"
        names, held = self._participants.names, self._participants.local()
        self._context_prices = ContextPrices(names, held) if asks_coder else None
        self._grids: GridSet | None = None
        self._slopes: GroupArray | None = None
        self._step_learner = StepLearner(len(self._participants.groups), self._participants.device)
        self._groups_of_parts = self._chosen_groups()
        self._no_factors = self._participants.placed(np.ones(len(self._participants.groups)))
        self._last_seen = -1
        self._unseen_bits: HostCopy | None = None
        self._outermost: list[OutermostStep] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, *optimizers: torch.optim.Optimizer) -> EntropyRegularizer:
        """Work inside every ``optimizer.step()`` from now on; returns the regulariser itself.

        Of several optimisers the last keeps the time: the schedule moves on with its steps.

        Raises
        ------
        ConfigError
            If attached already, if a parameter that takes part is not updated by exactly one of the optimisers, or one
            of them calls its closure several times a step.
        """
        require(not self._hooks, "regularizer: attached to an optimizer already; call detach() first.")
        require(bool(optimizers), "regularizer: no optimizer given; give those that update the model.")
        inner = [innermost(optimizer) for optimizer in optimizers]
        for optimizer in inner:
            require_single_gradient(optimizer)
        self._share_out(inner)
        self._outermost = [OutermostStep() for _ in inner]
        self._hooks = [
            hook
            for part, optimizer in enumerate(inner)
            for hook in (
                optimizer.register_step_pre_hook(partial(self._on_step_begin, part)),
                optimizer.register_step_post_hook(partial(self._on_step_end, part)),
            )
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
    def before_step(self, part: int = 0, *, found_inf: torch.Tensor | None = None) -> None:
        """Give the model back its latent weights and add the term's gradient to ``.grad``; O(n).

        Parameters
        ----------
        part
            Number of the optimiser that is about to step, among those attached.
        found_inf
            Above 0 if a ``GradScaler`` has told the optimiser to leave the weights as they are.
        """
        if not self.active:
            return
        grids = self._start() if self._grids is None else self._grids
        if self._multipliers is not None:
            self._grids = self._constrain(grids, self._multipliers)
            return
        is_new, self._last_seen = self.steps != self._last_seen, self.steps
        refreshes = self._slopes is None or (is_new and self.steps % self.config.refresh_every == 0)
        everyone = self._participants
        pairs, counted = everyone.with_gradient(part)
        local_sums = self._rule.sums(*everyone.counted(self._weights()), grids) if refreshes else ()
        local_products = [passes.inner_products(counted, len(grids), everyone.device)] if self._learns_steps else []
        totals = everyone.shards.total(*local_sums, *local_products)
        if refreshes:
            self._refresh(totals[: len(local_sums)], grids)
        prices = self._context_prices
        if prices is not None and is_new and (self.steps % REFRESH_STEPS == 0 or not prices.are_known):
            prices.refresh(self._weights(), grids)
        factors = self._no_factors
        if self._learns_steps:
            learning_rate = self.schedule.step_learning_rate(self._progress)
            products = totals[-1] if found_inf is None else totals[-1] + self._nan_where(found_inf)
            factors = self._step_learner.factors(products, learning_rate, self._groups_of_parts[part])
            grids = grids.rescaled(factors)
            self._slopes = self._slopes / factors[:, None]
        if self._latent is not None:
            self._latent.restore(everyone.local(), factors, part)
        self._add_gradients(pairs, grids, self._slopes)
        self._grids = grids

    @torch.no_grad()
    def after_step(self, part: int = 0) -> None:
        """Take over the updated weights and snap those the model holds; O(n)."""
        before, after = self._progress, (self.steps + 1) / self.total_steps
        self.steps += part == self._participants.part_count - 1
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
        freeze_above = self.schedule.freeze_threshold(after)
        self._latent.snap(self._participants.local(), self._grids, part, freeze_above=freeze_above)

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
        everyone = self._participants
        return {name: stored[group] for name, group in zip(everyone.names, everyone.group_of, strict=True)}

    def current_strength(self) -> float:
        """λ at the present step."""
        return self.schedule.strength(self._progress) if self.active else 0.0

    @torch.no_grad()
    def report(self) -> RegularizerReport:
        """φ, bits, bits per weight and distance to the grid of the present weights; O(n)."""
        grids, latent = self._host_grids(), self._latent
        frozen = 0 if latent is None else latent.frozen_count(self._participants.shards.counted)
        return report_of(self._participants, self._rule, grids, self._weights(), self._values(grids), frozen=frozen)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on to the identical result; holds tensors, numbers, strings only.

        Its structure depends on the model and the configuration alone, and what is kept of a sharded parameter is
        sharded like it, as ``torch.distributed.checkpoint`` wants it.
        """
        grids = self._grids or GridSet(center=self._unknown(), radius=self._unknown(), count=self.config.buckets.count)
        slopes = self._unknown(self.config.buckets.count - 1) if self._slopes is None else self._slopes
        multipliers = self._multipliers or self._new_multipliers()
        return {
            "config": self.config.to_json(),
            "total_steps": self.total_steps,
            "steps": self.steps,
            "groups": self._participants.groups,
            "has_grids": self._grids is not None,
            "radius": _tensor(grids.radius),
            "center": _tensor(grids.center),
            "slopes": _tensor(slopes),
            "xi": _tensor(self._rule.xi),
            "step_learner": self._step_learner.state_dict(),
            "schedule": self.schedule.state_dict(),
            "unseen_bits": math.nan if self._unseen_bits is None else self._unseen_bits.value(),
            "weights": self._weights_state(),
            "multipliers": None if multipliers is None else multipliers.state_dict(),
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
            state_dict["groups"] == self._participants.groups,
            "regularizer state: its tensor groups are not those of this model.",
        )
        self._step_learner.load_state_dict(state_dict["step_learner"])
        self.steps, self._last_seen = int(state_dict["steps"]), -1
        slopes, xi = _array(state_dict["slopes"]), _array(state_dict["xi"])
        self._slopes = None if np.isnan(slopes).all() else self._participants.placed(slopes)
        self._rule.xi = xi
        self.schedule.load_state_dict(state_dict["schedule"])
        bits = float(state_dict["unseen_bits"])
        self._unseen_bits = None if math.isnan(bits) else HostCopy(torch.tensor(bits, dtype=torch.float64))
        self._grids = self._latent = self._multipliers = None
        if self._context_prices is not None:
            self._context_prices.load_state_dict(state_dict["context_prices"])
        if not state_dict["has_grids"]:
            return
        center, radius = (self._participants.placed(_array(state_dict[name])) for name in ("center", "radius"))
        self._grids = GridSet(center=center, radius=radius, count=self.config.buckets.count)
        self._latent, self._multipliers = self._new_latent(), self._new_multipliers()
        if self._latent is not None:
            states = [state_dict["weights"][name] for name in self._participants.names]
            self._latent.load_state_of_tensors([_local_state(state) for state in states])
        if self._multipliers is not None:
            self._multipliers.load_state_dict(state_dict["multipliers"], self._grids)

    @property
    def _progress(self) -> float:
        """Share of all steps that are done."""
        return self.steps / self.total_steps

    @property
    def _learns_steps(self) -> bool:
        config = self.config
        return config.forward == "quantized" and config.buckets.rule == "relative" and config.step_learning_rate > 0

    def _unknown(self, *shape: int) -> NDArray[np.float64]:
        return np.full((len(self._participants.groups), *shape), np.nan)

    def _nan_where(self, found_inf: torch.Tensor) -> GroupArray:
        """NaN if `found_inf` is above 0, else 0: added to gradients, it makes them count for nothing."""
        if self._participants.device is None:
            return np.nan if float(found_inf) > 0 else 0.0
        return torch.where(found_inf > 0, torch.nan, 0.0).to(self._participants.device)

    def _share_out(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        require(self.config.forward != "proximal" or len(optimizers) == 1, 'forward="proximal": needs one optimizer.')
        self._participants.share_out(optimizers)
        together = all(len(parts) == 1 for parts in self._participants.parts_of_groups())
        require(
            together or not self._learns_steps,
            'grouping="global": all tensors have one step size, which several optimizers cannot learn; give one, or '
            "step_learning_rate=0.",
        )
        self._groups_of_parts = self._chosen_groups()
        if self._latent is not None:
            state = self._latent.state_of_tensors()
            self._latent = LatentWeights(*self._places)
            self._latent.load_state_of_tensors(state)

    def _chosen_groups(self) -> list[GroupArray]:
        """Groups of every optimiser: bool of shape (G,) each."""
        parts = self._participants.parts_of_groups()
        masks = (np.array([part in of_group for of_group in parts]) for part in range(self._participants.part_count))
        return [self._participants.placed(mask) for mask in masks]

    def _on_step_begin(
        self, part: int, optimizer: torch.optim.Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> StepArguments | None:
        if not self._outermost[part].begins(hook_caller()):
            return None
        left = with_closure_called(arguments, options)
        unscale(optimizer)
        self.before_step(part, found_inf=found_inf(optimizer))
        return left

    def _on_step_end(self, part: int, *_: object) -> None:
        if self._outermost[part].ends():
            self.after_step(part)

    def _start(self) -> GridSet:
        grids = self._grids = self._present_grids()
        self._latent, self._multipliers = self._new_latent(), self._new_multipliers()
        if self._latent is not None:
            self._latent.begin(grids)
        return grids

    def _new_latent(self) -> LatentWeights | None:
        if self.config.forward != "quantized":
            return None
        return LatentWeights(*self._places)

    @property
    def _places(self) -> tuple[list[torch.Tensor], list[int], list[int]]:
        """Weights, groups and optimisers."""
        return self._participants.local(), self._participants.group_of, self._participants.part_of

    def _new_multipliers(self) -> Multipliers | None:
        if self.config.forward != "proximal":
            return None
        everyone = self._participants
        return Multipliers(everyone.parameters, everyone.group_of, bucket_count=self.config.buckets.count)

    def _weights_state(self) -> dict[str, dict[str, Any]]:
        """What is kept of every single weight, by name of the tensor."""
        latent = self._latent or self._new_latent()
        if latent is None:
            return {}
        return {
            name: {
                key: self._participants.shards.like_parameter(t, value) if isinstance(value, torch.Tensor) else value
                for key, value in state.items()
            }
            for t, (name, state) in enumerate(zip(self._participants.names, latent.state_of_tensors(), strict=True))
        }

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
        self._add_plain(self._participants.with_gradient(0)[0], strength * config.alpha)
        multipliers.before_optimizer()
        return grids

    def _refresh(self, sums: Sequence[GroupArray], grids: GridSet) -> None:
        """New slopes; what the schedule wants to know reaches it at once, or from a device at the next refresh."""
        if self._participants.device is None:
            passes.require_finite(*sums)
        if isinstance(self.schedule, PlannedSchedule):
            self._show_bits(sums[0])
        self._slopes = self._rule.slopes(sums, grids)

    def _show_bits(self, counts: GroupArray) -> None:
        if self._participants.device is None:
            self.schedule.observe(entropy_bits(counts), self._progress)
            return
        if self._unseen_bits is not None:
            self.schedule.observe(self._unseen_bits.value(), self._progress)
        self._unseen_bits = HostCopy(entropy_bits(counts))

    def _present_grids(self) -> GridSet:
        """Grids of the groups; before the term sets in, those they would take now."""
        return self._grids or first_grids(self.config.buckets, self._participants, self._weights())

    def _host_grids(self) -> GridSet:
        """The present grids on the host.

        Raises
        ------
        NonFiniteError
            If a weight has become NaN or infinite.
        """
        grids = self._present_grids().on_host()
        passes.require_finite(grids.radius)
        return grids

    def _stored_grids(self) -> GridSet:
        """The present grids as a file holds them."""
        grids = self._host_grids()
        return grids.rounded() if self.config.buckets.rule == "relative" else grids

    def _weights(self) -> list[torch.Tensor]:
        """Latent weights where they are kept apart, else the model's own; the parts that this process holds."""
        return self._latent.tensors() if self._latent is not None else self._participants.local()

    def _values(self, grids: GridSet) -> Iterator[torch.Tensor]:
        """The quantised weights, float64, tensor by tensor."""
        if self._multipliers is not None:
            return self._multipliers.values(grids)
        pairs = zip(self._weights(), self._participants.group_of, strict=True)
        return (bucket_values(bucket_indices(weights, grids[g]), grids[g]) for weights, g in pairs)

    def _add_gradients(self, pairs: TensorPairs, grids: GridSet, slopes: GroupArray) -> None:
        config, strength = self.config, self.current_strength()
        hysteresis = config.hysteresis if config.objective == "code_length" else 0.0
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
        held = [tensor.detach().clone() for tensor in self._participants.local()]
        with torch.no_grad():
            self._hold(quantized=quantized)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._participants.local(), held)

    def _hold(self, *, quantized: bool) -> None:
        held = self._values(self._stored_grids()) if quantized else self._weights()
        for tensor, values in zip(self._participants.local(), held, strict=True):
            tensor.copy_(values)


def _local_state(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: local_part(value) if isinstance(value, torch.Tensor) else value for key, value in state.items()}


def _tensor(array: GroupArray) -> torch.Tensor:
    """A copy on the host."""
    return torch.tensor(on_host(array))


def _array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy().copy()
