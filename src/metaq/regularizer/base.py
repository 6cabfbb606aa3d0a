"""What every regulariser does beside its own steps: follow an optimiser, show the weights, report, and save."""

import abc
import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from metaq import container
from metaq.compression.belonging import require_on_grids
from metaq.compression.pipeline import trained_tensors
from metaq.config import require
from metaq.container import WriteReport
from metaq.entropy.cells import CellStatistics, bucket_indices, bucket_values
from metaq.entropy.objective import entropy_bits
from metaq.entropy.passes import dispatch
from metaq.entropy.passes.dispatch import TensorPairs
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.errors import NonFiniteError
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.opened import open_model
from metaq.model.selection import select_gridded
from metaq.model.sharding import in_one_process, is_sharded
from metaq.model.weights import FilterFn
from metaq.regularizer.config import RegularizerConfig
from metaq.regularizer.optimizers import OptimizerHooks
from metaq.regularizer.pace import Pace
from metaq.regularizer.participants import Participants
from metaq.regularizer.schedule import FixedSchedule, Schedule
from metaq.regularizer.slopes import slope_rule
from metaq.tensors.grid import BucketGrid, TrainedGrids
from metaq.tensors.quantized import QuantizedTensor


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


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedState:
    """A model in memory as its file would hold it: ``metaq.compress(state.state_dict, grids=state.grids)`` makes that.

    Attributes
    ----------
    state_dict
        Copies of all tensors of the model by name, on the CPU, in their types; those that have a grid are on it.
    grids
        Grid of every quantised tensor by name, those of rounded vectors of batch normalisation among them.
    """

    state_dict: StateDict
    grids: TrainedGrids


_ATTACHED: WeakSet["Regularizer"] = WeakSet()
"""Those that were attached, and are still there."""

NOT_ATTACHED = (
    "regularizer: it has seen no step of an optimizer, so that the file keeps to no goal; call attach(optimizer) "
    "before the training."
)


