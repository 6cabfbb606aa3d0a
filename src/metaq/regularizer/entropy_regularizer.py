"""The entropy regulariser: two lines in anybody's training loop."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from reprlib import repr as shortened
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq import container
from metaq.compression.compressed import Goal
from metaq.compression.figure import is_number
from metaq.compression.pipeline import estimated_bits, to_tensors, trained_size
from metaq.config import require
from metaq.entropy import objective
from metaq.entropy.objective import entropy_bits
from metaq.entropy.passes import dispatch
from metaq.entropy.passes.dispatch import TensorPairs
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.model.applying import Model
from metaq.model.opened import AnyModel, open_model
from metaq.model.sharding import local_part, mean_of_processes, unwrapped
from metaq.model.weights import ANY, FilterFn, select_parameters
from metaq.regularizer.base import Regularizer, RegularizerReport
from metaq.regularizer.changes import Changes
from metaq.regularizer.config import BucketConfig, RegularizerConfig
from metaq.regularizer.context_prices import REFRESH_STEPS, ContextPrices
from metaq.regularizer.ending import Ending, Found
from metaq.regularizer.latent import LatentWeights
from metaq.regularizer.pace import SETTLE, require_steps
from metaq.regularizer.quality_control import QualityControl, Told
from metaq.regularizer.size_control import SizeControl
from metaq.regularizer.step_control import BUCKETS, LEAST_SETTLED, REFRESHES, StepControl
from metaq.regularizer.step_size import StepLearner
from metaq.tensors.grid import BucketGrid

_LOGGER = logging.getLogger(__name__)

LEAST_STEPS = 1000
"""Of a training of unknown length, as far as the time between refreshes goes."""

EXACT_WEIGHTS = 100_000
"""So few weights are really coded while they settle to know the size of the file; of more, it is always estimated."""

QUICK_CODER = "fast"
LEAST_CURVATURE = 0.1
"""Of a weight, as a share of the mean of its tensor."""


def training_goal(config: RegularizerConfig, **targets: Any) -> Goal:
    """The goal of a training by what :class:`EntropyRegularizer` takes.

    Raises :class:`ConfigError` if there is none, or several, or `config` says what a training to a goal finds out.
    """
    goal = Goal(**targets)
    require(
        config.strength is not None or goal != Goal(),
        "regularizer: no goal; give target_ratio (such as 20), target_bytes or target_bits_per_weight for the size of "
        "the file, or max_drop or target_value for a figure told by observe().",
    )
    require(config.led_by == "step" or goal != Goal(), "led_by: is about the way to a goal; give one, or leave it out.")
    if goal != Goal():
        usual = RegularizerConfig()
        for name in ("strength", "objective", "grouping", "forward", "buckets", "ramp", "ramp_start"):
            same = getattr(config, name) == getattr(usual, name)
            require(same, f"{name}: cannot be chosen with a goal; leave it out.")
        same = config.freeze.start == usual.freeze.start
        require(same, "freeze.start: cannot be chosen with a goal; leave it out.")
        require(config.warmup < 1 - SETTLE, f"warmup: {config.warmup} leaves no time to reach a goal; lower it.")
    require(
        not goal.is_quality or goal.larger_is_better is not None,
        "larger_is_better: say whether the figure told by observe() is better when it is larger (an accuracy) or "
        "smaller (a loss).",
    )
    return goal


def _config_for_goal(config: RegularizerConfig, *, total_steps: int | None) -> RegularizerConfig:
    """`config` for a training to a goal."""
    least = LEAST_STEPS if total_steps is None else total_steps
    refresh_every = max(1, min(config.refresh_every, least // REFRESHES))
    return replace(config, buckets=BucketConfig(count=BUCKETS), refresh_every=refresh_every)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """Weights of the best figure so far: all tensors of the model, on the CPU, and grids."""

    told: Told
    weights: dict[str, torch.Tensor]
    grids: GridSet


class EntropyRegularizer(Regularizer):
    """Adds λ (α R(w) + (1 - α) φ(w)) to whatever a training loop minimises.

    Attached to an optimiser, it works inside ``optimizer.step()``: before the update it adds its gradient to the
    parameters' ``.grad`` (after unscaling and clipping, if the loop does these), after it, it snaps the weights the
    model holds to their buckets, unless ``forward="float"``. Call :meth:`save` whenever a file is wanted.

    Parameters
    ----------
    model
        Any module. Those of its floating parameters take part that are trained (``requires_grad``) and chosen by the
        globs of the configuration and by `filter_fn`; tied parameters once. They may be frozen for a time later.
    config
        See :class:`RegularizerConfig`.
    total_steps
        Optimiser steps of the whole training; None if they are not known: then the goal is approached so that the
        training may end at any step. :attr:`total_steps` may be changed later.
    target_bytes, target_ratio, target_bits_per_weight
        The goal as a size: most bytes of the file; least ratio of the bytes of all tensors of the model to those of the
        file; most bits of the file per element of all tensors.
    max_drop, target_value
        The goal as a figure of merit, in its own unit, for the smallest file: how far it may fall behind the best that
        was told, or what it has to be. The loop has to call :meth:`observe`.
    larger_is_better
        Of the figure: True for an accuracy, False for a loss. Only with `max_drop` and `target_value`, which need it.
    filter_fn
        From the name of a parameter and the parameter to whether it takes part; by default all do.
    metadata
        Small free facts that every file keeps; they count in the size of the goal.
    base
        A model that whoever reads the file has already. What is trained to few bits, and counts in the goal, is then
        the difference from it, and :meth:`save` writes an update. Until :meth:`finish`, the parameters of `model` that
        take part hold that difference; the module computes with the weights.

    Raises
    ------
    ConfigError
        If no goal is given, or several; if no parameter is left to regularise, or one holds NaN or infinity.

    Examples
    --------
    >>> model = torch.nn.Linear(64, 32)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> regularizer = EntropyRegularizer(model, total_steps=40, target_ratio=8).attach(optimizer)
    >>> for _ in range(40):
    ...     loss = (model(torch.randn(8, 64)) - 1).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> regularizer.finish()
    >>> regularizer.report().weights
    2080
    """

    def __init__(
        self,
        model: nn.Module,
        config: RegularizerConfig | None = None,
        *,
        total_steps: int | None,
        target_bytes: int | None = None,
        target_ratio: float | None = None,
        target_bits_per_weight: float | None = None,
        max_drop: float | None = None,
        target_value: float | None = None,
        larger_is_better: bool | None = None,
        filter_fn: FilterFn | None = None,
        metadata: container.Metadata | None = None,
        base: AnyModel | Model | None = None,
    ) -> None:
        require(
            isinstance(model, nn.Module), f"model: {shortened(model)} is no module; give the network that is trained."
        )
        require(
            isinstance(config, RegularizerConfig | None),
            f"config: {shortened(config)} is none; give a RegularizerConfig, or the goal alone by name.",
        )
        if total_steps is not None:
            require_steps(total_steps)
        config = config or RegularizerConfig()
        goal = training_goal(
            config,
            target_bytes=target_bytes,
            target_ratio=target_ratio,
            target_bits_per_weight=target_bits_per_weight,
            max_drop=max_drop,
            target_value=target_value,
            larger_is_better=larger_is_better,
        )
        if goal != Goal():
            config = _config_for_goal(config, total_steps=total_steps)
        require(
            total_steps is not None or goal != Goal(),
            "total_steps: strength changes over it; give the number of optimiser steps, or a goal.",
        )
        with contextlib.ExitStack() as undoing:
            self._changes: Changes | None = None
            if base is not None:
                rules: dict[str, Any] = {"include": config.include, "exclude": config.exclude, "filter_fn": filter_fn}
                self._changes = changes = Changes(model, base, select_parameters(unwrapped(model), **rules))
                # Where there can be no regulariser, the model stays a plain one.
                undoing.callback(changes.undo)
                config = replace(config, include=ANY, exclude=())
                filter_fn = lambda name, _: name in changes.names  # noqa: E731
            super().__init__(model, config, total_steps=total_steps, filter_fn=filter_fn, metadata=metadata)
            everyone, group_count = self._participants, len(self._participants.groups)
            asks_coder = self.config.rate_model == "context"
            self._latent: LatentWeights | None = None
            self._context_prices = ContextPrices(everyone.names, everyone.local()) if asks_coder else None
            self._slopes: torch.Tensor | None = None
            self._step_learner = StepLearner(group_count, everyone.device)
            self._no_factors = torch.ones(group_count, dtype=torch.float64, device=everyone.device)
            self._groups_of_parts = everyone.groups_of_parts().to(everyone.device)
            self._last_seen = -1
            self._optimizers: list[torch.optim.Optimizer] = []
            self._control = None if goal == Goal() else self._control_for(goal)
            self._kept: Kept | None = None
            undoing.pop_all()
        self.schedule = self._control or self.schedule

    def observe(self, value: float) -> None:
        """Tell the figure that the goal is about, of the weights that the model holds; after every evaluation.

        Tell also that of a model which is trained already, before the first step. In a training to a size it changes
        nothing. Replicas in ``DistributedDataParallel`` tell each its own, and their mean counts.

        While weights are pressed, those of the best figure so far are kept, on the CPU: of those that keep to the goal
        the ones with the fewest bits. :meth:`finish` leaves these in the model.
        """
        control = self._control
        if not isinstance(control, QualityControl) or self.finished:
            return
        value = self._mean(value)
        grids, bits = self._grids, None
        if grids is not None:
            bits = self._bits_of(grids, self._weights())
        told = control.observe(value, bits, self._progress)
        if told is not None and (self._kept is None or control.rank(told) >= control.rank(self._kept.told)):
            with self.quantized_weights():
                weights_now = {name: t.detach().to(CPU, copy=True) for name, t in self._model.state_dict().items()}
            self._kept = Kept(told=told, weights=weights_now, grids=self._stored_grids())

    @torch.no_grad()
    def before_step(self, part: int = 0, *, found_inf: torch.Tensor | None = None) -> None:
        """Give the model back its latent weights and add the term's gradient to ``.grad``; O(n)."""
        if self._latent is not None and self._grids is not None and self.steps != self._last_seen:
            self._latent.absorb(self._participants.local(), self._grids)
        is_due = self.steps % self.config.refresh_every == 0
        if self._control is not None and is_due and (self._grids is None or self.steps != self._last_seen):
            self._look_at_gradients(self._control)
        if not self._presses:
            return
        grids = self._present_grids()
        if self._grids is None and self.config.forward == "quantized":
            self._latent = self._new_latent()
            self._latent.begin(grids)
        is_new, self._last_seen = self.steps != self._last_seen, self.steps
        refreshes = self._slopes is None or (is_new and self.steps % self.config.refresh_every == 0)
        everyone = self._participants
        pairs, counted = everyone.with_gradient(part)
        local_sums = self._rule.sums(*everyone.counted(self._weights()), grids) if refreshes else ()
        local_products = [dispatch.inner_products(counted, len(grids), everyone.device)] if self._learns_steps else []
        totals = everyone.shards.total(*local_sums, *local_products)
        if refreshes and self._control is not None:
            grids = self._steered(self._control, totals[0], grids)
        slopes = self._refreshed(totals[: len(local_sums)], grids) if refreshes else self._slopes
        prices = self._context_prices
        if prices is not None and is_new and (self.steps % REFRESH_STEPS == 0 or not prices.are_known):
            prices.refresh(self._weights(), grids)
        assert slopes is not None
        factors = self._no_factors
        if self._learns_steps:
            learning_rate = self._step_learner.bounded(self.schedule.step_learning_rate(self._progress))
            products = totals[-1]
            if found_inf is not None:
                # Added to gradients, NaN makes them count for nothing.
                products = products + torch.where(found_inf > 0, torch.nan, 0.0).to(everyone.device)
            factors = self._step_learner.factors(products, learning_rate, self._groups_of_parts[part])
            grids = grids.rescaled(factors)
            slopes = slopes / factors[:, None]
        if self._latent is not None:
            self._latent.restore(everyone.local(), factors, part)
        self._add_gradients(pairs, grids, slopes)
        self._grids, self._slopes = grids, slopes

    @torch.no_grad()
    def after_step(self, part: int = 0) -> None:
        """Take over the updated weights and snap those the model holds; O(n)."""
        after = self._pace.at(self.steps + 1)
        if self._learns_steps and self._latent is not None and (self.steps + 1) % self.config.refresh_every == 0:
            self._see_moves(self._latent, part)
        self.steps += part == self._participants.part_count - 1
        if self._grids is None or self._latent is None:
            return
        freeze_above = self.schedule.freeze_threshold(after)
        self._latent.snap(self._participants.local(), self._grids, part, freeze_above=freeze_above)
        if not self._participants.shards.are_several:
            self._latent.note(self._participants.local())

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on to the identical result."""
        shape = len(self._participants.groups), self.config.buckets.count - 1
        unknown = torch.full(shape, torch.nan, dtype=torch.float64, device=CPU)
        return {
            **super().state_dict(),
            "slopes": (unknown if self._slopes is None else self._slopes).to(CPU, copy=True),
            "xi": self._rule.xi.clone(),
            "step_learner": self._step_learner.state_dict(),
            "weights": self._weights_state(),
            "context_prices": None if self._context_prices is None else self._context_prices.state_dict(),
            "kept": None if self._kept is None else _kept_to_dict(self._kept),
            "base": None if self._changes is None else self._changes.base.identity.hex(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state that :meth:`state_dict` gave; a ConfigError if it is of another model or training."""
        base = None if self._changes is None else self._changes.base.identity.hex()
        require(
            state_dict.get("base") == base,
            "regularizer state: of a training with another base, or with none; give the same `base` to resume.",
        )
        super().load_state_dict(state_dict)
        self._last_seen = -1
        slopes = state_dict["slopes"]
        self._slopes = None if slopes.isnan().all() else slopes.to(self._participants.device, copy=True)
        self._rule.xi = state_dict["xi"].to(CPU, copy=True)
        self._step_learner.load_state_dict(state_dict["step_learner"])
        if self._context_prices is not None:
            self._context_prices.load_state_dict(state_dict["context_prices"])
        kept = state_dict["kept"]
        self._kept = None if kept is None else _kept_from_dict(kept, count=self.config.buckets.count)
        if self._grids is not None and self.config.forward == "quantized" and not self.finished:
            self._latent = self._new_latent()
            states = [state_dict["weights"][name] for name in self._participants.names]
            self._latent.load_state_of_tensors([_each_tensor(local_part, state) for state in states])

    @property
    def _tells_changes(self) -> bool:
        return self._changes is not None

    def _merged(self) -> RegularizerReport | None:
        if self._changes is None:
            return None
        report = self.report()
        self._changes.merge(self.grids())
        return report

    def _write(
        self, path: str | os.PathLike[str], grids: dict[str, BucketGrid], metadata: container.Metadata, coder: str
    ) -> container.WriteReport:
        if self._changes is None:
            return super()._write(path, grids, metadata, coder)
        update = self._changes.update(grids, metadata=metadata, coder=coder)
        update.save(path)
        header_bytes = container.describe(update.data).header_bytes
        return container.WriteReport(file_bytes=update.file_bytes, header_bytes=header_bytes, coverage=update.coverage)

    @property
    def _presses(self) -> bool:
        """Whether the term has set in."""
        return self.active if self._control is None else self._control.presses(self._progress)

    def _control_for(self, goal: Goal) -> StepControl:
        """What leads the training to its goal, if that can be reached."""
        everyone = self._participants
        require(
            not everyone.shards.are_several,
            "goal: cannot be reached with sharded parameters; train with DistributedDataParallel.",
        )
        counts = everyone.counts.to(CPU)
        opened = open_model(self._model)
        if goal.is_quality:
            return QualityControl(self.config, goal, counts=counts)
        limit_bytes = goal.limit_bytes(float_bytes=opened.float_bytes, weights=opened.weights)
        assert limit_bytes is not None
        coarse = 4 * self._largest().clamp(min=1.0) * BUCKETS
        zeros = GridSet(center=torch.zeros_like(coarse), radius=coarse, count=BUCKETS)
        return SizeControl(
            self.config,
            limit_bytes=limit_bytes,
            fixed_bytes=self._file_bytes(zeros, self._quantized(zeros), drops=False),
            fixed_estimate=self._estimated_bits(zeros, self._quantized(zeros)),
            counts=counts,
        )

    def _file_bytes(self, grids: GridSet, values: Iterable[torch.Tensor], *, drops: bool = True) -> int:
        """Size of the file of `values`, which are on `grids`; an update `drops` what has not changed."""
        with self._holding(values):
            if self._changes is not None:
                return self._changes.size_bytes(
                    self._by_name(grids), metadata=self._metadata, coder="small", drops=drops
                )
            return trained_size(self._model, self._by_name(grids), metadata=self._metadata)

    def _estimated_bits(self, grids: GridSet, values: Iterable[torch.Tensor]) -> float:
        """What all that is quantised takes in it, but for some per cent."""
        with self._holding(values):
            return estimated_bits(self._model, self._by_name(grids))

    def _quick_bytes(self, grids: GridSet, values: Iterable[torch.Tensor]) -> int:
        """What that size is about in proportion to, found in a hundredth of the time."""
        with self._holding(values):
            if self._changes is not None:
                return self._changes.size_bytes(self._by_name(grids), metadata=self._metadata, coder=QUICK_CODER)
            return len(container.encode(to_tensors(self._model, grids=self._by_name(grids)), coder=QUICK_CODER))

    def _look_at_gradients(self, control: StepControl) -> None:
        """Tell how large they are and, if the model holds quantised weights, how much these cost."""
        everyone, device = self._participants, self._participants.device
        gradients = everyone.having_gradient(everyone.local())
        own = TensorPairs(gradients.gradients, gradients.gradients, gradients.groups)
        squares = dispatch.inner_products(own, len(everyone.groups), device).to(CPU)
        control.watch(squares, self._progress)
        if self._grids is not None and self._latent is not None:
            latent = everyone.having_gradient(self._latent.tensors())
            held, meant = (
                dispatch.inner_products(pairs, len(everyone.groups), device).to(CPU) for pairs in (gradients, latent)
            )
            control.weigh(float((held - meant).sum()), self._grids.on(CPU).step_size, self._progress)

    def _see_moves(self, latent: LatentWeights, part: int) -> None:
        """Tell how far one optimiser has just moved the weights, which the model still holds."""
        everyone = self._participants
        own = [t for t in everyone.shards.counted if everyone.part_of[t] == part]
        after, before = ([tensors[t] for t in own] for tensors in (everyone.local(), latent.tensors()))
        groups = [everyone.group_of[t] for t in own]
        now, both, then = everyone.shards.total(
            *(
                dispatch.inner_products(TensorPairs(left, right, groups), len(everyone.groups), everyone.device)
                for left, right in ((after, after), (after, before), (before, before))
            )
        )
        # No copy of the weights is made for their differences; sums of float64 are good for some 1e-7 of their length.
        self._step_learner.see((now - 2 * both + then).clamp(min=0), then)

    def _steered(self, control: StepControl, bucket_counts: torch.Tensor, grids: GridSet) -> GridSet:
        """Grids of the size that the goal asks for now."""
        counts = bucket_counts.to(CPU)
        bits, progress = float(entropy_bits(counts)), self._progress
        if isinstance(control, SizeControl) and control.asks(progress):
            stored = grids.on(CPU).rounded()
            values = self._quantized(stored)
            is_settling = control.settled(progress) is not None or self._changes is not None
            if is_settling and self._participants.total <= EXACT_WEIGHTS:
                coded_bits = 8.0 * (self._file_bytes(stored, values) - control.fixed_bytes)
            else:
                coded_bits = self._estimated_bits(stored, values) - control.fixed_estimate
            control.tell(coded_bits, bits, progress)
        factors = control.factors(bits, progress, grids.on(CPU).step_size, self._reached(counts, grids))
        factors = factors.to(grids.device)
        rescaled = grids.rescaled(factors)
        if self._latent is not None:
            self._latent.rescale(factors, rescaled)
        return rescaled

    def _reached(self, bucket_counts: torch.Tensor, grids: GridSet) -> torch.Tensor:
        """Largest distance of a weight of every group from the centre, in steps: float64 of shape (G,) on the CPU."""
        half = grids.count // 2
        distances = (torch.arange(grids.count, device=CPU) - half).abs()
        reached = torch.where(bucket_counts > 0, distances, 0).amax(dim=1).double()
        if float(reached.max()) < half:
            return reached
        # What lies beyond the grid is counted in its last bucket.
        return torch.where(reached < half, reached, self._largest() / grids.on(CPU).step_size)

    def _present_grids(self) -> GridSet:
        grids = super()._present_grids()
        if self._grids is not None or self._control is None:
            return grids
        everyone, weights = self._participants, self._weights()

        def bits_at(factors: torch.Tensor) -> float:
            scaled = grids.rescaled(factors.to(grids.device))
            return float(entropy_bits(dispatch.bucket_counts(weights, everyone.group_of, scaled)))

        factors = self._control.first_factors(grids.on(CPU).step_size, self._largest(), bits_at)
        return grids.rescaled(factors.to(grids.device))

    def _largest(self) -> torch.Tensor:
        """Largest magnitude of every group, float64 of shape (G,) on the CPU."""
        everyone = self._participants
        found = [0.0] * len(everyone.groups)
        for weight, group in zip(self._weights(), everyone.group_of, strict=True):
            if weight.numel():
                found[group] = max(found[group], float(weight.detach().abs().max()))
        return torch.tensor(found, device=CPU).double()

    def _last(self) -> tuple[GridSet, Iterable[torch.Tensor]]:
        control = self._control
        settles = not self.finished and control is not None and control.settled(self._progress) is not None
        return self._fitted(control) if settles and isinstance(control, SizeControl) else super()._last()

    def _given(self) -> tuple[GridSet, Iterable[torch.Tensor]]:
        self._require_finite()
        control, grids = self._control, self._stored_grids()
        values = list(self._quantized(grids))
        if isinstance(control, SizeControl) and self._file_bytes(grids, values) > control.limit_bytes:
            return self._fitted(control)
        return grids, values

    def _ended(self, evaluate: Callable[[], float] | None, *, is_other: bool) -> tuple[GridSet, Iterable[torch.Tensor]]:
        control, kept = self._control, None if is_other else self._kept
        if not isinstance(control, QualityControl):
            return self._fitted(control, is_other=is_other) if isinstance(control, SizeControl) else self._given()
        if evaluate is not None:
            if not control.knows_figures:
                control.observe(self._mean(evaluate()), None, self._progress)
            found = self._squeezed(control, evaluate)
            least = math.inf if kept is None or not control.is_met(kept.told) else kept.told.bits
            if found is not None and self._bits_of(*found) <= least:
                return found
        if kept is None:
            _LOGGER.warning("No figure of these weights was seen to keep to the goal (%s); they stay.", control.goal)
            return self._given()
        if not control.is_met(kept.told):
            _LOGGER.warning("No figure kept to the goal (%s); the weights of the best figure are taken.", control.goal)
        self._model.load_state_dict(kept.weights)
        return kept.grids, [tensor.detach().clone() for tensor in self._participants.local()]

    @property
    def _limit_bytes(self) -> int | None:
        return self._control.limit_bytes if isinstance(self._control, SizeControl) else None

    @property
    def _is_to_figure(self) -> bool:
        return isinstance(self._control, QualityControl)

    def _mean(self, value: float) -> float:
        """Of a figure that every process has its own of, as replicas do; a ConfigError if it is no number."""
        require(
            is_number(value), f"figure: {shortened(value)} is no number; give the one that the evaluation comes to."
        )
        return mean_of_processes(float(value), getattr(self._model, "process_group", None))

    def _bits_of(self, grids: GridSet, weights: Iterable[torch.Tensor]) -> float:
        """Entropy of the bucket indices of `weights`, in bits."""
        return float(entropy_bits(dispatch.bucket_counts(list(weights), self._participants.group_of, grids)))

    def _fitted(self, control: SizeControl, *, is_other: bool = False) -> Found:
        """A file that takes what the goal allows, and not much less; weights of others were trained on other grids."""
        self._require_finite()
        found = self._ending().fitted(
            self._stored_grids(),
            limit_bytes=control.limit_bytes,
            fixed_bytes=control.fixed_bytes,
            least=LEAST_SETTLED if is_other else control.least_fill(self._progress),
        )
        size = self._file_bytes(*found)
        if size > control.limit_bytes:
            _LOGGER.warning(
                "The file takes %s bytes, more than the goal (%s): too much of it is for what steps and prices do not "
                "change, such as batch normalisation and tensors that are kept exactly.",
                f"{size:,}",
                control.goal,
            )
        return found

    def _squeezed(self, control: QualityControl, evaluate: Callable[[], float]) -> Found | None:
        """About the smallest file whose figure keeps to the goal; None if none does."""

        def is_good(values: list[torch.Tensor]) -> bool:
            with self._holding(values):
                return control.keeps(self._mean(evaluate()))

        return self._ending().squeezed(self._stored_grids(), is_good)

    def _ending(self) -> Ending:
        return Ending(
            weights=self._weights(),
            groups=self._participants.group_of,
            largest=self._largest(),
            nearest=self._quantized,
            curvature=list(self._curvature()),
            file_bytes=self._file_bytes,
            quick_bytes=self._quick_bytes,
        )

    def _curvature(self) -> Iterator[NDArray[np.float64] | float]:
        """What stands for that of the loss, tensor by tensor: mean squared gradients of weights, or of their group."""
        assert self._control is not None
        of_groups = self._control.mean_squares()
        everyone = self._participants
        for parameter, part, group in zip(everyone.parameters, everyone.part_of, everyone.group_of, strict=True):
            kept = self._optimizers[part].state.get(parameter, {}) if part < len(self._optimizers) else {}
            squares = kept.get("exp_avg_sq")
            if isinstance(squares, torch.Tensor) and squares.shape == parameter.shape:
                found = squares.detach().to(CPU, torch.float64).numpy()
                yield found + LEAST_CURVATURE * max(float(found.mean()), 1e-300)
            else:
                yield of_groups[group]

    @property
    def _learns_steps(self) -> bool:
        config = self.config
        return config.forward == "quantized" and config.buckets.rule == "relative" and config.step_learning_rate > 0

    def _share_out(self, optimizers: list[torch.optim.Optimizer]) -> None:
        super()._share_out(optimizers)
        self._optimizers = list(optimizers)
        groups_of_parts = self._participants.groups_of_parts()
        require(
            not self._learns_steps or int(groups_of_parts.sum(dim=0).max()) == 1,
            'grouping="global": all tensors have one step size, which several optimizers cannot learn; give one, or '
            "step_learning_rate=0.",
        )
        self._groups_of_parts = groups_of_parts.to(self._participants.device)
        if self._latent is not None:
            if self._grids is not None:
                self._latent.absorb(self._participants.local(), self._grids)
            state = self._latent.state_of_tensors()
            self._latent = self._new_latent()
            self._latent.load_state_of_tensors(state)

    def _new_latent(self) -> LatentWeights:
        everyone = self._participants
        return LatentWeights(everyone.local(), everyone.group_of, everyone.part_of)

    def _weights_state(self) -> dict[str, dict[str, Any]]:
        """What is kept of every single weight, by name of the tensor."""
        if self.config.forward == "float":
            return {}
        everyone, states = self._participants, (self._latent or self._new_latent()).state_of_tensors()
        # Later steps write into what is kept.
        copies = [_each_tensor(torch.clone, state) for state in states]
        return {
            name: _each_tensor(partial(everyone.shards.like_parameter, t), state)
            for t, (name, state) in enumerate(zip(everyone.names, copies, strict=True))
        }

    def _refreshed(self, sums: Sequence[torch.Tensor], grids: GridSet) -> torch.Tensor:
        """New slopes."""
        if self._participants.are_on_host:
            dispatch.require_finite(*sums)
        return self._rule.slopes(sums, grids)

    def _weights(self) -> list[torch.Tensor]:
        return super()._weights() if self._latent is None else self._latent.tensors()

    def _frozen_count(self) -> int:
        return 0 if self._latent is None else self._latent.frozen_count(self._participants.shards.counted)

    @property
    def _leaves_quantized(self) -> bool:
        return super()._leaves_quantized or self._latent is not None

    @torch.no_grad()
    def _adopt(self) -> None:
        if self._latent is not None and self._grids is not None:
            self._latent.adopt(self._participants.local(), self._grids)

    def _forget(self) -> None:
        self._latent = None

    def _add_gradients(self, pairs: TensorPairs, grids: GridSet, slopes: torch.Tensor) -> None:
        config, strength = self.config, self.current_strength()
        hysteresis = config.hysteresis if config.objective == "code_length" else 0.0
        share = strength * (1 - config.alpha)
        dispatch.add_slopes(pairs, grids, objective.half_cell_slopes(slopes, hysteresis, share))
        if self._context_prices is not None:
            self._context_prices.add_slopes(pairs, grids, slopes, hysteresis=hysteresis, strength=share)
        self._add_plain(pairs)


def _each_tensor(change: Callable[[torch.Tensor], torch.Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: change(value) if isinstance(value, torch.Tensor) else value for key, value in state.items()}


def _kept_to_dict(kept: Kept) -> dict[str, Any]:
    return {
        "told": asdict(kept.told),
        "weights": kept.weights,
        "center": kept.grids.center,
        "radius": kept.grids.radius,
    }


def _kept_from_dict(kept: Mapping[str, Any], *, count: int) -> Kept:
    center, radius = (kept[name].to(CPU, copy=True) for name in ("center", "radius"))
    weights = {name: tensor.to(CPU, copy=True) for name, tensor in kept["weights"].items()}
    return Kept(told=Told(**kept["told"]), weights=weights, grids=GridSet(center=center, radius=radius, count=count))
