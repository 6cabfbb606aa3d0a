"""Reading state dicts from any model file, none of them trusted, and writing them as .safetensors, .pth and .pt."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch

from metaq import container
from metaq.container.carried import BESIDE, KEY, NAME_PREFIX, PARTS, is_carried, is_weight
from metaq.errors import ConfigError
from metaq.files import write_atomically, write_bytes
from metaq.model.formats.reading import read_file
from metaq.model.formats.torch_names import part_of
from metaq.model.formats.torch_state import LEVEL, LINE
from metaq.model.formats.weight_file import NOT_PLAIN, TORCH_SUFFIXES, WRITABLE_SUFFIXES
from metaq.model.stored import Reader
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor, under_all_names

StateDict = dict[str, torch.Tensor]


def read(path: str | os.PathLike[str], *, key: str | None = None) -> StateDict:
    """Read a state dict from a ``.metaq`` file or any other model file, told apart by their content.

    Nothing in the file is executed. Of a checkpoint the state dict is looked for, unless `key` says where it is; what
    wrappers of the module put before its names is left out. Raises :class:`FormatError` if the file is missing, empty,
    damaged or foreign.
    """
    source = Path(path)
    if container.is_metaq(source):
        return weights_of(container.read(source))
    file = read_file(source, key=key)
    with Reader() as reader:
        plain = [tensor for tensor in file.tensors if file.reasons.get(tensor.name) != NOT_PLAIN]
        held = {tensor.name: reader.exact(tensor) for tensor in plain}
    found = restore(under_all_names(held, {**{name: name for name in held}, **file.ties}))
    for name, order in file.reordered.items():
        found[name.removeprefix(BESIDE)] = found.pop(name).permute([order.index(each) for each in range(len(order))])
    return found


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, torch.Tensor],
    *,
    key: Sequence[str] = (),
    parts: Sequence[str] = (),
) -> int:
    """Write a state dict atomically, as its suffix says; returns the size in bytes.

    Tied tensors stay tied in PyTorch's files (``.pth``, ``.pt``, ``.ckpt``, ``.bin``, ``.tar``), and are written one by
    one as ``.safetensors`` and ``.npz``. `key` are the keys under which a checkpoint has the state dict, and `parts`
    those of dicts of their own there, with which names begin, :data:`LEVEL` between the keys of one. Raises
    :class:`ConfigError` for another suffix, or a tensor that the file cannot hold, and :class:`OutputError` if it
    cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        separate = {name: _for_safetensors(path, name, tensor) for name, tensor in state_dict.items()}
        return write_bytes(path, safetensors.torch.save(separate))
    if suffix == ".npz":
        arrays = {name: _for_numpy(path, name, tensor) for name, tensor in state_dict.items()}
        return write_atomically(path, lambda stream: _write_npz(stream, arrays))
    if suffix in TORCH_SUFFIXES:
        found: object = _parted(state_dict, parts)
        for name in reversed(key):
            found = {name: found}
        return write_atomically(path, lambda stream: torch.save(found, stream))
    raise ConfigError(f"{path}: end the name in one of {', '.join(WRITABLE_SUFFIXES)}.")


