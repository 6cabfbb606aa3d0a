"""What a file holds, tensor by tensor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metaq import container
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.container.carried import is_carried, path_of
from metaq.tensors.coverage import Coverage
from metaq.tensors.quantized import QuantizedTensor, Tensor, TiedTensor

if TYPE_CHECKING:
    import torch

LAYERS = {
    "lenet300": ("fc1", "fc2", "fc3"),
    "lenet5": ("conv1", "conv2", "fc1", "fc2", "fc3"),
    "lenet5-caffe": ("conv1", "conv2", "fc1", "fc2"),
}
"""Layers of the reference networks in which every layer is read by the next one alone."""


def units_left(weights: Sequence[NDArray[np.generic]]) -> list[tuple[int, int]] | None:
    """Units of every layer but the last, and those that :func:`metaq.model.structure.fold` leaves; None if no chain.

    Weights have shape (units, inputs, ...); a unit may be several neighbouring inputs of the next layer. A unit goes if
    its weights are all zero, so that it is constant, or if no unit that stays reads it. One unit of every layer stays.

    Examples
    --------
    >>> units_left([np.array([[1.0], [0.0], [2.0]]), np.array([[0.0, 5.0, 3.0]])])
    [(3, 1)]
    """
    units = [len(layer) for layer in weights]
    if any(layer.ndim < 2 for layer in weights) or any(
        before == 0 or layer.shape[1] == 0 or layer.shape[1] % before
        for before, layer in zip(units, weights[1:], strict=False)
    ):
        return None
    # reads[k][i, j]: unit i of layer k + 1 reads unit j of layer k.
    reads = [
        (layer.reshape(len(layer), before, -1) != 0).any(axis=2)
        for before, layer in zip(units, weights[1:], strict=False)
    ]
    live = [np.ones(count, dtype=bool) for count in units]
    live[0] = (weights[0].reshape(units[0], -1) != 0).any(axis=1)
    while True:
        before = sum(int(kept.sum()) for kept in live)
        for number, read in enumerate(reads):
            is_last = number + 1 == len(reads)
            live[number] &= read[live[number + 1]].any(axis=0)
            if not is_last:
                live[number + 1] &= read[:, live[number]].any(axis=1)
        if sum(int(kept.sum()) for kept in live) == before:
            return [(count, max(1, int(kept.sum()))) for count, kept in zip(units[:-1], live[:-1], strict=True)]


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor of a file, or a file that is carried along, whose name is its path and whose shape its size in bytes.

    `stored_bytes` is what it takes in a ``.metaq`` file, as :class:`metaq.container.Account` has it, else the bytes of
    the elements. Of a tensor on a grid of so many `buckets`: the coder of the indices, the distance between values, how
    many distinct indices there are, their zero-order entropy in bits, and the share of the most common one. `tied_to`
    is the tensor whose elements these are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_bytes: int
    coder: str | None = None
    buckets: int | None = None
    step_size: float | None = None
    buckets_used: int | None = None
    entropy_bits: float | None = None
    mode_share: float | None = None
    tied_to: str | None = None
    is_file: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """Everything :func:`inspect` found, with a row per tensor.

    `net` is what the caller said; `sizes` are as :attr:`metaq.container.Contents.sizes` gives them; file, its tensors
    in the order of the rows, and account are None of a file that is not ``.metaq``.
    """

    path: Path
    net: str | None
    rows: list[TensorRow]
    sizes: dict[str, float | int]
    file: container.File | None = None
    account: container.Account | None = None

    @property
    def metadata(self) -> dict[str, str | int | float]:
        """Free facts kept in a ``.metaq`` file."""
        return {} if self.file is None else dict(self.file.metadata)

    @property
    def coverage(self) -> Coverage | None:
        """How much is quantised; None of a file that is not ``.metaq``."""
        return None if self.file is None else self.file.coverage

    @cached_property
    def quantized(self) -> dict[str, QuantizedTensor]:
        """Bucket indices of the quantised tensors by name."""
        tensors = () if self.file is None else self.file.tensors
        return {tensor.name: tensor for tensor in tensors if isinstance(tensor, QuantizedTensor)}

    @cached_property
    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors but carried files."""
        from metaq.model import checkpoint

        return checkpoint.read(self.path) if self.file is None else checkpoint.tensors_of(self.file)

    @cached_property
    def folded(self) -> dict[str, tuple[int, int]] | None:
        """Units of every layer, and those :func:`metaq.model.structure.fold` leaves; None of an unknown network.

        That of a network which the file merely names is counted only if the network is a plain chain of layers. Raises
        :class:`ConfigError` if the network is unknown, or the weights are not its own.
        """
        if self.net is None:
            return None if self.file is None else _folded_chain(self.file)
        from metaq.lab import runs
        from metaq.model.structure import fold

        return fold(runs.build(self.net, self.state_dict)).units

    @property
    def frame(self) -> dict[str, int]:
        """Bytes of a ``.metaq`` file that no row has: together with the rows they are the size of the file."""
        if self.file is None or self.account is None:
            return {}
        return {
            "magic_bytes": self.account.magic_bytes,
            "header_bytes": self.account.header_bytes,
            "checksum_bytes": self.account.checksum_bytes,
            "basis_bytes": sum(self.account.parts_bytes[: len(self.file.bases)]),
            "rounding_bytes": self.account.rounding_bytes,
        }

    def to_dict(self) -> dict[str, object]:
        """Plain dictionary, ready for JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        covered = {} if self.coverage is None else self.coverage.to_dict()
        told = {**self.sizes, **covered, **self.frame}
        return {**told, "metadata": self.metadata, "folded": self.folded, "tensors": rows}


def inspect(path: str | os.PathLike[str], *, net: str | None = None) -> Inspection:
    """Read a ``.metaq``, ``.safetensors``, ``.pth`` or ``.pt`` file and describe every tensor.

    A ``.metaq`` file is described without PyTorch. Its network is by default the one it names, if that is a reference
    one. Raises :class:`FormatError` if the file is missing, damaged or foreign.
    """
    source = Path(path)
    if not container.is_metaq(source):
        return _inspect_other(source, net)
    file, account = container.read(source), container.account(source)
    sizes = account.parts_bytes[len(file.bases) :]
    rows = [
        TensorRow(name=path_of(entry.name), shape=entry.shape, dtype="file", stored_bytes=size, is_file=True)
        if is_carried(entry.name, file.metadata)
        else _coded_row(tensor, entry, size)
        for tensor, entry, size in zip(file.tensors, file.entries, sizes, strict=True)
    ]
    return Inspection(path=source, net=net, rows=rows, sizes=file.sizes, file=file, account=account)


def _inspect_other(path: Path, net: str | None) -> Inspection:
    from metaq.compression import pipeline
    from metaq.model import checkpoint

    state_dict = checkpoint.read(path)
    rows = [
        TensorRow(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            stored_bytes=tensor.numel() * tensor.element_size(),
        )
        for name, tensor in state_dict.items()
    ]
    sizes = pipeline.sizes(state_dict, file_bytes=path.stat().st_size)
    return Inspection(path=path, net=net, rows=rows, sizes=sizes)


def _folded_chain(file: container.File) -> dict[str, tuple[int, int]] | None:
    """Units before and after folding, if the file names a network of one chain and holds its weights."""
    layers = LAYERS.get(str(file.metadata.get("net")), ())
    tensors = {tensor.name: tensor for tensor in file.tensors}
    if not layers or tensors.keys() != {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}:
        return None
    units = units_left([np.asarray(tensors[f"{layer}.weight"].restore()) for layer in layers])
    return None if units is None else dict(zip(layers[:-1], units, strict=True))


def _coded_row(tensor: Tensor, entry: container.Entry, size: int) -> TensorRow:
    row = TensorRow(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype.name, stored_bytes=size)
    if not isinstance(tensor, QuantizedTensor):
        return dataclasses.replace(row, tied_to=tensor.first.name if isinstance(tensor, TiedTensor) else None)
    counts = np.unique(tensor.indices, return_counts=True)[1]
    return dataclasses.replace(
        row,
        coder=entry.coder,
        buckets=tensor.grid.count,
        step_size=tensor.grid.step_size,
        buckets_used=len(counts),
        entropy_bits=zero_order_entropy_bits(tensor.indices.reshape(-1)),
        mode_share=float(counts.max() / counts.sum()) if counts.size else 0.0,
    )
