"""The entropy regulariser: two lines in anybody's training loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

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
from metaq.host_copy import HostCopy
from metaq.latent import LatentWeights
from metaq.passes import GridSet, GroupArray, TensorPairs, on_host
from metaq.proximal import Multipliers, pull_at
from metaq.schedule import PlannedSchedule, schedule_of
from metaq.sharding import Shards, local_part, unwrapped
from metaq.slopes import slope_rule
from metaq.step_size import StepLearner
from metaq.weights import group_globally, group_per_tensor, select_parameters


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
        Any module. Its floating parameters chosen by the configuration take part; tied parameters once.
    config
        See :class:`RegularizerConfig`.
    total_steps
        Optimiser steps of the whole training; the schedule is relative to it.

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

    def __init__(self, model: nn.Module, config: RegularizerConfig | None = None, *, total_steps: int) -> None:
        self.config = config or RegularizerConfig()
        require(total_steps >= 1, f"total_steps: {total_steps} is below 1.")
        self.total_steps = total_steps
        self.steps = 0
        module = unwrapped(model)
        parameters = select_parameters(module, include=self.config.include, exclude=self.config.exclude)
        grouped = group_per_tensor if self.config.grouping == "tensor" else group_globally
        self._groups = grouped(parameters)
        self._names = [name for group in self._groups for name in group.parameters]
        self._parameters: list[torch.Tensor] = [p for group in self._groups for p in group.parameters.values()]
        self._group_of = [g for g, group in enumerate(self._groups) for _ in group.parameters]
        self._part_of = [0] * len(self._parameters)
        self._shards = Shards(self._parameters)
        self._check_shards(model)
        self._device = device_of_sums(self._shards.local(), self.config)
        self.schedule = schedule_of(self.config, weights=sum(group.count for group in self._groups))
        self._rule = slope_rule(self.config, [group.name for group in self._groups])
        self._latent: LatentWeights | None = None
        self._multipliers: Multipliers | None = None
        asks_coder = self.config.rate_model == "context"
        self._context_prices = ContextPrices(self._names, self._shards.local()) if asks_coder else None
        self._grids: GridSet | None = None
        self._slopes: GroupArray | None = None
        self._step_learners = [StepLearner(len(self._groups), self._device)]
        self._no_factors = self._placed(np.ones(len(self._groups)))
        self._last_seen = -1
        self._unseen_bits: HostCopy | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, *optimizers: torch.optim.Optimizer) -> EntropyRegularizer:
        """Work inside every ``optimizer.step()`` from now on; returns the regulariser itself.

        Of several optimisers the last keeps the time: the schedule moves on with its steps.

        Raises
        ------
        ConfigError
            If attached already, or if a parameter that takes part is not updated by exactly one of the optimisers.
        """
        require(not self._hooks, "regularizer: attached to an optimizer already; call detach() first.")
        require(bool(optimizers), "regularizer: no optimizer given; give those that update the model.")
        inner = [_innermost(optimizer) for optimizer in optimizers]
        self._share_out(inner)
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
        refreshes = is_new and (self.steps % self.config.refresh_every == 0 or self._slopes is None)
        pairs, counted = self._with_gradient(part)
        local_sums = self._rule.sums(*self._counted_weights(), grids) if refreshes else ()
        local_products = [passes.inner_products(counted, len(grids), self._device)] if self._learns_steps else []
        totals = self._shards.total(*local_sums, *local_products)
        if refreshes:
            self._refresh(totals[: len(local_sums)], grids)
        prices = self._context_prices
        if prices is not None and is_new and (self.steps % REFRESH_STEPS == 0 or not prices.are_known):
            prices.refresh(self._weights(), grids)
        factors = self._no_factors
        if self._learns_steps:
            learning_rate = self.schedule.step_learning_rate(self._progress)
            products = totals[-1] if found_inf is None else totals[-1] + self._nan_where(found_inf)
            factors = self._step_learners[part].factors(products, learning_rate)
            grids = grids.rescaled(factors)
            self._slopes = self._slopes / factors[:, None]
        if self._latent is not None:
            self._latent.restore(self._shards.local(), factors, part)
        self._add_gradients(pairs, grids, self._slopes)
        self._grids = grids

    @torch.no_grad()
    def after_step(self, part: int = 0) -> None:
        """Take over the updated weights and snap those the model holds; O(n)."""
        before, after = self._progress, (self.steps + 1) / self.total_steps
        self.steps += part == len(self._step_learners) - 1
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
        self._latent.snap(self._shards.local(), self._grids, part, freeze_above=freeze_above)

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
        grids = self._host_grids()
        weights, groups = self._counted_weights()
        sums = self._shards.total(*passes.cell_sums(weights, groups, grids))
        passes.require_finite(*sums)
        rows = zip(*sums, grids, strict=True)
        phi_bits = sum(
            self._rule.value(CellStatistics(counts=counts, fractions=fractions, grid=grid), g).value_bits
            for g, (counts, fractions, grid) in enumerate(rows)
        )
        counts, squared_distance, frozen = self._shards.total(*self._distances(grids))
        n = sum(group.count for group in self._groups)
        bits = entropy_bits(counts)
        return RegularizerReport(
            phi_bits=phi_bits,
            bits=bits,
            bits_per_weight=bits / n,
            distance=math.sqrt(float(squared_distance[0]) / n),
            weights=n,
            frozen=int(frozen[0]),
        )

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
            "groups": [group.name for group in self._groups],
            "has_grids": self._grids is not None,
            "radius": _tensor(grids.radius),
            "center": _tensor(grids.center),
            "slopes": _tensor(slopes),
            "xi": _tensor(self._rule.xi),
            "step_learners": {str(part): learner.state_dict() for part, learner in enumerate(self._step_learners)},
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
            If the configuration, the number of steps, of optimisers or the groups differ.
        """
        known = set(state_dict) == set(self.state_dict())
        require(known, "regularizer state: parts are missing; it is damaged or of another version; train anew.")
        same = state_dict["config"] == self.config.to_json() and state_dict["total_steps"] == self.total_steps
        require(same, "regularizer state: saved with another configuration; build it with the same one to resume.")
        require(
            state_dict["groups"] == [group.name for group in self._groups],
            "regularizer state: its tensor groups are not those of this model.",
        )
        learners = state_dict["step_learners"]
        if len(learners) != len(self._step_learners):
            require(not self._hooks, f"regularizer state: saved with {len(learners)} optimizers; attach as many.")
            self._step_learners = [StepLearner(len(self._groups), self._device) for _ in learners]
        for part, learner in enumerate(self._step_learners):
            learner.load_state_dict(learners[str(part)])
        self.steps, self._last_seen = int(state_dict["steps"]), -1
        slopes, xi = _array(state_dict["slopes"]), _array(state_dict["xi"])
        self._slopes = None if np.isnan(slopes).all() else self._placed(slopes)
        self._rule.xi = xi
        self.schedule.load_state_dict(state_dict["schedule"])
        bits = float(state_dict["unseen_bits"])
        self._unseen_bits = None if math.isnan(bits) else HostCopy(torch.tensor(bits, dtype=torch.float64))
        self._grids = self._latent = self._multipliers = None
        if self._context_prices is not None:
            self._context_prices.load_state_dict(state_dict["context_prices"])
        if not state_dict["has_grids"]:
            return
        center, radius = (self._placed(_array(state_dict[name])) for name in ("center", "radius"))
        self._grids = GridSet(center=center, radius=radius, count=self.config.buckets.count)
        self._latent, self._multipliers = self._new_latent(), self._new_multipliers()
        if self._latent is not None:
            states = [state_dict["weights"][name] for name in self._names]
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
        return np.full((len(self._groups), *shape), np.nan)

    def _nan_where(self, found_inf: torch.Tensor) -> GroupArray:
        """NaN if `found_inf` is above 0, else 0: added to gradients, it makes them count for nothing."""
        if self._device is None:
            return np.nan if float(found_inf) > 0 else 0.0
        return torch.where(found_inf > 0, torch.nan, 0.0).to(self._device)

    def _placed(self, array: NDArray[np.float64]) -> GroupArray:
        """`array` where sums are."""
        return array if self._device is None else torch.as_tensor(array, device=self._device)

    def _check_shards(self, model: nn.Module) -> None:
        config = self.config
        fits = config.forward != "proximal" and config.rate_model != "context"
        require(
            fits or not self._shards.are_several,
            'forward="proximal", rate_model="context": do not work with sharded parameters; choose others, or '
            "DistributedDataParallel.",
        )
        shapes = [(name, tuple(p.shape)) for name, p in zip(self._names, self._parameters, strict=True)]
        options = [line.strip(" ,") for line in config.to_json().splitlines()]
        steps = f"total_steps: {self.total_steps}"
        self._shards.require_agreement([*shapes, *options, steps], getattr(model, "process_group", None))

    def _share_out(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Note which optimiser updates which parameter."""
        owners: dict[int, list[int]] = {}
        for part, optimizer in enumerate(optimizers):
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                owners.setdefault(id(parameter), []).append(part)
        for name, parameter in zip(self._names, self._parameters, strict=True):
            count = len(owners.get(id(parameter), ()))
            require(count > 0, f"{name}: the optimizer does not update it; add it to `exclude`.")
            require(count == 1, f"{name}: {count} optimizers update it; leave it to one of them.")
        parts = [owners[id(parameter)][0] for parameter in self._parameters]
        if parts == self._part_of and len(optimizers) == len(self._step_learners):
            return
        require(self.config.forward != "proximal" or len(optimizers) == 1, 'forward="proximal": needs one optimizer.')
        state = None if self._latent is None else self._latent.state_of_tensors()
        self._part_of = parts
        learners = self._step_learners + [StepLearner(len(self._groups), self._device) for _ in optimizers]
        self._step_learners = learners[: len(optimizers)]
        if state is not None:
            self._latent = LatentWeights(self._shards.local(), self._group_of, self._part_of)
            self._latent.load_state_of_tensors(state)

    def _on_step_begin(self, part: int, optimizer: torch.optim.Optimizer, *_: object) -> None:
        _unscale(optimizer)
        self.before_step(part, found_inf=getattr(optimizer, "found_inf", None))

    def _on_step_end(self, part: int, *_: object) -> None:
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
        return LatentWeights(self._shards.local(), self._group_of, self._part_of)

    def _new_multipliers(self) -> Multipliers | None:
        if self.config.forward != "proximal":
            return None
        return Multipliers(self._parameters, self._group_of, bucket_count=self.config.buckets.count)

    def _weights_state(self) -> dict[str, dict[str, Any]]:
        """What is kept of every single weight, by name of the tensor."""
        latent = self._latent or self._new_latent()
        if latent is None:
            return {}
        return {
            name: {
                key: self._shards.like_parameter(t, value) if isinstance(value, torch.Tensor) else value
                for key, value in state.items()
            }
            for t, (name, state) in enumerate(zip(self._names, latent.state_of_tensors(), strict=True))
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
        self._add_plain(self._with_gradient(0)[0], strength * config.alpha)
        multipliers.before_optimizer()
        return grids

    def _refresh(self, sums: Sequence[GroupArray], grids: GridSet) -> None:
        """New slopes; what the schedule wants to know reaches it at once, or from a device at the next refresh."""
        if self._device is None:
            passes.require_finite(*sums)
        if isinstance(self.schedule, PlannedSchedule):
            self._show_bits(sums[0])
        self._slopes = self._rule.slopes(sums, grids)

    def _show_bits(self, counts: GroupArray) -> None:
        if self._device is None:
            self.schedule.observe(entropy_bits(counts), self._progress)
            return
        if self._unseen_bits is not None:
            self.schedule.observe(self._unseen_bits.value(), self._progress)
        self._unseen_bits = HostCopy(entropy_bits(counts))

    def _present_grids(self) -> GridSet:
        """Grids of the groups; before the term sets in, those they would take now."""
        if self._grids is not None:
            return self._grids
        buckets, group_count = self.config.buckets, len(self._groups)
        if buckets.rule == "fixed":
            grid = BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
            return GridSet.of([grid] * group_count)
        weights, groups = self._counted_weights()
        local = passes.inner_products(TensorPairs(weights, weights, groups), group_count, self._device)
        (squares,) = self._shards.total(local)
        if self._device is None:
            self._require_finite_squares(squares)
        library: Any = np if self._device is None else torch
        counts = self._placed(np.array([group.count for group in self._groups], dtype=np.float64))
        root_mean_squares = library.sqrt(squares / counts)
        step_sizes = buckets.step_scale * library.where(root_mean_squares > 0, root_mean_squares, 1.0)
        unit = GridSet.of([BucketGrid(center=0.0, radius=1.0, count=buckets.count)] * group_count)
        placed = unit if self._device is None else unit.on(self._device)
        return placed.rescaled(step_sizes * buckets.count / 2)

    def _require_finite_squares(self, squares: NDArray[np.float64]) -> None:
        for group, sum_of_squares in zip(self._groups, squares, strict=True):
            if not math.isfinite(sum_of_squares):
                raise NonFiniteError(
                    f"{group.name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
                )

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
        return self._latent.tensors() if self._latent is not None else self._shards.local()

    def _counted_weights(self) -> tuple[list[torch.Tensor], list[int]]:
        """Those weights that this process counts, and their groups."""
        weights = self._weights()
        return [weights[t] for t in self._shards.counted], [self._group_of[t] for t in self._shards.counted]

    def _values(self, grids: GridSet) -> Iterator[torch.Tensor]:
        """The quantised weights, float64, tensor by tensor."""
        if self._multipliers is not None:
            return self._multipliers.values(grids)
        pairs = zip(self._weights(), self._group_of, strict=True)
        return (bucket_values(bucket_indices(weights, grids[g]), grids[g]) for weights, g in pairs)

    def _distances(self, grids: GridSet) -> tuple[GroupArray, GroupArray, GroupArray]:
        """Counts of quantised weights by bucket, the sum of their squared distances, and how many are frozen."""
        counts, squared_distance = np.zeros((len(grids), grids.count)), 0.0
        counted = set(self._shards.counted)
        for t, (tensor, values) in enumerate(zip(self._weights(), self._values(grids), strict=True)):
            if t in counted:
                counts += passes.bucket_counts([values], [self._group_of[t]], grids)
                squared_distance += float((tensor.double() - values).square().sum())
        frozen = 0 if self._latent is None else self._latent.frozen_count(self._shards.counted)
        return counts, np.array([squared_distance]), np.array([float(frozen)])

    def _with_gradient(self, part: int) -> tuple[TensorPairs, TensorPairs]:
        """Weights that the model holds and gradients of the parameters of one optimiser that have one.

        First all of them, then those that this process counts.
        """
        weights, gradients = self._shards.local(), self._shards.local_gradients()
        having = [t for t, gradient in enumerate(gradients) if gradient is not None and self._part_of[t] == part]
        counted = [t for t in having if t in set(self._shards.counted)]
        both = [
            TensorPairs([weights[t] for t in chosen], [_given(gradients[t]) for t in chosen], self._groups_of(chosen))
            for chosen in ([having, counted] if counted != having else [having])
        ]
        return both[0], both[-1]

    def _groups_of(self, chosen: Sequence[int]) -> list[int]:
        return [self._group_of[t] for t in chosen]

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
        held = [tensor.clone() for tensor in self._shards.local()]
        with torch.no_grad():
            self._hold(quantized=quantized)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._shards.local(), held)

    def _hold(self, *, quantized: bool) -> None:
        held = self._values(self._stored_grids()) if quantized else self._weights()
        for tensor, values in zip(self._shards.local(), held, strict=True):
            tensor.copy_(values)


def entropy_bits(bucket_counts: GroupArray) -> GroupArray:
    """Zero-order entropy in bits, one table a group; `bucket_counts` has shape (G, C)."""
    library: Any = torch if isinstance(bucket_counts, torch.Tensor) else np
    shares = bucket_counts / bucket_counts.sum(-1)[:, None]
    bits = -(bucket_counts * library.log2(library.where(shares > 0, shares, 1.0))).sum()
    return bits if isinstance(bits, torch.Tensor) else float(bits)


def device_of_sums(tensors: Sequence[torch.Tensor], config: RegularizerConfig) -> torch.device | None:
    """The device that a step never has to leave, or None: then sums over weights go by way of the host."""
    devices = {tensor.device for tensor in tensors}
    stays = config.objective == "code_length" and config.rate_model == "histogram"
    stays = stays and config.buckets.rule == "relative" and config.forward != "proximal"
    device = devices.pop() if len(devices) == 1 else torch.device("cpu")
    return device if stays and device.type == "cuda" else None


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser that a trainer's own wraps."""
    inner = getattr(optimizer, "optimizer", None)
    return _innermost(inner) if isinstance(inner, torch.optim.Optimizer) else optimizer


def _unscale(optimizer: torch.optim.Optimizer) -> None:
    """Do what a ``GradScaler`` leaves to a fused optimiser: divide gradients by the scale of the loss."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    torch._foreach_mul_(gradients, [scale.to(gradient.device).reciprocal() for gradient in gradients])
    cast(Any, optimizer).grad_scale = None


def _given(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return gradient


def _local_state(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: local_part(value) if isinstance(value, torch.Tensor) else value for key, value in state.items()}


def _tensor(array: GroupArray) -> torch.Tensor:
    """A copy on the host."""
    return torch.tensor(on_host(array))


def _array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy().copy()
