"""Where a training runs: its device, and its processes."""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metaq.config import require
from metaq.errors import ConfigError
from metaq.model.sharding import in_one_process

CPU = torch.device("cpu")
KINDS = ("cpu", "cuda")


def device_named(name: str) -> torch.device:
    """The device that `name` stands for: ``cpu``, ``cuda``, or ``cuda:1`` for the second of several.

    Raises :class:`ConfigError` if it is none of these, or this machine does not have it.

    Examples
    --------
    >>> device_named("cpu")
    device(type='cpu')
    """
    advice = f"choose one of: {', '.join(KINDS)}, {KINDS[1]}:NUMBER."
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: is not known; {advice}") from error
    require(device.type in KINDS, f"device {name!r}: training does not run there; {advice}")
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        require((device.index or 0) < found, f"device {name!r}: PyTorch finds {found} such devices on this machine.")
    return device


Value = TypeVar("Value")

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which ``torchrun`` tells a process of the others."""


class Processes:
    """What a process, numbered `rank` from 0 out of `count`, does together with the others; alone, nothing."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch, every `count`-th row; may be empty."""
        return batch[self.rank :: self.count]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let every gradient be the sum over all processes; one that a process lacks counts as zero there."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for work in [dist.all_reduce(cast(Tensor, p.grad), async_op=True) for p in parameters]:
            cast(dist.Work, work).wait()

    def total(self, number: float) -> float:
        """The sum over all processes."""
        if self.count == 1:
            return number
        value = torch.tensor([number], dtype=torch.float64, device=self._device)
        dist.all_reduce(value)
        return float(value)

    def average_buffers(self, model: nn.Module) -> None:
        """Let floating buffers, such as running means, be the means over all processes."""
        if self.count == 1:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.count

    def by_first(self, job: Callable[[], Value]) -> Value:
        """Let the first process alone do a job; all get its result, or its error."""
        return in_one_process((), job, None if self.count == 1 else dist.group.WORLD)

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


ALONE = Processes()


@contextmanager
def launched(device: torch.device) -> Iterator[Processes]:
    """The processes that ``torchrun`` has started this one with, each with a GPU of its own; one alone if it has not.

    Raises :class:`ConfigError` if the processes cannot find each other.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1" or not all(name in os.environ for name in LAUNCHED):
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Functions in it have the group of all processes as a default argument. Imported later, as optimisers do, they keep
    # the group after its end, and a thread of gloo that still works when the interpreter ends aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"torchrun: the processes cannot find each other ({error}); check its options.") from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
