"""Which dimensions of its inputs a network takes in other sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from metaq.errors import ConfigError
from metaq.onnx.comparison import Sizes, inputs_like, outputs, reason, tensors_in
from metaq.quantize.curvature import Batch, call

SEED = 0
"""Of the random inputs."""

BATCH_SIZES = (1, 3)
LONGER = (1, 4)
"""What is added to a length."""

Place = tuple[int, int]
"""Number of an input among all tensors of the inputs, and of one of its dimensions."""


@dataclass(frozen=True, kw_only=True)
class Free:
    """Dimensions that may have other sizes: those of a group all the same. `batch` are the first ones, or none."""

    batch: frozenset[Place] = frozenset()
    lengths: tuple[frozenset[Place], ...] = ()

    @property
    def places(self) -> frozenset[Place]:
        """All of them."""
        return frozenset().union(*self.groups)

    @property
    def groups(self) -> tuple[frozenset[Place], ...]:
        """All groups, the batch first if it is free."""
        return (self.batch, *self.lengths) if self.batch else self.lengths

    def narrowed(self, places: frozenset[Place]) -> Free:
        """The groups all of whose dimensions are among `places`."""
        lengths = tuple(group for group in self.lengths if group <= places)
        return Free(batch=self.batch if self.batch <= places else frozenset(), lengths=lengths)

    def less(self) -> list[Free]:
        """This and ever fewer: without lengths, and without any."""
        return list(dict.fromkeys([self, Free(batch=self.batch), Free()]))


def examples_of(network: nn.Module, inputs: Batch) -> tuple[Batch, Free]:
    """Example inputs from which can be told what is free, and what is.

    Where the batch is, a size of 1, or that of a length, would be taken for more than a coincidence; it becomes another
    one then. Raises :class:`ConfigError` if the network does not take `inputs` at all.
    """
    require_runs(network, inputs)
    generator = torch.Generator().manual_seed(SEED)
    runs = partial(_runs, network, inputs, generator)
    shapes = [tensor.shape for tensor in tensors_in(inputs)]
    firsts = frozenset((number, 0) for number, shape in enumerate(shapes) if shape)
    if not firsts or not all(runs(dict.fromkeys(firsts, size)) for size in BATCH_SIZES):
        firsts = frozenset()
    sizes = {(number, axis): size for number, shape in enumerate(shapes) for axis, size in enumerate(shape) if axis}
    lengths: list[frozenset[Place]] = []
    for size in dict.fromkeys(size for size in sizes.values() if size > 1):
        alike = frozenset(place for place in sizes if sizes[place] == size)
        by_axis = [
            frozenset(place for place in alike if place[1] == axis) for axis in sorted({axis for _, axis in alike})
        ]
        for groups in ([alike], by_axis):
            found = [group for group in groups if all(runs(dict.fromkeys(group, size + more)) for more in LONGER)]
            lengths += found
            if found:
                break
    free = Free(batch=firsts, lengths=tuple(lengths))
    taken = {sizes[place] for group in lengths for place in group}
    batch_sizes = {shapes[number][0] for number, _ in firsts}
    if batch_sizes & {1, *taken}:
        size = min({2, 3, 5, 7, 11}.difference(taken), default=13)
        return inputs_like(inputs, dict.fromkeys(firsts, size), generator), free
    return inputs, free


def batches_of(inputs: Batch, free: Free) -> list[Batch]:
    """The examples, random inputs like them, and such of other sizes where they are free."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = [tensor.shape for tensor in tensors_in(inputs)]
    varied: list[Sizes] = [{}]
    for number, more in enumerate(LONGER if free.places else ()):
        sizes = dict.fromkeys(free.batch, BATCH_SIZES[number])
        varied.append(sizes | {place: shapes[place[0]][place[1]] + more for group in free.lengths for place in group})
    return [inputs, *(inputs_like(inputs, sizes, generator) for sizes in varied)]


def changed_by(network: nn.Module, inputs: Batch, group: frozenset[Place]) -> dict[Place, bool]:
    """Dimensions of the outputs, by their numbers among all tensors of the outputs, whose sizes follow those of a group
    of dimensions of the inputs; whether they are the same sizes.
    """
    number, axis = min(group)
    size = tensors_in(inputs)[number].shape[axis]
    generator = torch.Generator().manual_seed(SEED)
    longer = inputs_like(inputs, dict.fromkeys(group, size + LONGER[0]), generator)
    pairs = zip(*outputs(network, [inputs, longer]), strict=True)
    return {
        (number, axis): (old, new) == (size, size + LONGER[0])
        for number, (before, after) in enumerate(pairs)
        for axis, (old, new) in enumerate(zip(before.shape, after.shape, strict=True))
        if old != new
    }


def require_runs(network: nn.Module, inputs: Batch) -> None:
    """Raise :class:`ConfigError` if a network does not take these inputs."""
    try:
        with torch.no_grad():
            call(network, inputs)
    except Exception as error:
        raise ConfigError(
            f"network {type(network).__name__}: does not take inputs of shape {_described(tensors_in(inputs))} "
            f"({reason(error)}); give the shapes and types that it takes."
        ) from error


def _runs(network: nn.Module, inputs: Batch, generator: torch.Generator, sizes: Sizes) -> bool:
    try:
        require_runs(network, inputs_like(inputs, sizes, generator))
    except ConfigError:
        return False
    return True


def _described(tensors: Sequence[torch.Tensor]) -> str:
    def shape(sizes: Iterable[int]) -> str:
        return "×".join(map(str, sizes))

    return ", ".join(f"{shape(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors)
