"""The tensors that take part in training to few bits: their groups, their optimisers, and where they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from metaq.config import require
from metaq.entropy.passes.dispatch import TensorPairs
from metaq.entropy.passes.grids import CPU
from metaq.model.sharding import Shards, is_sharded, unwrapped
from metaq.model.weights import FilterFn, select_parameters
from metaq.regularizer.config import RegularizerConfig


class Participants:
    """Parameters of a model that a configuration chooses, in a fixed order.

    Of every tensor there are its name, itself, and the numbers of its group and of its optimiser, of which there are
    `part_count`; `counts` has the weights in every group, those of all processes, float64 of shape (G,) on `device`,
    where sums over weights are; `shards` tells how the tensors are spread over processes. `filter_fn` is called once
    for every parameter that the configuration leaves. It is a ConfigError if none is left, one cannot take part, or
    processes disagree, also on `total_steps`.
    """

    def __init__(
        self, model: nn.Module, config: RegularizerConfig, *, total_steps: int | None, filter_fn: FilterFn | None = None
    ) -> None:
        self._rules: dict[str, Any] = {"include": config.include, "exclude": config.exclude, "filter_fn": filter_fn}
        parameters = select_parameters(unwrapped(model), **self._rules)
        inside = [name for name, parameter in parameters.items() if parameter.is_inference()]
        require(
            not inside,
            f"{', '.join(inside[:1])}: was made under torch.inference_mode, so that it cannot be trained; make or load "
            "the model outside of it.",
        )
        chosen = {id(parameter) for parameter in parameters.values()}
        self._left_out = [p for p in unwrapped(model).parameters() if p.requires_grad and id(p) not in chosen]
        _refuse_tables(unwrapped(model), parameters)
        _refuse_overlaps(parameters)
        self.names = list(parameters)
        self.parameters: list[torch.Tensor] = list(parameters.values())
        counts = [parameter.numel() for parameter in self.parameters]
        self.total = sum(counts)
        self.groups, self.group_of = self.names, list(range(len(counts)))
        if config.grouping == "global":
            self.groups, self.group_of, counts = ["global"], [0] * len(counts), [self.total]
        self.part_of = [0] * len(self.parameters)
        self.part_count = 1
        self.shards = Shards(self.parameters)
        require(
            config.rate_model != "context" or not self.shards.are_several,
            'rate_model="context": does not work with sharded parameters; choose another, or DistributedDataParallel.',
        )
        shapes = [(name, tuple(p.shape)) for name, p in zip(self.names, self.parameters, strict=True)]
        options = [line.strip(" ,") for line in config.to_json().splitlines()]
        description = [*shapes, *options, f"total_steps: {total_steps}"]
        self.shards.require_agreement(description, getattr(model, "process_group", None))
        self.device = device_of_sums(self.local(), config)
        self.counts = torch.tensor(counts, dtype=torch.float64, device=self.device)

    @property
    def are_on_host(self) -> bool:
        """Whether sums can be looked at without waiting for another device."""
        return self.device.type == "cpu"

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

    def having_gradient(self, weights: Sequence[torch.Tensor]) -> TensorPairs:
        """Of `weights`, one a tensor, those whose parameter has a gradient, and these gradients."""
        found = [(t, g) for t, g in enumerate(self.shards.local_gradients()) if g is not None]
        return TensorPairs([weights[t] for t, _ in found], [g for _, g in found], [self.group_of[t] for t, _ in found])

    def share_out(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Note which optimiser updates which parameter; a ConfigError if one is updated by none or by several.

        A frozen parameter may wait for its optimiser.
        """
        owners: dict[int, list[int]] = {}
        for part, optimizer in enumerate(optimizers):
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                owners.setdefault(id(parameter), []).append(part)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            count = len(owners.get(id(parameter), ()))
            is_updated = count > 0 or not parameter.requires_grad
            require(is_updated, f"{name}: the optimizer does not update it; add it to `exclude`.")
            require(count <= 1, f"{name}: {count} optimizers update it; leave it to one of them.")
        self.part_of = [owners.get(id(parameter), [0])[0] for parameter in self.parameters]
        self.part_count = len(optimizers)

    def require_present(self, model: nn.Module) -> None:
        """Raise :class:`ConfigError` if `model` has got another parameter in the place of one of these."""
        if self.shards.are_several:
            # Modules hold others in turn.
            return
        held = dict(unwrapped(model).named_parameters(remove_duplicate=False))
        for name, parameter in zip(self.names, self.parameters, strict=True):
            require(
                held.get(name) is parameter,
                f"{name}: the model has another tensor or none in the place of the one that is trained to few bits; "
                "build a new regularizer for the model as it is now.",
            )

    def require_all(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Raise :class:`ConfigError` if others of `model` are trained by now that the configuration chooses, too."""
        known = {id(parameter) for parameter in [*self.parameters, *self._left_out]}
        of_optimizers = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        new = {id(p) for p in of_optimizers if p.requires_grad and id(p) not in known}
        newcomers = [p for p in unwrapped(model).parameters() if id(p) in new]
        if not newcomers:
            return
        for name, parameter in select_parameters(unwrapped(model), **self._rules).items():
            require(
                id(parameter) in known,
                f"{name}: is trained, but was frozen or missing when the regularizer was built; build it while this "
                "has requires_grad=True, and freeze this after that, or add it to `exclude`.",
            )
        self._left_out.extend(newcomers)

    def groups_of_parts(self) -> torch.Tensor:
        """Whether an optimiser updates tensors of a group: bool of shape (optimisers, G) on the CPU."""
        table = torch.zeros(self.part_count, len(self.groups), dtype=torch.bool, device=CPU)
        table[self.part_of, self.group_of] = True
        return table


def _refuse_overlaps(parameters: Mapping[str, torch.Tensor]) -> None:
    """Refuse parameters some of whose elements are the same memory: every grid would move those of the other."""
    by_storage: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        if parameter.layout != torch.strided or is_sharded(parameter) or not parameter.data_ptr():
            continue
        require(
            all(stride or size == 1 for size, stride in zip(parameter.shape, parameter.stride(), strict=True)),
            f"{name}: several of its elements are the same memory, as after expand(); make it contiguous().",
        )
        by_storage.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
    for names in by_storage.values():
        open_ends: dict[str, int] = {}
        for name in sorted(names, key=lambda each: parameters[each].data_ptr()):
            tensor = parameters[name]
            open_ends = {other: end for other, end in open_ends.items() if end > tensor.data_ptr()}
            for other in open_ends:
                require(
                    not torch.isin(_addresses(tensor), _addresses(parameters[other])).any(),
                    f"{name}: shares memory with {other}, but is read otherwise, so that both cannot have a grid; use "
                    f"{other} itself in the forward, or add one of them to `exclude`.",
                )
            reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            open_ends[name] = tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _addresses(tensor: torch.Tensor) -> torch.Tensor:
    """Where the elements of a tensor are, int64."""
    found = torch.full((1,), tensor.data_ptr(), dtype=torch.int64, device=CPU)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = (found[:, None] + torch.arange(size, device=CPU) * stride * tensor.element_size()).reshape(-1)
    return found


def _refuse_tables(model: nn.Module, parameters: Mapping[str, torch.Tensor]) -> None:
    """Refuse tables whose gradients are sparse, or whose rows change when they are read."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    sparse = {id(table.weight) for table in tables if table.sparse}
    bounded = {id(table.weight) for table in tables if table.max_norm is not None}
    for name, parameter in parameters.items():
        require(
            id(parameter) not in sparse,
            f"{name}: its gradients are sparse; build the embedding with sparse=False, or add the name to `exclude`.",
        )
        require(
            id(parameter) not in bounded,
            f"{name}: every use of it shortens rows to max_norm, off their grid; build the embedding without, or add "
            "the name to `exclude`.",
        )


def device_of_sums(tensors: Sequence[torch.Tensor], config: RegularizerConfig) -> torch.device:
    """The device that a step never has to leave, or the CPU."""
    devices = {tensor.device for tensor in tensors}
    stays = config.objective == "code_length" and config.rate_model == "histogram" and config.buckets.rule == "relative"
    device = devices.pop() if len(devices) == 1 else CPU
    return device if stays and device.type == "cuda" else CPU
