"""Any model as tensors that are read when they are needed: a module, a state dict, a file or a folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from metaq.container.fields import utf8
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.folder import Carried, open_folder
from metaq.model.sharding import is_sharded, unwrapped, whole
from metaq.model.stored import Reader, StoredTensor, header_checksum, stamp_of, tensors_of
from metaq.model.weights import alias_of, require_values
from metaq.tensors.quantized import under_all_names

Weights = nn.Module | Mapping[str, torch.Tensor]
"""A model in memory: a module or a state dict."""

AnyModel = Weights | str | os.PathLike[str]
"""A model in memory, or the path of a file or of a folder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedModel:
    """What is known of a model before its values are read.

    `tensors` come in order of their names as UTF-8, tied ones once, by the first of their names; `holders` has for
    every name, in the order of the model, that of the tensor among them. `shown` is what name globs and functions
    choose from, by every name: tensors as the model has them, or such without values. Only a module tells names of
    `buffers`, and of parameters that are `frozen`. `carried` are the other files of a folder. The fingerprint tells
    that a file or folder is still the same; it is None for a model in memory.
    """

    tensors: tuple[StoredTensor, ...]
    holders: Mapping[str, str]
    shown: Mapping[str, torch.Tensor]
    buffers: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    module: nn.Module | None = None
    carried: Carried | None = None
    fingerprint: list[list[object]] | None = None

    @cached_property
    def _by_name(self) -> dict[str, StoredTensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def _firsts(self) -> dict[str, str]:
        parameters = [name for name in self.shown if name not in self.buffers]
        return alias_of(self.shown, [*parameters, *self.buffers])

    @property
    def float_bytes(self) -> int:
        """Size of all tensors as the model holds them, tied ones once."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def weights(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.count for tensor in self.tensors)

    def tensor(self, name: str) -> StoredTensor:
        """The tensor that has `name` among its names."""
        return self._by_name[self.holders[name]]

    def under_all_names(self, told: Mapping[str, str]) -> dict[str, str]:
        """What is `told` of `tensors` by their names, by all names of each."""
        return {name: told[holder] for name, holder in self.holders.items() if holder in told}

    def state_dict(self) -> StateDict:
        """All tensors with their values."""
        with Reader() as reader:
            held = {tensor.name: reader.exact(tensor) for tensor in self.tensors}
        return checkpoint.restore(under_all_names(held, self.holders))

    def first(self, name: str) -> str:
        """The name by which rules know the tensor: its first one in the model, rather a parameter's than a buffer's."""
        return self._firsts[name]


def open_model(source: AnyModel) -> OpenedModel:
    """Read and check everything about a model but the values of tensors that can be read later.

    Raises :class:`ConfigError` if a value of a state dict is not a tensor, has no values yet, or is of a type that no
    file can hold, and :class:`FormatError` if a file or folder is missing, damaged or of an unknown kind.
    """
    if isinstance(source, nn.Module | Mapping):
        return _in_memory(source)
    path = Path(source)
    if path.is_dir():
        folder = open_folder(path)
        return _in_files(folder.tensors, folder.fingerprint, folder.carried)
    if checkpoint.is_safetensors(path):
        return _in_files(tensors_of(path), [[*stamp_of(path), header_checksum(path)]], None)
    return replace(_in_memory(checkpoint.read(path)), fingerprint=[stamp_of(path)])


def state_dict_of(source: Weights) -> StateDict:
    """The state dict of a module, or a copy of the mapping itself; sharded tensors are gathered from all processes.

    Wrappers of the module, such as ``DistributedDataParallel``, leave no trace in the names. Raises
    :class:`ConfigError` if a value is not a tensor, or has no values yet.
    """
    state_dict = dict(unwrapped(source).state_dict() if isinstance(source, nn.Module) else source)
    # Tied parameters are one; gathered by themselves, they would be two.
    same = {name: id(parameter) for name, parameter in _named_parameters(source).items()}
    gathered: dict[int, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        require_values(name, tensor)
        if is_sharded(tensor):
            key = same.get(name, id(tensor))
            gathered[key] = state_dict[name] = gathered[key] if key in gathered else whole(tensor)
    return state_dict


def _in_memory(source: Weights) -> OpenedModel:
    state_dict = state_dict_of(source)
    parameters = _named_parameters(source)
    module = unwrapped(source) if isinstance(source, nn.Module) else None
    buffers = frozenset() if module is None else {name for name, _ in module.named_buffers(remove_duplicate=False)}
    alias = alias_of(state_dict, sorted(state_dict, key=utf8))
    tensors = [
        StoredTensor(
            name=name,
            dtype=checkpoint.dtype_of(name, state_dict[name]),
            shape=tuple(state_dict[name].shape),
            place=checkpoint.to_storage(name, state_dict[name]).reshape(-1),
        )
        for name in dict.fromkeys(alias.values())
    ]
    return OpenedModel(
        tensors=tuple(tensors),
        holders={name: alias[name] for name in state_dict},
        shown={name: parameters.get(name, tensor) for name, tensor in state_dict.items()},
        buffers=frozenset(buffers & state_dict.keys()),
        frozen=frozenset(name for name, parameter in parameters.items() if not parameter.requires_grad),
        module=module,
    )


def _in_files(tensors: Sequence[StoredTensor], fingerprint: list[list[object]], carried: Carried | None) -> OpenedModel:
    ordered = sorted(tensors, key=lambda tensor: utf8(tensor.name))
    return OpenedModel(
        tensors=tuple(ordered),
        holders={tensor.name: tensor.name for tensor in ordered},
        shown={
            tensor.name: torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype.name), device="meta")
            for tensor in ordered
        },
        carried=carried,
        fingerprint=fingerprint,
    )


def _named_parameters(source: Weights) -> dict[str, nn.Parameter]:
    """Parameters of a module by all of their names; none of a mapping."""
    return dict(unwrapped(source).named_parameters(remove_duplicate=False)) if isinstance(source, nn.Module) else {}
