"""The entropy regulariser: two lines in anybody's training loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from metaq import objective
from metaq.cells import bucket_counts, bucket_indices, bucket_values, cell_statistics, half_cells
from metaq.config import RegularizerConfig, require
from metaq.grid import BucketGrid
from metaq.group_state import GroupState
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
    model holds to their buckets when ``forward="quantized"``. Call :meth:`finish` when training ends.

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
        parameters = select_parameters(model, include=self.config.include, exclude=self.config.exclude)
        grouped = group_per_tensor if self.config.grouping == "tensor" else group_globally
        self._groups = [GroupState(group) for group in grouped(parameters)]
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
        for state in self._groups:
            for name, parameter in state.group.parameters.items():
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
        if self._groups[0].grid is None:
            self._start()
        strength = self.current_strength()
        if self.steps % self.config.refresh_every == 0 or self._groups[0].slopes is None:
            for state in self._groups:
                self._refresh(state)
        if self._learns_steps:
            self._learn_steps()
        for state in self._groups:
            for name, parameter in state.group.parameters.items():
                if name in state.latent:
                    parameter.copy_(state.latent[name])
                if parameter.grad is not None:
                    self._add_gradient(state, parameter, parameter.grad, strength)

    @torch.no_grad()
    def after_step(self) -> None:
        """Take over the updated weights and snap those the model holds; O(n)."""
        self.steps += 1
        if self._groups[0].grid is None or self.config.forward == "float":
            return
        threshold = self._freeze_threshold()
        for state in self._groups:
            grid = state.known_grid()
            for name, parameter in state.group.parameters.items():
                freezer = state.freezers[name]
                indices = freezer.step(state.latent[name], parameter.detach(), grid, threshold=threshold)
                parameter.copy_(bucket_values(indices, grid))

    def finish(self) -> None:
        """End of training: leave the quantised weights in the model and detach."""
        self.detach()
        with torch.no_grad():
            for state in self._groups:
                grid = state.grid or state.make_grid(self.config.buckets)
                state.grid = grid
                for name, parameter in state.group.parameters.items():
                    parameter.copy_(bucket_values(bucket_indices(state.weights()[name], grid), grid))
                state.latent = {}

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
        """Grid of every tensor that takes part, by name; before the warm-up ends, those it would take now."""
        return {
            name: state.grid or state.make_grid(self.config.buckets)
            for state in self._groups
            for name in state.group.parameters
        }

    def current_strength(self) -> float:
        """λ at the present step."""
        config = self.config
        if not self.active:
            return 0.0
        ramp_end = config.warmup + config.ramp
        progress = min(self.steps / self.total_steps, 1.0)
        if progress < ramp_end:
            return config.strength * math.pow(config.ramp_start, (ramp_end - progress) / config.ramp)
        if ramp_end == 1:
            return config.strength
        return config.strength * math.pow(config.decay_end, (progress - ramp_end) / (1 - ramp_end))

    @torch.no_grad()
    def report(self) -> RegularizerReport:
        """φ, bits, bits per weight and distance to the grid of the present weights; O(n)."""
        phi_bits = bits = squared_distance = 0.0
        for state in self._groups:
            grid = state.grid or state.make_grid(self.config.buckets)
            tensors = list(state.weights().values())
            phi_bits += self._evaluate(state, grid).value_bits
            counts = bucket_counts(tensors, grid)
            held = counts[counts > 0]
            bits += float(held @ np.log2(held.sum() / held))
            for tensor in tensors:
                values = bucket_values(bucket_indices(tensor, grid), grid)
                squared_distance += float((tensor.double() - values).square().sum())
        n = sum(state.group.count for state in self._groups)
        return RegularizerReport(
            phi_bits=phi_bits,
            bits=bits,
            bits_per_weight=bits / n,
            distance=math.sqrt(squared_distance / n),
            weights=n,
            frozen=sum(freezer.count() for state in self._groups for freezer in state.freezers.values()),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on to the identical result; holds tensors, numbers, strings only."""
        return {
            "config": self.config.to_json(),
            "total_steps": self.total_steps,
            "steps": self.steps,
            "groups": {state.group.name: state.state_dict() for state in self._groups},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state another regulariser of the same configuration gave.

        Raises
        ------
        ConfigError
            If the configuration, the number of steps or the groups differ.
        """
        same = state_dict["config"] == self.config.to_json() and state_dict["total_steps"] == self.total_steps
        require(same, "regularizer state: saved with another configuration; build it with the same one to resume.")
        names = [state.group.name for state in self._groups]
        require(
            list(state_dict["groups"]) == names,
            "regularizer state: its tensor groups are not those of this model.",
        )
        self.steps = int(state_dict["steps"])
        for state in self._groups:
            state.load_state_dict(state_dict["groups"][state.group.name])

    @property
    def _learns_steps(self) -> bool:
        config = self.config
        return config.forward == "quantized" and config.buckets.rule == "relative" and config.step_learning_rate > 0

    def _learn_steps(self) -> None:
        """Move every group's step size along the loss gradient of its logarithm, which is Σ gradient · value."""
        late = max(0.0, self.steps / self.total_steps - self.config.freeze.start) / max(
            1 - self.config.freeze.start, 1e-9
        )
        rate = self.config.step_learning_rate * (1 - 0.9 * min(late, 1.0))
        for state in self._groups:
            pairs = [(p.grad, p) for p in state.group.parameters.values() if p.grad is not None]
            gradient = sum(float((g.double() * p.detach().double()).sum()) for g, p in pairs)
            state.rescale(state.step_learner.factor(gradient, rate))

    def _start(self) -> None:
        for state in self._groups:
            state.grid = state.make_grid(self.config.buckets)
            if self.config.forward == "quantized":
                state.keep_latent()

    def _evaluate(self, state: GroupState, grid: BucketGrid) -> objective.ObjectiveResult:
        statistics = cell_statistics(state.weights().values(), grid)
        if self.config.objective == "code_length":
            return objective.code_length(statistics)
        return objective.spread(
            statistics,
            start=state.xi,
            iterations=self.config.fista_iterations,
            zeta_per_weight=self.config.fista_zeta_per_weight,
        )

    def _refresh(self, state: GroupState) -> None:
        grid = state.known_grid()
        if self.config.objective == "code_length":
            counts = bucket_counts(state.weights().values(), grid)
            attractor = grid.count // 2 if self.config.buckets.rule == "relative" else int(counts.argmax())
            slopes = objective.magnitude_slopes(counts, attractor=attractor, step_size=grid.step_size)
        else:
            result = self._evaluate(state, grid)
            state.xi, slopes = result.xi, result.slopes
        first = next(iter(state.group.parameters.values()))
        state.slopes = torch.from_numpy(slopes).to(first.device)

    def _add_gradient(
        self, state: GroupState, parameter: torch.Tensor, gradient: torch.Tensor, strength: float
    ) -> None:
        config = self.config
        hysteresis = config.hysteresis if config.objective == "code_length" else 0.0
        table = state.half_cell_slopes(hysteresis).to(gradient.dtype)
        beta = table[half_cells(parameter, state.known_grid())]
        gradient.add_(beta, alpha=strength * (1 - config.alpha))
        if config.alpha > 0:
            plain = 2 * parameter if config.norm == "l2" else parameter.sign()
            gradient.add_(plain, alpha=strength * config.alpha)

    def _freeze_threshold(self) -> float:
        freeze = self.config.freeze
        progress = self.steps / self.total_steps
        if freeze.start >= 1 or progress < freeze.start:
            return math.inf
        share = (progress - freeze.start) / (1 - freeze.start)
        ratio = freeze.last_threshold / freeze.first_threshold
        return freeze.first_threshold * math.pow(ratio, min(share, 1.0))

    @contextlib.contextmanager
    def _holding(self, *, quantized: bool) -> Iterator[None]:
        held = {name: p.detach().clone() for state in self._groups for name, p in state.group.parameters.items()}
        with torch.no_grad():
            for state in self._groups:
                grid = state.grid or state.make_grid(self.config.buckets)
                for name, parameter in state.group.parameters.items():
                    weights = state.weights()[name]
                    parameter.copy_(bucket_values(bucket_indices(weights, grid), grid) if quantized else weights)
        try:
            yield
        finally:
            with torch.no_grad():
                for state in self._groups:
                    for name, parameter in state.group.parameters.items():
                        parameter.copy_(held[name])