class Regularizer(abc.ABC):
    """Works inside ``optimizer.step()`` of anybody's training loop; subclasses say what it does there.

    `steps` are the optimiser's so far, `planned_steps` those of the whole training as it began, `schedule` tells λ, and
    `finished` whether :meth:`finish` was called.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RegularizerConfig | None = None,
        *,
        total_steps: int | None,
        filter_fn: FilterFn | None = None,
        metadata: container.Metadata | None = None,
    ) -> None:
        self.config = config or RegularizerConfig()
        self._metadata = dict(metadata or {})
        self._pace, self.planned_steps = Pace(total_steps), total_steps
        self.steps = 0
        self.finished = False
        self._model = model
        self._participants = Participants(model, self.config, total_steps=total_steps, filter_fn=filter_fn)
        self.schedule: Schedule = FixedSchedule(self.config)
        self._rule = slope_rule(self.config, len(self._participants.groups))
        self._grids: GridSet | None = None
        self._hooks: OptimizerHooks | None = None
        self._open_views = 0
        self._arranged: StateDict = {}
        self._last_report: RegularizerReport | None = None
        self._is_restored = False
        self._trained: list[list[int]] = []

    def attach(self, *optimizers: torch.optim.Optimizer) -> Self:
        """Work inside every ``optimizer.step()`` from now on; returns the regulariser itself.

        Copies of the model, the optimisers and the regulariser that are made together go on together. An optimiser that
        is given another state between two steps is an error in the next one, unless :meth:`load_state_dict` is called
        as well, before it or after it. So is a model that has got other parameters that should take part.
        Of several optimisers the last keeps the time: the schedule moves on with its steps.

        Raises
        ------
        ConfigError
            If attached already, if a parameter that takes part is not updated by exactly one of the optimisers, or one
            of them calls its closure several times a step, or maximises.
        """
        require(self._hooks is None, "regularizer: attached to an optimizer already; call detach() first.")
        require(bool(optimizers), "regularizer: no optimizer given; give those that update the model.")
        hooks = OptimizerHooks(optimizers, self._begin_step, self.after_step)
        try:
            self._require_alone(hooks.optimizers)
            self._share_out(hooks.optimizers)
        except BaseException:
            hooks.remove()
            raise
        self._hooks, self._trained = hooks, hooks.trained()
        _ATTACHED.add(self)
        return self

    def _require_alone(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Raise :class:`ConfigError` if another regulariser works on the same parameters in one of the optimisers."""
        own = dict(zip(map(id, self._participants.parameters), self._participants.names, strict=True))
        for other in _ATTACHED:
            hooked = () if other._hooks is None else other._hooks.optimizers
            same = {id(each) for each in hooked} & {id(each) for each in optimizers}
            shared = [own[id(each)] for each in other._participants.parameters if id(each) in own]
            require(
                other is self or not same or not shared,
                f"regularizer: another one is attached to this optimizer and works on {', '.join(shared[:1])}; call "
                "its detach() first, or build the optimizer anew.",
            )

    def detach(self) -> None:
        """Stop working inside the optimiser; the model keeps the weights it holds."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    @property
    def total_steps(self) -> int | None:
        """Optimiser steps of the whole training, None where they are not known.

        May be set at any time: the way to the goal and the settling of the weights are then spread over the steps left.
        A ConfigError if there are none left, or the training has come to its end or was finished.
        """
        return self._pace.total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int) -> None:
        is_over = self.finished or self._progress >= 1
        require(not is_over, "total_steps: the training has come to its end; build a new regulariser.")
        self._pace.change(total_steps, steps=self.steps)

    @property
    def active(self) -> bool:
        """Whether the warm-up is over."""
        return self._progress >= self.config.warmup

    @abc.abstractmethod
    def before_step(self, part: int = 0, *, found_inf: torch.Tensor | None = None) -> None:
        """Do what comes before the update of a step, of the attached optimiser number `part`.

        `found_inf` is above 0 if a ``GradScaler`` has told the optimiser to leave the weights as they are.
        """

    @abc.abstractmethod
    def after_step(self, part: int = 0) -> None:
        """Do what comes after the update of a step."""

    def finish(
        self, grids: Mapping[str, BucketGrid] | None = None, *, evaluate: Callable[[], float] | None = None
    ) -> None:
        """End the training: leave the quantised weights in the model and detach.

        `evaluate` gives the figure of the weights that the model holds. With it, a training to ``max_drop`` or
        ``target_value`` ends in about the smallest file that keeps to that; it is called some ten times. Replicas
        in ``DistributedDataParallel`` all have to give it, and the mean of their figures counts. Without it, the
        training ends in the best weights whose figure was told by ``observe``. With other goals, or beside `grids`, it
        is refused.

        Weights that others have put into the model, such as averages, are quantised in the place of the trained ones.
        If the model was given weights of an earlier moment, `grids` are what :meth:`grids` returned then. Raises
        :class:`ConfigError` if there are none and no step was seen, if the weights are of another moment than the
        grids, or a layer of the model has been replaced.
        """
        require(
            self.steps > 0 or grids is not None,
            "regularizer: finish() was called before any step of the optimizer that it is attached to; attach it to "
            "the one whose step() the loop calls.",
        )
        require(
            evaluate is None or self._is_to_figure,
            "evaluate: is for goals of a figure, max_drop and target_value; leave it out.",
        )
        require(evaluate is None or grids is None, "evaluate: grids say what the file holds; leave one of them out.")
        require(
            not (self.finished and self._tells_changes),
            "regularizer: finish() has put the changes into the weights already; it is called once.",
        )
        self._participants.require_present(self._model)
        if isinstance(grids, TrainedGrids):
            require_on_grids(open_model(self._model), grids)
        self.detach()
        with torch.no_grad():
            is_other = grids is None and not self._is_restored and self.adopt_weights()
            if grids is not None:
                self._forget()
                of_group = dict(zip(self._participants.group_of, self._participants.names, strict=True))
                self._grids = GridSet.of([grids[of_group[g]] for g in range(len(of_group))])
            self._grids, values = self._ended(evaluate, is_other=is_other) if grids is None else self._given()
            self._hold(values)
            self._forget()
        self.finished = True
        self._last_report = self._merged()

    def interrupt(self) -> None:
        """Detach; if a step was stopped midway, let the model hold quantised weights of the step before, if it did."""
        was_updating = self._hooks is not None and self._hooks.is_updating
        self.detach()
        if was_updating and self._leaves_quantized:
            self._hold(self._quantized(self._stored_grids()))

    def latent_weights(self) -> contextlib.AbstractContextManager[None]:
        """Let the model hold the latent (float) weights inside the ``with`` block."""
        return self._holding(self._weights())

    def quantized_weights(self) -> contextlib.AbstractContextManager[None]:
        """Let the model hold the quantised weights inside the ``with`` block."""
        return self._holding(self._quantized(self._stored_grids()))

    def rounded_weights(self) -> contextlib.AbstractContextManager[None]:
        """Let the model hold what it holds now, such as averages, on the present grids inside the ``with`` block."""
        return self._holding(self._on_grids(self._participants.local(), self._stored_grids()))

    def adopt_weights(self) -> bool:
        """Go on with what others have put into the model instead of the trained weights; whether there is any; O(n).

        A step and :meth:`finish` do so, unless :meth:`load_state_dict` has told what the trained weights are since.
        """
        is_other = bool(self._foreign())
        if is_other:
            self._adopt()
        return is_other

    def grids(self) -> dict[str, BucketGrid]:
        """Grid of every tensor that takes part, by name; before the warm-up ends, those it would take now.

        Unless buckets are fixed, step sizes are rounded to float16, as in :meth:`quantized_weights` and :meth:`finish`.
        Once the model holds quantised weights, :func:`metaq.compress` refuses weights of another moment with them.
        """
        grids = self._by_name(self._stored_grids())
        return TrainedGrids(grids) if self._leaves_quantized and not self._open_views else grids

    def state(self) -> TrainedState:
        """The weights that :meth:`save` would write now and their grids, to be kept together in memory.

        The model and the training stay as they are. Where parameters are sharded, every process has to call this.
        Raises :class:`ConfigError` if the model holds other weights than the training left in it.
        """
        require(not self._tells_changes, "base: there are only changes to keep; save() writes the update.")
        if not self._open_views:
            self._require_own_weights()
        present, values = self._last()
        with self._holding(values):
            tensors = trained_tensors(
                self._model, self._by_name(present), known=dict(self._arranged), limit_bytes=self._limit_bytes
            )
        grids = {tensor.name: tensor.grid for tensor in tensors if isinstance(tensor, QuantizedTensor)}
        return TrainedState(state_dict=checkpoint.restore(tensors), grids=TrainedGrids(grids))

    def current_strength(self) -> float:
        """λ at the present step."""
        return self.schedule.strength(self._progress) if self.active else 0.0

    @torch.no_grad()
    def report(self) -> RegularizerReport:
        """φ, bits, bits per weight and distance to the grid of the present weights; O(n)."""
        if self._last_report is not None:
            return self._last_report
        everyone, grids, weights = self._participants, self._host_grids(), self._weights()
        counts, fractions = everyone.shards.total(*dispatch.cell_sums(*everyone.counted(weights), grids))
        dispatch.require_finite(counts, fractions)
        phi_bits = sum(
            self._rule.value(CellStatistics(counts=counts[g].numpy(), fractions=fractions[g].numpy(), grid=grid), g)
            for g, grid in enumerate(grids)
        )
        bucket_counts = torch.zeros(len(grids), grids.count, dtype=torch.float64, device=CPU)
        others = torch.tensor([0.0, self._frozen_count()], dtype=torch.float64, device=CPU)
        counted = set(everyone.shards.counted)
        for t, (tensor, quantized) in enumerate(zip(weights, self._quantized(grids), strict=True)):
            if t in counted:
                bucket_counts += dispatch.bucket_counts([quantized], [everyone.group_of[t]], grids)
                others[0] += (tensor.double() - quantized).square().sum().to(CPU)
        bucket_counts, others = everyone.shards.total(bucket_counts, others)
        bits = float(entropy_bits(bucket_counts))
        return RegularizerReport(
            phi_bits=phi_bits,
            bits=bits,
            bits_per_weight=bits / everyone.total,
            distance=math.sqrt(float(others[0]) / everyone.total),
            weights=everyone.total,
            frozen=int(others[1]),
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        metadata: container.Metadata | None = None,
        coder: str = container.DEFAULT_CODER,
    ) -> WriteReport:
        """Write the model as it would be after :meth:`finish`, with the grids of now, as a ``.metaq`` file.

        As in ``metaq train``, the vectors of batch normalisation are rounded, and hidden units come in the order that
        needs the fewest bytes, or in that of the file saved before if it takes hardly more, so that updates are small:
        the outputs stay the same but for rounding. The model and the training stay as they are,
        so that a loop can save whenever an epoch is the best so far, and go on. Where parameters are sharded, or the
        regulariser was built with a model in ``DistributedDataParallel``, every process has to call this, and the first
        one writes.

        Parameters
        ----------
        path
            The file; an older one is replaced.
        metadata
            Small free facts to keep in the file, beside those given before. A size that is the goal does not count
            them.
        coder
            ``"small"`` or ``"fast"``.

        Returns
        -------
        WriteReport
            Bytes of the file and where they went, and how much of the model is quantised.

        Raises
        ------
        ConfigError, OutputError
            If the model holds other weights than the training left in it, or the file cannot be written.
        """
        metadata = {**self._metadata, **(metadata or {})}
        if self._last_report is not None:
            # The model holds weights again, not differences, and those are kept.
            return self._write(path, {}, metadata, coder)
        if self._hooks is None and not self.steps:
            warnings.warn(NOT_ATTACHED, stacklevel=2)
        if not self._open_views:
            self._require_own_weights()
        present, values = self._last()
        with self._holding(values):
            return self._write(path, self._by_name(present), metadata, coder)

    def _write(
        self, path: str | os.PathLike[str], grids: dict[str, BucketGrid], metadata: container.Metadata, coder: str
    ) -> WriteReport:
        """Write the weights that the model holds now, on these grids."""
        model = self._model
        parameters = list(model.parameters())
        # Sharded weights are gathered by all processes together; of replicas, one is enough.
        gathered = trained_tensors(model, grids, coder=coder) if any(map(is_sharded, parameters)) else None

        def write_here() -> WriteReport:
            tensors = gathered or trained_tensors(
                model, grids, coder=coder, known=self._arranged, limit_bytes=self._limit_bytes
            )
            return container.write(path, tensors, metadata=metadata, coder=coder)

        report = in_one_process(parameters, write_here, getattr(model, "process_group", None))
        reasons = select_gridded(open_model(model), grids).reasons
        return replace(report, coverage=report.coverage.explained(reasons))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on to the identical result; holds tensors, numbers, strings only.

        Its structure depends on the model and the configuration alone, but for the weights that a training to a figure
        keeps, and those of the last file whose units were put in order, and what is kept of a sharded parameter is
        sharded like it, as ``torch.distributed.checkpoint`` wants it. Later steps change nothing in it.
        """
        unknown = torch.full((len(self._participants.groups),), torch.nan, dtype=torch.float64, device=CPU)
        grids = self._grids or GridSet(center=unknown, radius=unknown, count=self.config.buckets.count)
        return {
            "config": self.config.to_json(),
            "total_steps": self.planned_steps,
            "pace": self._pace.state_dict(),
            "steps": self.steps,
            "finished": self.finished,
            "groups": self._participants.groups,
            "has_grids": self._grids is not None,
            "radius": grids.radius.to(CPU, copy=True),
            "center": grids.center.to(CPU, copy=True),
            "schedule": self.schedule.state_dict(),
            "arranged": {name: tensor.clone() for name, tensor in self._arranged.items()},
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
        same = state_dict["config"] == self.config.to_json() and state_dict["total_steps"] == self.planned_steps
        require(same, "regularizer state: saved with another configuration; build it with the same one to resume.")
        require(
            state_dict["groups"] == self._participants.groups,
            "regularizer state: its tensor groups are not those of this model.",
        )
        self.steps = int(state_dict["steps"])
        self._pace.load_state_dict(state_dict["pace"])
        self.finished = bool(state_dict["finished"])
        self._arranged = {name: tensor.to(CPU, copy=True) for name, tensor in state_dict["arranged"].items()}
        self._is_restored = True
        self.schedule.load_state_dict(state_dict["schedule"])
        self._forget()
        self._grids = None
        if state_dict["has_grids"]:
            device = self._participants.device
            center, radius = (state_dict[name].to(device, copy=True) for name in ("center", "radius"))
            self._grids = GridSet(center=center, radius=radius, count=self.config.buckets.count)

    def _begin_step(self, part: int, *, found_inf: torch.Tensor | None) -> None:
        """Do what comes before the update of an optimiser, if the states of all belong together."""
        assert self._hooks is not None
        require(
            not self._hooks.were_loaded or self._is_restored or self.steps == 0,
            f"optimizer: a state of it was put back after {self.steps} steps, but not that of the regularizer; take "
            "both at the same moment, and call regularizer.load_state_dict(), too.",
        )
        trained = self._hooks.trained()
        is_changed = trained != self._trained
        if is_changed or self.steps % self.config.refresh_every == 0:
            self._participants.require_present(self._model)
        if is_changed:
            self._participants.require_all(self._model, self._hooks.optimizers)
            self._share_out(self._hooks.optimizers)
        self._trained = trained
        self._hooks.were_loaded = self._is_restored = False
        self.before_step(part, found_inf=found_inf)

    @property
    def _progress(self) -> float:
        """Share of all steps that are done."""
        return self._pace.at(self.steps)

    def _share_out(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Note which optimiser updates which parameter."""
        self._participants.share_out(optimizers)

    def _weights(self) -> list[torch.Tensor]:
        """The latent weights, one tensor each; the parts that this process holds."""
        return self._participants.local()

    def _quantized(self, grids: GridSet) -> Iterable[torch.Tensor]:
        """The quantised weights on `grids`, float64, tensor by tensor."""
        return self._on_grids(self._weights(), grids)

    def _on_grids(self, tensors: Sequence[torch.Tensor], grids: GridSet) -> Iterable[torch.Tensor]:
        """`tensors`, one of each that takes part, at their nearest values on `grids`, float64, tensor by tensor."""
        of_groups = list(grids.on(CPU))
        pairs = zip(tensors, self._participants.group_of, strict=True)
        return (bucket_values(bucket_indices(weights, of_groups[g]), of_groups[g]) for weights, g in pairs)

    def _by_name(self, grids: GridSet) -> dict[str, BucketGrid]:
        """The grid of every tensor."""
        of_groups, everyone = list(grids), self._participants
        return {name: of_groups[group] for name, group in zip(everyone.names, everyone.group_of, strict=True)}

    def _last(self) -> tuple[GridSet, Iterable[torch.Tensor]]:
        """Grids and weights, tensor by tensor, of the file that would be written now."""
        self._require_finite()
        grids = self._stored_grids()
        return grids, self._quantized(grids)

    def _given(self) -> tuple[GridSet, Iterable[torch.Tensor]]:
        """Grids and weights to leave in a model that was given others than the trained ones."""
        return self._last()

    def _ended(self, evaluate: Callable[[], float] | None, *, is_other: bool) -> tuple[GridSet, Iterable[torch.Tensor]]:  # noqa: ARG002
        """Grids and weights to leave in the model at the end; `is_other` if others have put theirs into it."""
        return self._last()

    @property
    def _tells_changes(self) -> bool:
        """Whether the file is an update, and the model holds differences until the end."""
        return False

    def _merged(self) -> RegularizerReport | None:
        """Once the training is finished, let the model hold weights again; the report on what it held before."""
        return None

    @property
    def _limit_bytes(self) -> int | None:
        """Most bytes of the file, if the goal is a size."""
        return None

    @property
    def _is_to_figure(self) -> bool:
        """Whether the goal is one of a figure that the loop tells."""
        return False

    def _frozen_count(self) -> int:
        """Weights that no longer move, of those that this process counts."""
        return 0

    @property
    def _leaves_quantized(self) -> bool:
        """Whether the weights in the model are quantised ones, and others are trained, or none any more."""
        return self.finished

    @abc.abstractmethod
    def _forget(self) -> None:
        """Drop what is only needed while training goes on."""

    def _present_grids(self) -> GridSet:
        """Grids of the groups; before the term sets in, those they would take now: O(n) for relative ones."""
        if self._grids is not None:
            return self._grids
        buckets, everyone = self.config.buckets, self._participants
        group_count, device = len(everyone.groups), everyone.device
        if buckets.rule == "fixed":
            grid = BucketGrid(center=buckets.center, radius=buckets.radius, count=buckets.count)
            return GridSet.of([grid] * group_count, device)
        counted, groups = everyone.counted(self._weights())
        local = dispatch.inner_products(TensorPairs(counted, counted, groups), group_count, device)
        (squares,) = everyone.shards.total(local)
        if everyone.are_on_host:
            for name, is_finite in zip(everyone.groups, torch.isfinite(squares).tolist(), strict=True):
                if not is_finite:
                    raise NonFiniteError(
                        f"{name}: training has diverged to NaN or infinity; lower the learning rate or the strength."
                    )
        root_mean_squares = (squares / everyone.counts).sqrt()
        step_sizes = torch.where(root_mean_squares == 0, 1.0, root_mean_squares) * buckets.step_scale
        unit = GridSet.of([BucketGrid(center=0.0, radius=1.0, count=buckets.count)] * group_count, device)
        return unit.rescaled(step_sizes * buckets.count / 2)

    def _host_grids(self) -> GridSet:
        """The present grids on the CPU; :class:`NonFiniteError` if a weight has become NaN or infinite."""
        grids = self._present_grids().on(CPU)
        dispatch.require_finite(grids.radius)
        return grids

    def _stored_grids(self) -> GridSet:
        """The present grids as a file holds them."""
        grids = self._host_grids()
        return grids.rounded() if self.config.buckets.rule == "relative" else grids

    @torch.no_grad()
    def _require_finite(self) -> None:
        """Raise :class:`NonFiniteError` if a weight has become NaN or infinite since slopes were last refreshed."""
        everyone = self._participants
        counted, groups = everyone.counted(self._weights())
        squares = dispatch.inner_products(TensorPairs(counted, counted, groups), len(everyone.groups), everyone.device)
        dispatch.require_finite(*everyone.shards.total(squares))

    def _require_own_weights(self) -> None:
        self._participants.require_present(self._model)
        names = self._foreign()
        require(
            not names,
            f"{', '.join(names[:1])}: is not as training left it. Save at the moment that you want to keep, or load "
            "the regulariser's state of that moment together with the weights; metaq.compress takes any weights.",
        )

    @torch.no_grad()
    def _foreign(self) -> list[str]:
        """Names of tensors in which the model holds other weights than the training left there."""
        if not self._leaves_quantized:
            return []
        held = self._participants.local()
        own = zip(self._quantized(self._host_grids()), self._quantized(self._stored_grids()), strict=True)
        foreign = [
            not any(torch.equal(tensor, values.to(tensor.dtype)) for values in either)
            for tensor, either in zip(held, own, strict=True)
        ]
        (counts,) = self._participants.shards.total(torch.tensor(foreign, dtype=torch.float64, device=CPU))
        return [name for name, count in zip(self._participants.names, counts.tolist(), strict=True) if count]

    @abc.abstractmethod
    def _adopt(self) -> None:
        """Go on with the weights that others have put into the model."""

    def _add_plain(self, pairs: TensorPairs) -> None:
        """Add the gradient of λ α R."""
        config = self.config
        if config.alpha > 0 and pairs.gradients:
            plain = pairs.weights if config.norm == "l2" else torch._foreach_sign(pairs.weights)
            factor = 2.0 if config.norm == "l2" else 1.0
            torch._foreach_add_(pairs.gradients, plain, alpha=factor * self.current_strength() * config.alpha)

    @contextlib.contextmanager
    def _holding(self, values: Iterable[torch.Tensor]) -> Iterator[None]:
        tensors = self._participants.local()
        held = [tensor.detach().clone() for tensor in tensors]
        with contextlib.ExitStack() as stack:
            # Afterwards they are what they were: graphs that wait for their gradients, as in a GAN, are still right.
            for tensor in tensors:
                stack.enter_context(_unsafe_preserve_version_counter(tensor))
            self._hold(values)
            self._open_views += 1
            try:
                yield
            finally:
                self._open_views -= 1
                with torch.no_grad():
                    torch._foreach_copy_(tensors, held)

    @torch.no_grad()
    def _hold(self, values: Iterable[torch.Tensor]) -> None:
        for tensor, value in zip(self._participants.local(), values, strict=True):
            tensor.copy_(value)
