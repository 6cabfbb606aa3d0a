"""Learning and compression in turn: the method of multipliers for the code length (METHOD, section 3).

    min L(w) + λ Σ_i ℓ_b(i)     s.t.  w_i = v_b(i),  Σ_b 2^-ℓ_b ≤ 1

The augmented Lagrangian with scaled multipliers u adds ρ/2 ‖w + u - z‖², z_i = v_b(i), with one ρ for every group. The
network learns float weights w, each optimiser step followed by the exact proximal step of that term. A compression step
finds z for the present w + u and moves u by w - z. As ρ grows, the weights come to lie on the grid, where rounding them
costs nothing (Carreira-Perpiñán, "Model compression as constrained optimization", 2017).

The proximal step is given by its *pull* η ρ alone, η being the learning rate, so it is the same at every scale of the
weights. The compression step needs ρ itself, in units of loss, to weigh it against λ. It is the pull over the learning
rate that the optimiser was seen to have: how far it moved the weights of a group over the sum of their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from metaq.config import require
from metaq.entropy.cells import bucket_indices, bucket_values
from metaq.entropy.ecsq import solve_ecsq
from metaq.entropy.passes.grids import GridSet
from metaq.model.weights import FilterFn
from metaq.regularizer.base import Regularizer
from metaq.regularizer.config import RegularizerConfig
from metaq.tensors.grid import BucketGrid


class ProximalRegularizer(Regularizer):
    """Pulls float weights to their buckets, ever more strongly; has the interface of the entropy regulariser.

    Parameters
    ----------
    model, config, total_steps, filter_fn
        See :class:`metaq.EntropyRegularizer`; `config` has ``objective="code_length"`` and ``forward="float"``.
        ``hysteresis`` has no effect.
    first_pull, last_pull
        By how much a step shortens the way of a weight to its target, over what is left of it after the step; from the
        end of the warm-up to the end of training, geometric in between. Buckets are chosen while the pull is weaker
        than the optimiser, which moves a weight by some share of a bucket a step; above that share weights settle.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RegularizerConfig | None = None,
        *,
        total_steps: int,
        filter_fn: FilterFn | None = None,
        first_pull: float = 5e-4,
        last_pull: float = 0.02,
    ) -> None:
        config = config or RegularizerConfig(strength=1e-5, forward="float")
        fits = config.objective == "code_length" and config.forward == "float"
        require(fits, 'ProximalRegularizer: needs objective="code_length" and forward="float".')
        require(0 < first_pull <= last_pull < math.inf, "first_pull: must be positive, finite, and at most last_pull.")
        super().__init__(model, config, total_steps=total_steps, filter_fn=filter_fn)
        require(not self._participants.shards.are_several, "ProximalRegularizer: takes no sharded parameters.")
        self.first_pull, self.last_pull = first_pull, last_pull
        self._multipliers: Multipliers | None = None

    @override
    @torch.no_grad()
    def before_step(self, part: int = 0, *, found_inf: torch.Tensor | None = None) -> None:
        """At a refresh, find new targets for the pull; note what the optimiser is about to use; O(n log C) a sweep."""
        if not self.active:
            return
        if self._multipliers is None:
            self._multipliers = self._new_multipliers()
        multipliers, config = self._multipliers, self.config
        self._grids = grids = self._present_grids()
        if self.steps % config.refresh_every == 0 and multipliers.steps > 0:
            strength = self.current_strength() * (1 - config.alpha)
            multipliers.compress(grids, strength=strength, pull=self.pull())
        self._add_plain(self._participants.with_gradient(0)[0])
        multipliers.before_optimizer()

    @override
    @torch.no_grad()
    def after_step(self, part: int = 0) -> None:
        """Take the proximal step."""
        self.steps += 1
        if self._multipliers is not None:
            self._multipliers.after_optimizer()

    def pull(self) -> float:
        """Pull of the present step: geometric from first to last."""
        share = (self._progress - self.config.warmup) / (1 - self.config.warmup)
        return self.first_pull * float((self.last_pull / self.first_pull) ** min(share, 1.0))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on to the identical result."""
        multipliers = self._multipliers or self._new_multipliers()
        pulls = [self.first_pull, self.last_pull]
        return {**super().state_dict(), "pulls": pulls, "multipliers": multipliers.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state another regulariser of the same configuration gave."""
        same = state_dict.get("pulls") == [self.first_pull, self.last_pull]
        require(same, "regularizer state: saved with other pulls; build it with the same ones to resume.")
        super().load_state_dict(state_dict)
        if self._grids is not None and not self.finished:
            self._multipliers = self._new_multipliers()
            self._multipliers.load_state_dict(state_dict["multipliers"], self._grids)

    def _share_out(self, optimizers: list[torch.optim.Optimizer]) -> None:
        require(len(optimizers) == 1, "ProximalRegularizer: needs one optimizer.")
        super()._share_out(optimizers)

    def _new_multipliers(self) -> Multipliers:
        everyone = self._participants
        return Multipliers(everyone.parameters, everyone.group_of, bucket_count=self.config.buckets.count)

    def _quantized(self, grids: GridSet) -> Iterable[torch.Tensor]:
        return super()._quantized(grids) if self._multipliers is None else self._multipliers.values(grids)

    def _adopt(self) -> None:
        """Nothing is kept beside the weights of the model."""

    def _forget(self) -> None:
        self._multipliers = None


