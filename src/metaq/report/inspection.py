"""What a file holds, tensor by tensor. A ``.metaq`` file is described without PyTorch."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaq import container
from metaq.coding.entropy import zero_order_entropy_bits
from metaq.config import require
from metaq.container.carried import is_carried, path_of
from metaq.errors import ConfigError
from metaq.tensors.coverage import Coverage
from metaq.tensors.quantized import QuantizedTensor, Tensor, TiedTensor

if TYPE_CHECKING:
    import torch

    StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor of a file.

    Attributes
    ----------
    name, shape, dtype
        As in the model.
    stored_bytes
        What it takes in a ``.metaq`` file, as :class:`metaq.container.Account` has it, else the bytes of the elements.
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
    path
        The file.
    rows
        One a tensor.
    sizes
        Sizes in all: of the file, of the tensors as the model holds them, and their ratio.
    metadata
        Free facts kept in a ``.metaq`` file.
    coverage
        How much is quantised; None of a file that is not ``.metaq``.
    file
        The ``.metaq`` file as read, its tensors in the order of the rows; None of another file.
    account
        Where the bytes of the ``.metaq`` file are; None of another file.
    """

    path: Path
    rows: list[TensorRow]
    sizes: dict[str, float | int]
    metadata: dict[str, str | int | float]
    coverage: Coverage | None
    file: container.File | None
    account: container.Account | None

    @cached_property
    def state_dict(self) -> StateDict:
        """The weights; they need PyTorch."""
        from metaq.model import checkpoint

        return checkpoint.read(self.path) if self.file is None else checkpoint.weights_of(self.file)

    @cached_property
    def quantized(self) -> dict[str, QuantizedTensor]:
        """Bucket indices of the quantised tensors by name."""
        tensors = () if self.file is None else self.file.tensors
        return {tensor.name: tensor for tensor in tensors if isinstance(tensor, QuantizedTensor)}

    def folded(self, net: str | None) -> dict[str, tuple[int, int]] | None:
        """Units of every layer of a network, and those that :func:`metaq.model.structure.fold` leaves.

        Parameters
        ----------
        net
            The network. If it is None, the one that a ``.metaq`` file names, if that is a reference network; None is
            returned if there is none, or the weights are not its own.

        Raises
        ------
        ConfigError
            If `net` is unknown or the weights are not its own.
        """
        from metaq.lab import nets, runs
        from metaq.model.structure import fold

        if net is not None:
            return fold(runs.build(net, self.state_dict)).units
        named = self.metadata.get("net")
        # What a file merely names must not make code run or fail.
        if named not in nets.names():
            return None
        try:
            return fold(runs.build(str(named), self.state_dict)).units
        except ConfigError:
            return None

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
        return {**self.sizes, **covered, **self.frame, "metadata": self.metadata, "tensors": rows}


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read a ``.metaq``, ``.safetensors``, ``.pth`` or ``.pt`` file and describe every tensor.

    Raises
    ------
    FormatError
        If the file is missing, damaged or foreign.
    """
    source = Path(path)
    return _of_metaq(source) if container.is_metaq(source) else _of_floats(source)


def save_plot(path: str | os.PathLike[str], found: Inspection) -> None:
    """Write a PNG with the weights of every floating tensor, tied ones once; a bar a bucket where it is quantised."""
    from metaq.compression import pipeline
    from metaq.lab.plots import save_buckets
    from metaq.model.weights import alias_of

    floating = pipeline.quantizable_names(found.state_dict)
    names = list(dict.fromkeys(alias_of(found.state_dict, floating).values()))
    require(bool(names), "--plot: the file holds no floating tensor to draw.")
    arrays = {name: found.state_dict[name].double().numpy() for name in names}
    save_buckets(path, arrays, found.quantized)


def _of_metaq(path: Path) -> Inspection:
    file, account = container.read(path), container.account(path)
    sizes = account.parts_bytes[len(file.bases) :]
    holders = [e for e in file.entries if e.tied_to is None and not is_carried(e.name, file.metadata)]
    return Inspection(
        path=path,
        rows=[
            _carried_row(entry, size) if is_carried(entry.name, file.metadata) else _coded_row(tensor, entry, size)
            for tensor, entry, size in zip(file.tensors, file.entries, sizes, strict=True)
        ],
        sizes=_sizes(
            file.file_bytes,
            float_bytes=sum(entry.restored_bytes for entry in holders),
            weights=sum(entry.count for entry in holders),
        ),
        metadata=dict(file.metadata),
        coverage=file.coverage,
        file=file,
        account=account,
    )


def _of_floats(path: Path) -> Inspection:
    from metaq.model import checkpoint
    from metaq.model.weights import alias_of

    state_dict = checkpoint.read(path)
    holders = [state_dict[name] for name in set(alias_of(state_dict, state_dict).values())]
    sizes = _sizes(
        path.stat().st_size,
        float_bytes=sum(tensor.numel() * tensor.element_size() for tensor in holders),
        weights=sum(tensor.numel() for tensor in holders),
    )
    rows = [_plain_row(name, tensor) for name, tensor in state_dict.items()]
    return Inspection(path=path, rows=rows, sizes=sizes, metadata={}, coverage=None, file=None, account=None)


def _sizes(file_bytes: int, *, float_bytes: int, weights: int) -> dict[str, float | int]:
    return {
        "bytes": file_bytes,
        "float_bytes": float_bytes,
        "ratio": float_bytes / file_bytes,
        "weights": weights,
        "bits_per_weight": 8 * file_bytes / max(weights, 1),
    }


def _plain_row(name: str, tensor: torch.Tensor) -> TensorRow:
    dtype = str(tensor.dtype).removeprefix("torch.")
    stored_bytes = tensor.numel() * tensor.element_size()
    return TensorRow(name=name, shape=tuple(tensor.shape), dtype=dtype, stored_bytes=stored_bytes)


def _carried_row(entry: container.Entry, size: int) -> TensorRow:
    return TensorRow(name=path_of(entry.name), shape=entry.shape, dtype="file", stored_bytes=size, is_file=True)


def _coded_row(tensor: Tensor, entry: container.Entry, size: int) -> TensorRow:
    row = TensorRow(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype.name, stored_bytes=size)
    if isinstance(tensor, TiedTensor):
        return dataclasses.replace(row, tied_to=tensor.first.name)
    if not isinstance(tensor, QuantizedTensor):
        return row
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
