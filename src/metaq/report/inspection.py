"""What a file holds, tensor by tensor."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metaq import container
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.compression import pipeline
from metaq.config import require
from metaq.container.carried import is_carried, path_of
from metaq.errors import ConfigError
from metaq.lab import nets, runs
from metaq.lab.plots import save_buckets
from metaq.model import checkpoint
from metaq.model.structure import fold
from metaq.model.weights import alias_of
from metaq.tensors.coverage import Coverage
from metaq.tensors.quantized import QuantizedTensor, Tensor, TiedTensor


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor of a file.

    Attributes
    ----------
    name, shape, dtype
        As in the model.
    stored_bytes
        Coded bytes in a ``.metaq`` file, else the bytes of the elements.
    coder
        Coder of the bucket indices, or None where the tensor is not quantised.
    buckets, step_size
        Size C of the grid and the distance between its values, or None.
    buckets_used
        Distinct bucket indices, or None.
    entropy_bits
        Zero-order entropy of the bucket indices in bits, or None.
    mode_share
        Share of the weights in the most common bucket, or None.
    tied_to
        The tensor whose elements these are, or None.
    is_file
        Whether it is no tensor but a file that is carried along; `name` is its path, `shape` its size in bytes.
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
    """Everything :func:`inspect` found.

    Attributes
    ----------
    rows
        One a tensor.
    sizes
        Sizes in all, as :func:`metaq.compression.pipeline.sizes` gives them.
    metadata
        Free facts kept in a ``.metaq`` file.
    state_dict
        The weights.
    quantized
        Bucket indices of the quantised tensors by name.
    coverage
        How much is quantised; None of a file that is not ``.metaq``.
    folded
        Units of every layer, and those :func:`metaq.model.structure.fold` leaves; None where the network is not known.
    file
        The ``.metaq`` file as read, its tensors in the order of the rows; None of another file.
    """

    rows: list[TensorRow]
    sizes: dict[str, float | int]
    metadata: dict[str, str | int | float]
    state_dict: dict[str, torch.Tensor]
    quantized: dict[str, QuantizedTensor]
    coverage: Coverage | None
    folded: dict[str, tuple[int, int]] | None
    file: container.File | None

    def to_dict(self) -> dict[str, object]:
        """Plain dictionary, ready for JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        covered = {} if self.coverage is None else self.coverage.to_dict()
        return {**self.sizes, **covered, "metadata": self.metadata, "folded": self.folded, "tensors": rows}


def inspect(path: str | os.PathLike[str], *, net: str | None = None) -> Inspection:
    """Read a ``.metaq``, ``.safetensors``, ``.pth`` or ``.pt`` file and describe every tensor.

    Parameters
    ----------
    path
        The file.
    net
        Network the weights belong to; by default the one that a ``.metaq`` file names, if it is a reference network.

    Raises
    ------
    ConfigError
        If `net` is unknown or the weights are not its own.
    FormatError
        If the file is missing, damaged or foreign.
    """
    source = Path(path)
    file = container.read(source) if checkpoint.is_metaq(source) else None
    if file is not None:
        state_dict = checkpoint.weights_of(file)
        rows = [
            _carried_row(entry) if is_carried(entry.name, file.metadata) else _coded_row(tensor, entry)
            for tensor, entry in zip(file.tensors, file.entries, strict=True)
        ]
        quantized = {tensor.name: tensor for tensor in file.tensors if isinstance(tensor, QuantizedTensor)}
        metadata = dict(file.metadata)
        coverage = file.coverage
    else:
        state_dict = checkpoint.read(source)
        rows = [_plain_row(name, tensor) for name, tensor in state_dict.items()]
        quantized, metadata, coverage = {}, {}, None
    sizes = pipeline.sizes(state_dict, file_bytes=source.stat().st_size)
    return Inspection(
        rows=rows,
        sizes=sizes,
        metadata=metadata,
        state_dict=state_dict,
        quantized=quantized,
        coverage=coverage,
        folded=_folded(state_dict, net, metadata.get("net")),
        file=file,
    )


def save_plot(path: str | os.PathLike[str], found: Inspection) -> None:
    """Write a PNG with the weights of every floating tensor, tied ones once; a bar a bucket where it is quantised."""
    floating = pipeline.quantizable_names(found.state_dict)
    names = list(dict.fromkeys(alias_of(found.state_dict, floating).values()))
    require(bool(names), "--plot: the file holds no floating tensor to draw.")
    arrays = {name: found.state_dict[name].double().numpy() for name in names}
    save_buckets(path, arrays, found.quantized)


def _folded(state_dict: dict[str, torch.Tensor], net: str | None, named: object) -> dict[str, tuple[int, int]] | None:
    """Units before and after folding; what a file merely names must not make code run or fail."""
    if net is not None:
        return fold(runs.build(net, state_dict)).units
    if named not in nets.names():
        return None
    try:
        return fold(runs.build(str(named), state_dict)).units
    except ConfigError:
        return None


def _plain_row(name: str, tensor: torch.Tensor) -> TensorRow:
    dtype = str(tensor.dtype).removeprefix("torch.")
    stored_bytes = tensor.numel() * tensor.element_size()
    return TensorRow(name=name, shape=tuple(tensor.shape), dtype=dtype, stored_bytes=stored_bytes)


def _carried_row(entry: container.Entry) -> TensorRow:
    return TensorRow(
        name=path_of(entry.name), shape=entry.shape, dtype="file", stored_bytes=entry.coded_bytes, is_file=True
    )


def _coded_row(tensor: Tensor, entry: container.Entry) -> TensorRow:
    if not isinstance(tensor, QuantizedTensor):
        return TensorRow(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype.name,
            stored_bytes=entry.coded_bytes,
            tied_to=tensor.first.name if isinstance(tensor, TiedTensor) else None,
        )
    counts = np.unique(tensor.indices, return_counts=True)[1]
    return TensorRow(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype.name,
        stored_bytes=entry.coded_bytes,
        coder=entry.coder,
        buckets=tensor.grid.count,
        step_size=tensor.grid.step_size,
        buckets_used=len(counts),
        entropy_bits=zero_order_entropy_bits(tensor.indices.reshape(-1)),
        mode_share=float(counts.max() / counts.sum()) if counts.size else 0.0,
    )
