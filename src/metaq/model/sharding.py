"""Parameters of which every process holds a part, as under ``fully_shard``: the parts, and sums over all of them.

A weight that several processes hold is counted by one of them. Where no parameter is sharded, as under
``DistributedDataParallel``, all processes hold the same weights and find the same sums without communication.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from metaq.config import require
from metaq.errors import ConfigError, MetaqError

Result = TypeVar("Result")


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a ``DTensor``, of which this process holds a part."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor; of a sharded one, gathered from all processes, each of which has to ask."""
    return cast(torch.Tensor, cast(Any, tensor).full_tensor()) if is_sharded(tensor) else tensor


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def in_one_process(tensors: Iterable[torch.Tensor], job: Callable[[], Result], process_group: Any = None) -> Result:
    """Do `job` once where `tensors` are sharded: the first process does it, and all get its result or its error.

    The same goes for the processes of `process_group`, if given. Otherwise it is simply done.
    """
    if process_group is None and not any(is_sharded(tensor) for tensor in tensors):
        return job()
    first = dist.get_process_group_ranks(process_group)[0]
    outcome: list[Any] = [None, None]
    if dist.get_rank() == first:
        try:
            outcome[0] = job()
        except MetaqError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=first, group=process_group)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(Result, outcome[0])


def mean_of_processes(value: float, process_group: Any = None) -> float:
    """Mean over the processes of a group, every one of which has to ask for it; `value` itself without one."""
    if process_group is None:
        return value
    values: list[Any] = [None] * dist.get_world_size(process_group)
    dist.all_gather_object(values, value, group=process_group)
    return float(sum(values) / len(values))


class Shards:
    """How parameters of a model are spread over processes; sharded ones on one mesh of devices.

    Raises :class:`ConfigError` if they are on several meshes, or hold partial sums.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = list(parameters)
        meshes = [cast(Any, parameter).device_mesh for parameter in self._parameters if is_sharded(parameter)]
        require(all(mesh == meshes[0] for mesh in meshes), "model: its parameters are sharded over several meshes.")
        self._mesh: Any = meshes[0] if meshes else None
        self.counted = [t for t, parameter in enumerate(self._parameters) if self._is_counted_here(parameter)]

    @property
    def are_several(self) -> bool:
        """Whether any parameter is sharded."""
        return self._mesh is not None

    def local(self) -> list[torch.Tensor]:
        """The parts of the parameters that this process holds; the parameters themselves where they are not sharded."""
        if self._mesh is None:
            return self._parameters
        return [local_part(parameter.detach()) for parameter in self._parameters]

    def local_gradients(self) -> list[torch.Tensor | None]:
        """Their gradients, in parts like those of :meth:`local`, to be changed in place."""
        if self._mesh is None:
            return [parameter.grad for parameter in self._parameters]
        return [None if p.grad is None else _local_gradient(p) for p in self._parameters]

    def total(self, *sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`sums` of float64 over all processes, by a single all-reduce for each dimension of the mesh."""
        if self._mesh is None or not sums:
            return sums
        flat = torch.cat([part.reshape(-1) for part in sums]).to(torch.device(self._mesh.device_type))
        for dimension in range(self._mesh.ndim):
            dist.all_reduce(flat, group=self._mesh.get_group(dimension))
        pieces = torch.split(flat, [part.numel() for part in sums])
        return tuple(piece.view(part.shape).to(part.device) for piece, part in zip(pieces, sums, strict=True))

    def like_parameter(self, position: int, part: torch.Tensor) -> torch.Tensor:
        """A tensor sharded like a parameter, of which this process holds the flat `part`."""
        parameter = self._parameters[position]
        if not is_sharded(parameter):
            return part.view(parameter.shape)
        from torch.distributed.tensor import DTensor

        sharded = cast(Any, parameter)
        return DTensor.from_local(
            part.view(sharded.to_local().shape),
            sharded.device_mesh,
            sharded.placements,
            run_check=False,
            shape=sharded.shape,
            stride=sharded.stride(),
        )

    def require_agreement(self, description: Any, process_group: Any = None) -> None:
        """Refuse to go on if another process describes what it is about to do otherwise.

        Raises :class:`ConfigError` in all processes, naming one that differs.
        """
        groups = [process_group] if process_group is not None else []
        if self._mesh is not None:
            groups = [self._mesh.get_group(dimension) for dimension in range(self._mesh.ndim)]
        for group in groups:
            described: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(described, description, group=group)
            for rank, other in enumerate(described):
                if other != described[0]:
                    raise ConfigError(
                        f"regularizer: process {rank} has other tensors or another configuration than process 0 "
                        f"({_difference(described[0], other)}); build the same model and configuration in all."
                    )

    def _is_counted_here(self, parameter: torch.Tensor) -> bool:
        """Whether of all processes that hold the same weights this one counts them."""
        if self._mesh is None:
            return True
        coordinate = self._mesh.get_coordinate()
        require(coordinate is not None, "model: this process is not in the mesh that its parameters are sharded over.")
        placements = cast(Any, parameter).placements if is_sharded(parameter) else [None] * self._mesh.ndim
        for place, placement in zip(coordinate, placements, strict=True):
            partial = placement is not None and placement.is_partial()
            require(not partial, "model: a parameter holds partial sums; redistribute it before training.")
            if place > 0 and (placement is None or placement.is_replicate()):
                return False
        return True


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds, in the same memory; the tensor itself if it is not sharded."""
    return cast(torch.Tensor, cast(Any, tensor).to_local()) if is_sharded(tensor) else tensor


def _local_gradient(parameter: torch.Tensor) -> torch.Tensor:
    gradient = cast(Any, parameter.grad)
    if is_sharded(gradient) and gradient.placements != cast(Any, parameter).placements:
        parameter.grad = gradient = gradient.redistribute(placements=cast(Any, parameter).placements)
    return local_part(gradient.detach())


def _difference(one: Any, other: Any) -> str:
    """The first items of two lists that differ, in words."""
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            return f"{theirs!r} where {mine!r} is expected"
    return f"{len(other)} tensors where {len(one)} are expected"