def restore_as(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the weights of a ``.metaq`` file as :func:`write` does, with the names and under the keys that they had.

    Errors are those of :func:`write`, and :class:`FormatError` if the file is missing, damaged or foreign.
    """
    file = container.read(source)
    write_as(out, weights_of(file), file.metadata)


def write_as(out: str | os.PathLike[str], state_dict: Mapping[str, torch.Tensor], metadata: container.Metadata) -> None:
    """Write a state dict with the names and under the keys that the metadata of a ``.metaq`` file tell; see
    :func:`write`.
    """
    prefix, key = str(metadata.get(NAME_PREFIX, "")), str(metadata.get(KEY, ""))
    weights = {prefix + name: tensor for name, tensor in state_dict.items()}
    parts = str(metadata.get(PARTS, ""))
    write(out, weights, key=key.split(".") if key else (), parts=parts.split(LINE) if parts else ())


def _parted(state_dict: Mapping[str, torch.Tensor], parts: Sequence[str]) -> dict[str, Any]:
    """The tensors in the dicts of the parts with whose keys their names begin; others stay where they are.

    All stay in one dict where those of an untrusted file do not go together.
    """
    keys = {part.replace(LEVEL, "."): part.split(LEVEL) for part in parts}
    found: dict[str, Any] = {}
    for name, tensor in state_dict.items():
        part = part_of(name, keys)
        held = found
        for key in keys.get(part, ()):
            held = held.setdefault(key, {})
            if not isinstance(held, dict):
                return dict(state_dict)
        own = name[len(part) + 1 :] if part in keys else name
        if own in held:
            return dict(state_dict)
        held[own] = tensor
    return found


def dtype_of(name: str, tensor: torch.Tensor) -> Dtype:
    """The file's element type for `tensor`; raises :class:`ConfigError` for types that no file can hold."""
    label = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized:
        raise ConfigError(f"{name}: a quantised tensor ({label}) cannot be stored; give its dequantize().")
    if tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise ConfigError(f"{name}: a tensor of the layout {layout} cannot be stored; give its to_dense().")
    if label not in Dtype.__members__:
        raise ConfigError(
            f"{name}: a tensor of {label} cannot be stored; convert it, or give its bits: view(torch.uint8)."
        )
    return Dtype[label]


def to_storage(name: str, tensor: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Bits of `tensor` as the numpy type of its :class:`~metaq.tensors.quantized.Dtype`; shape kept."""
    dtype = dtype_of(name, tensor)
    if not tensor.numel():
        return np.empty(tuple(tensor.shape), dtype=dtype.storage)
    return _plain(tensor).reshape(-1).view(torch.uint8).numpy().view(dtype.storage).reshape(tensor.shape)


def tensors_of(file: container.File) -> StateDict:
    """Torch tensors of a ``.metaq`` file, without the files that it carries along."""
    return restore([tensor for tensor in file.tensors if not is_carried(tensor.name, file.metadata)])


def weights_of(file: container.File) -> StateDict:
    """The same without what lies beside the weights."""
    return restore([tensor for tensor in file.tensors if is_weight(tensor.name, file.metadata)])


def restore(tensors: list[Tensor]) -> StateDict:
    """Torch tensors, bit for bit what :meth:`restore` of each gives; tied ones are the same object."""
    made: dict[int, torch.Tensor] = {}
    found = {}
    for tensor in tensors:
        holder = tensor.first if isinstance(tensor, TiedTensor) else tensor
        if id(holder) not in made:
            made[id(holder)] = _from_storage(holder)
        found[tensor.name] = made[id(holder)]
    return found


def _from_storage(tensor: QuantizedTensor | ExactTensor) -> torch.Tensor:
    dtype = getattr(torch, tensor.dtype.name)
    values = np.ascontiguousarray(tensor.restore(), dtype=tensor.dtype.storage)
    if not values.size:
        return torch.empty(tensor.shape, dtype=dtype, device="cpu")
    return torch.from_numpy(values.reshape(-1).view(np.uint8).copy()).view(dtype).reshape(tensor.shape)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # Conjugate and negative views are only marked as such: their memory holds other bits.
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _for_safetensors(path: str | os.PathLike[str], name: str, tensor: torch.Tensor) -> torch.Tensor:
    if dtype_of(name, tensor) is Dtype.complex128:
        raise ConfigError(f"{path}: {name}: safetensors files cannot hold complex128; end the name in .pth.")
    if name == "__metadata__":
        raise ConfigError(f"{path}: safetensors files cannot hold a tensor called {name}; end the name in .pth.")
    return _plain(tensor).clone()


def _for_numpy(path: str | os.PathLike[str], name: str, tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.generic]]:
    try:
        return _plain(tensor).numpy()
    except TypeError as error:
        label = str(tensor.dtype).removeprefix("torch.")
        raise ConfigError(f"{path}: {name}: numpy cannot hold {label}; end the name in .safetensors.") from error


def _write_npz(stream: IO[bytes], arrays: Mapping[str, np.ndarray[Any, np.dtype[np.generic]]]) -> None:
    # numpy.savez takes names as arguments, of which some are its own.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
