"""The tensors that take part in training to few bits: their groups, their optimisers, and where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from metaq.config import require
from metaq.entropy.passes import GroupArray, TensorPairs
from metaq.model.sharding import Shards, unwrapped
from metaq.model.weights import FilterFn, group_globally, group_per_tensor, select_parameters
from metaq.regularizer.config import RegularizerConfig


class Participants:
    """Parameters of a model that a configuration chooses, in a fixed order.

    Parameters
    ----------
    model
        The model, perhaps wrapped.
    config
        Which of its parameters, and how they are grouped.
    total_steps
        All processes have to agree on it.
    filter_fn
        Called once for every parameter that the configuration leaves, with its name; tells whether it takes part.

    Attributes
    ----------
    names, parameters
        Of the tensors.
    group_of, part_of
        Number of the group and of the optimiser of each.
    groups
        Names of the groups.
    counts
        Weights in every group, float64 of shape (G,), those of all processes.
    part_count
        Number of optimisers.
    shards
        How the tensors are spread over processes.
    device
        The device that a step never has to leave, or None: then sums over weights go by way of the host.

    Raises
    ------
    ConfigError
        If no parameter is left, one cannot take part, or processes disagree.
    """

    def __init__(
        self, model: nn.Module, config: RegularizerConfig, *, total_steps: int, filter_fn: FilterFn | None = None
    ) -> None:
        parameters = select_parameters(
            unwrapped(model), include=config.include, exclude=config.exclude, filter_fn=filter_fn
        )
        groups = (group_per_tensor if config.grouping == "tensor" else group_globally)(parameters)
        self.groups = [group.name for group in groups]
        self.counts = np.array([group.count for group in groups], dtype=np.float64)
        self.names = [name for group in groups for name in group.parameters]
        self.parameters: list[torch.Tensor] = [p for group in groups for p in group.parameters.values()]
        self.group_of = [g for g, group in enumerate(groups) for _ in group.parameters]
        self.part_of = [0] * len(self.parameters)
        self.part_count = 1
        self.shards = Shards(self.parameters)
        _refuse_shards(config, self.shards)
        self._require_agreement(model, config, total_steps)
        self.device = device_of_sums(self.local(), config)

    @property
    def total(self) -> int:
        """Number of weights."""
        return int(self.counts.sum())

    def local(self) -> list[torch.Tensor]:
        """The weights that the model holds in this process."""
        return self.shards.local()

    def counted(self, weights: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[int]]:
        """Of `weights`, one a tensor, those that this process counts, and their groups."""
        return [weights[t] for t in self.shards.counted], [self.group_of[t] for t in self.shards.counted]

    def with_gradient(self, part: int) -> tuple[TensorPairs, TensorPairs]:
        """Weights that the model holds and gradients of the parameters of one optimiser that have one.

        First all of them, then those that this process counts.
        """
        weights, gradients, counted = self.local(), self.shards.local_gradients(), set(self.shards.counted)
        found = [(t, g) for t, g in enumerate(gradients) if g is not None and self.part_of[t] == part]
        here = [pair for pair in found if pair[0] in counted]
        pairs = [
            TensorPairs([weights[t] for t, _ in chosen], [g for _, g in chosen], [self.group_of[t] for t, _ in chosen])
            for chosen in ([found] if len(here) == len(found) else [found, here])
        ]
        return pairs[0], pairs[-1]

    def share_out(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Note which optimiser updates which parameter.

        Raises
        ------
        ConfigError
            If one is updated by none or by several.
        """
        owners: dict[int, list[int]] = {}
        for part, optimizer in enumerate(optimizers):
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                owners.setdefault(id(parameter), []).append(part)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            count = len(owners.get(id(parameter), ()))
            require(count > 0, f"{name}: the optimizer does not update it; add it to `exclude`.")
            require(count == 1, f"{name}: {count} optimizers update it; leave it to one of them.")
        self.part_of = [owners[id(parameter)][0] for parameter in self.parameters]
        self.part_count = len(optimizers)

    def parts_of_groups(self) -> list[set[int]]:
        """Numbers of the optimisers that update the tensors of every group."""
        parts: list[set[int]] = [set() for _ in self.groups]
        for group, part in zip(self.group_of, self.part_of, strict=True):
            parts[group].add(part)
        return parts

    def placed(self, array: NDArray[np.float64]) -> GroupArray:
        """Numbers by group where sums are."""
        return array if self.device is None else torch.as_tensor(array, device=self.device)

    def _require_agreement(self, model: nn.Module, config: RegularizerConfig, total_steps: int) -> None:
        shapes = [(name, tuple(p.shape)) for name, p in zip(self.names, self.parameters, strict=True)]
        options = [line.strip(" ,") for line in config.to_json().splitlines()]
        description = [*shapes, *options, f"total_steps: {total_steps}"]
        self.shards.require_agreement(description, getattr(model, "process_group", None))


def device_of_sums(tensors: Sequence[torch.Tensor], config: RegularizerConfig) -> torch.device | None:
    """The device that a step never has to leave, or None."""
    devices = {tensor.device for tensor in tensors}
    stays = config.objective == "code_length" and config.rate_model == "histogram"
    stays = stays and config.buckets.rule == "relative" and config.forward != "proximal"
    device = devices.pop() if len(devices) == 1 else torch.device("cpu")
    return device if stays and device.type == "cuda" else None


def _refuse_shards(config: RegularizerConfig, shards: Shards) -> None:
    fits = config.forward != "proximal" and config.rate_model != "context"
    require(
        fits or not shards.are_several,
        'forward="proximal", rate_model="context": do not work with sharded parameters; choose others, or '
        "DistributedDataParallel.",
    )