def compression_step(
    targets: torch.Tensor,
    grid: BucketGrid,
    *,
    strength: float,
    penalty: float,
    code_lengths: NDArray[np.float64] | None = None,
) -> tuple[torch.Tensor, NDArray[np.float64] | None]:
    """Minimise λ Σ_i ℓ_b(i) + ρ/2 Σ_i (t_i - v_b(i))² over buckets and code lengths, from `code_lengths` downwards.

    The `targets` are t = w + u, floating and not empty; `strength` is λ, loss per bit, and `penalty` ρ, loss per
    squared unit of weight, perhaps infinite. Without a strength, every weight takes the nearest bucket. Gives the
    bucket of every weight, int64 of the shape of the targets, and ℓ_b in bits to start the next step from, float64 of
    shape (C,); None where buckets are the nearest. A local minimum: no weight has a better bucket for the code lengths;
    never above nearest rounding. Raises :class:`NonFiniteError` if a target is NaN or infinite.
    """
    mu = penalty / (2 * strength) if strength > 0 else math.inf
    if not math.isfinite(mu):
        return bucket_indices(targets, grid), None
    found = solve_ecsq(targets, grid, mu=mu, code_lengths=code_lengths)
    return found.indices, found.code.code_lengths


class Multipliers:
    """Targets z, multipliers u, and what the optimiser does in the `steps` since the last compression.

    Takes the tensors, the number of the group of each, and the number of buckets C.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], groups: Sequence[int], *, bucket_count: int) -> None:
        self._parameters = list(parameters)
        self._groups = list(groups)
        self._members = [[t for t, of in enumerate(groups) if of == group] for group in range(max(groups) + 1)]
        self._multipliers = [
            torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in self._parameters
        ]
        self._moved = [torch.zeros_like(u) for u in self._multipliers]
        self._gradients = [torch.zeros_like(u) for u in self._multipliers]
        self._anchors: list[torch.Tensor] = []
        self._bucket_count = bucket_count
        self._code_lengths: list[NDArray[np.float64] | None] = [None] * len(self._members)
        self.steps = 0
        self._pull = 0.0
        self._indices: list[torch.Tensor] | None = None

    def values(self, grids: GridSet) -> Iterator[torch.Tensor]:
        """z tensor by tensor, float64; before the first compression the present weights rounded to the nearest."""
        for t, (parameter, group) in enumerate(zip(self._parameters, self._groups, strict=True)):
            grid = grids[group]
            yield bucket_values(bucket_indices(parameter, grid) if self._indices is None else self._indices[t], grid)

    def compress(self, grids: GridSet, *, strength: float, pull: float) -> None:
        """Compression step of every group, then multipliers; O(n log C) a sweep.

        A group that had no gradient or did not move is rounded to the nearest. After K optimiser steps the multipliers
        move by w - z times 1 - (1 + pull)^-K, the share of its way that K proximal steps bring a weight: all of it
        where the pull is strong, but no more than the weights could follow where it is weak. `pull` is that of the
        steps up to the next compression.
        """
        if self._pull > 0:
            torch._foreach_mul_(self._multipliers, self._pull / pull)
        reached = 1 - (1 + pull) ** -max(self.steps, 1)
        found: dict[int, torch.Tensor] = {}
        for group, (members, penalty) in enumerate(zip(self._members, self._penalties(pull), strict=True)):
            indices, self._code_lengths[group] = compression_step(
                self._shifted(members),
                grids[group],
                strength=strength,
                penalty=penalty,
                code_lengths=self._code_lengths[group],
            )
            sizes = [self._parameters[t].numel() for t in members]
            found |= zip(members, torch.split(indices.int(), sizes), strict=True)
        self._indices = [found[t].reshape(p.shape).to(p.device) for t, p in enumerate(self._parameters)]
        for multiplier, parameter, value in zip(self._multipliers, self._parameters, self.values(grids), strict=True):
            multiplier += reached * (parameter - value).to(multiplier.dtype)
        for tensors in (self._moved, self._gradients):
            torch._foreach_zero_(tensors)
        self._pull, self.steps = pull, 0
        self._set_anchors(grids)

    def before_optimizer(self) -> None:
        """Note weights and gradients that the optimiser is about to use."""
        for moved, gradient, parameter in zip(self._moved, self._gradients, self._parameters, strict=True):
            moved -= parameter
            if parameter.grad is not None:
                gradient += parameter.grad

    def after_optimizer(self) -> None:
        """Note where the weights went, then take the proximal step w ← (w + pull (z - u)) / (1 + pull)."""
        for moved, parameter in zip(self._moved, self._parameters, strict=True):
            moved += parameter
        self.steps += 1
        if self._anchors:
            torch._foreach_lerp_(self._parameters, self._anchors, self._pull / (1 + self._pull))

    def state_dict(self) -> dict[str, Any]:
        """Everything :meth:`load_state_dict` needs; its structure does not depend on how far training is."""
        unknown = np.full(self._bucket_count, np.nan)
        return {
            "multipliers": self._multipliers,
            "moved": self._moved,
            "gradients": self._gradients,
            "has_indices": self._indices is not None,
            "indices": self._indices or [torch.zeros_like(p, dtype=torch.int32) for p in self._parameters],
            "code_lengths": torch.tensor(np.stack([unknown if c is None else c for c in self._code_lengths])),
            "steps": self.steps,
            "pull": self._pull,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], grids: GridSet) -> None:
        """Take over what :meth:`state_dict` gave; `grids` are the present ones."""
        own = {"multipliers": self._multipliers, "moved": self._moved, "gradients": self._gradients}
        for name, tensors in own.items():
            torch._foreach_copy_(tensors, list(state_dict[name]))
        lengths = state_dict["code_lengths"].cpu().numpy()
        self._code_lengths = [None if np.isnan(row).any() else row for row in lengths]
        self.steps, self._pull = int(state_dict["steps"]), float(state_dict["pull"])
        if state_dict["has_indices"]:
            places = zip(state_dict["indices"], self._parameters, strict=True)
            self._indices = [indices.to(parameter.device) for indices, parameter in places]
            self._set_anchors(grids)

    def _penalties(self, pull: float) -> list[float]:
        """ρ of every group: the pull over how far its weights moved for the gradients they had."""
        moved = self._norms(self._moved)
        gradients = self._norms(self._gradients)
        return [pull * g / m if m > 0 and g > 0 else math.inf for m, g in zip(moved, gradients, strict=True)]

    def _norms(self, tensors: list[torch.Tensor]) -> list[float]:
        of_tensors = torch.stack([norm.double().cpu() for norm in torch._foreach_norm(tensors)])
        squares = np.bincount(self._groups, of_tensors.square().numpy(), len(self._members))
        return [math.sqrt(square) for square in squares]

    def _shifted(self, members: Sequence[int]) -> torch.Tensor:
        """w + u of all weights of a group: float64, flat, on the device of its first tensor."""
        device = self._parameters[members[0]].device
        return torch.cat(
            [(self._parameters[t].double() + self._multipliers[t]).reshape(-1).to(device) for t in members]
        )

    def _set_anchors(self, grids: GridSet) -> None:
        """z - u, where every proximal step leads to."""
        triples = zip(self.values(grids), self._multipliers, self._parameters, strict=True)
        self._anchors = [(value - multiplier).to(parameter.dtype) for value, multiplier, parameter in triples]
