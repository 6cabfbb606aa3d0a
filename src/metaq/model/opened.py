"""Any model as tensors that are read when they are needed: a module, a state dict, a file or a folder."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from metaq import container
from metaq.config import require
from metaq.container.carried import is_carried, is_weight
from metaq.container.fields import utf8
from metaq.errors import FormatError
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.folder import open_folder
from metaq.model.formats.reading import kept_whole, read_file
from metaq.model.formats.weight_file import NOT_PLAIN, NOT_WEIGHTS, WeightFile
from metaq.model.rest import Rest, prefixed, rest_of_file, rest_of_folder, rest_of_packed
from metaq.model.sharding import is_sharded, unwrapped, whole
from metaq.model.stored import Reader, StoredTensor, stamp_of
from metaq.model.weights import alias_of, require_values
from metaq.tensors.quantized import QuantizedTensor, under_all_names

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
    `buffers`, and of parameters that are `frozen`; only some files tell `reasons` why tensors must be kept exactly.
    `rest` is what belongs to a model in files beside its tensors. The fingerprint tells that a file or folder is still
    the same; it is None for a model in memory.
    """

    tensors: tuple[StoredTensor, ...]
    holders: Mapping[str, str]
    shown: Mapping[str, torch.Tensor]
    buffers: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    module: nn.Module | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    rest: Rest = field(default_factory=Rest)
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


def open_model(
    source: AnyModel, *, key: str | None = None, keep_all: bool = False, lossless: bool = False
) -> OpenedModel:
    """Read and check everything about a model but the values of tensors that can be read later.

    Parameters
    ----------
    source
        The model.
    key
        Where in a checkpoint the state dict is, as ``"model.state_dict"``, or ``"."`` for tensors that no key leads to;
        by default it is looked for.
    keep_all
        Whether all else in a file must come back too, such as the state of the optimizer in a checkpoint.
    lossless
        Whether all tensors will be kept as they are, and so must all else; then files of any kind are taken.

    Raises
    ------
    ConfigError
        If a value of a state dict is not a tensor, has no values yet, or is of a type that no file can hold; or a key
        is given for what is no checkpoint.
    FormatError
        If a file or folder is missing, damaged or of an unknown kind.
    """
    if isinstance(source, nn.Module | Mapping):
        require(key is None, "key: says where in a file the state dict is; a model in memory has none.")
        return _in_memory(source)
    require(source != "", "the path of a model is empty: perhaps a variable that is not set; give it a value.")
    path = Path(source)
    if path.is_dir():
        require(key is None, f"--key {key}: {path} is a folder; leave the key out.")
        return _in_folder(path, keep_all=keep_all, lossless=lossless)
    if container.is_metaq(path):
        require(key is None, f"--key {key}: {path} is a .metaq file; leave the key out.")
        packed = container.read(path)
        found = _in_memory(checkpoint.tensors_of(packed))
        # Weights that lie in the file in another order have names of what is beside them.
        quantized = {tensor.name for tensor in packed.tensors if isinstance(tensor, QuantizedTensor)}
        weights = {
            holder for name, holder in found.holders.items() if is_weight(name, packed.metadata) or name in quantized
        }
        beside = [name for name, holder in found.holders.items() if holder not in weights]
        return replace(
            found,
            reasons=dict.fromkeys(beside, NOT_WEIGHTS),
            rest=rest_of_packed(packed),
            fingerprint=[stamp_of(path)],
        )
    file = read_file(path, key=key, keep_all=keep_all, lossless=lossless)
    return _in_file(_keepable(file) if lossless and key is None else file)


def state_dict_of(source: Weights) -> StateDict:
    """The state dict of a module, or a copy of the mapping itself; sharded tensors are gathered from all processes.

    Wrappers of the module, such as ``DistributedDataParallel``, leave no trace in the names. Raises
    :class:`ConfigError` if a value is not a tensor, or has no values yet.
    """
    state_dict = dict(unwrapped(source).state_dict() if isinstance(source, nn.Module) else source)
    for name in state_dict:
        require(isinstance(name, str), f"{name!r}: is no name of a tensor; names are strings.")
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


def _in_file(file: WeightFile) -> OpenedModel:
    tensors, ties, reasons = prefixed(file, "")
    return _in_files(file.path, tensors, ties, reasons, file.reordered, rest_of_file(file), _stamps(file))


def _keepable(file: WeightFile) -> WeightFile:
    """The file, or its bytes where names of its tensors cannot be kept."""
    try:
        _in_file(file)
    except FormatError as error:
        return kept_whole(file.path, error, file.data_files)
    return file


def _in_folder(path: Path, *, keep_all: bool, lossless: bool) -> OpenedModel:
    folder = open_folder(path, keep_all=keep_all, lossless=lossless)
    if lossless:
        folder = replace(folder, weights={name: _keepable(file) for name, file in folder.weights.items()})
    tensors: list[StoredTensor] = []
    ties: dict[str, str] = {}
    reasons: dict[str, str] = {}
    reordered: set[str] = set()
    stamps: list[list[object]] = []
    for name, file in folder.weights.items():
        own, own_ties, own_reasons = prefixed(file, folder.prefix(name))
        reordered |= {folder.prefix(name) + each for each in file.reordered}
        tensors += own
        ties |= own_ties
        reasons |= own_reasons
        stamps += _stamps(file)
    stamps += [[name, checksum] for name, checksum in folder.carried.checksums.items()]
    return _in_files(path, tensors, ties, reasons, reordered, rest_of_folder(folder), stamps)


def _stamps(file: WeightFile) -> list[list[object]]:
    """What tells that the files of a weight file are still the same."""
    return [stamp_of(path) for path in (file.path, *file.data_files)]


def _in_files(
    path: Path,
    tensors: Sequence[StoredTensor],
    ties: Mapping[str, str],
    reasons: Mapping[str, str],
    reordered: Collection[str],
    rest: Rest,
    fingerprint: list[list[object]],
) -> OpenedModel:
    names = [*(tensor.name for tensor in tensors), *ties]
    tied = {*ties, *ties.values()}
    for name in names:
        try:
            utf8(name)
        except ValueError as error:
            raise FormatError(f"{path}: {error}") from error
        # What lies beside the weights may be tied to one of them.
        is_beside = name in tied or name in reordered or reasons.get(name) in (NOT_WEIGHTS, NOT_PLAIN)
        if is_carried(name, rest.metadata) or not (is_beside or is_weight(name, rest.metadata)):
            raise FormatError(f"{path}: the name {name!r} begins like those kept for files; rename it.")
    held = {tensor.name: tensor for tensor in tensors}
    holders = {name: ties.get(name, name) for name in sorted(names, key=utf8)}
    if len(holders) < len(names):
        raise FormatError(f"{path}: several tensors have the same name; rename them.")
    shown = {
        name: torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype.name), device="meta")
        for name, tensor in held.items()
    }
    return OpenedModel(
        tensors=tuple(sorted(tensors, key=lambda tensor: utf8(tensor.name))),
        holders=holders,
        shown={name: shown[holder] for name, holder in holders.items()},
        reasons={name: reasons[holder] for name, holder in holders.items() if holder in reasons},
        rest=rest,
        fingerprint=fingerprint,
    )


def _named_parameters(source: Weights) -> dict[str, nn.Parameter]:
    """Parameters of a module by all of their names; none of a mapping."""
    return dict(unwrapped(source).named_parameters(remove_duplicate=False)) if isinstance(source, nn.Module) else {}
