"""Reading and writing state dicts: .metaq, .safetensors, .pth and .pt, none of them trusted."""

import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from metaq import container
from metaq.container.carried import is_carried
from metaq.errors import ConfigError, FormatError
from metaq.files import write_atomically, write_bytes
from metaq.model.stored import header_checksum
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, Tensor, TiedTensor

StateDict = dict[str, torch.Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts commonly keep the state dict inside a checkpoint."""

WRITABLE_SUFFIXES = (".safetensors", ".pth", ".pt")


def read(path: str | os.PathLike[str]) -> StateDict:
    """Read a state dict from a ``.metaq``, ``.safetensors``, ``.pth`` or ``.pt`` file, told apart by their content.

    Nothing in the file is executed. A checkpoint that keeps its state dict under ``state_dict``, ``model_state_dict``
    or ``model`` is opened up. Raises :class:`FormatError` if the file is missing, empty, damaged, foreign, or needs
    arbitrary pickle to be read.
    """
    source = Path(path)
    if container.is_metaq(source):
        return weights_of(container.read(source))
    if is_safetensors(source):
        return _read_safetensors(source)
    return _read_torch(source)


def write(path: str | os.PathLike[str], state_dict: Mapping[str, torch.Tensor]) -> int:
    """Write a state dict atomically as ``.safetensors``, ``.pth`` or ``.pt``; returns the size in bytes.

    Tied tensors stay tied in ``.pth`` and ``.pt`` files, and are written one by one as ``.safetensors``. Raises
    :class:`ConfigError` for another suffix, or a tensor that the file cannot hold, and :class:`OutputError` if it
    cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        separate = {name: _for_safetensors(path, name, tensor) for name, tensor in state_dict.items()}
        return write_bytes(path, safetensors.torch.save(separate))
    if suffix in (".pth", ".pt"):
        return write_atomically(path, lambda stream: torch.save(dict(state_dict), stream))
    raise ConfigError(f"{path}: end the name in one of {', '.join(WRITABLE_SUFFIXES)}.")


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
    return _plain(tensor).reshape(-1).view(torch.uint8).numpy().view(dtype.storage).reshape(tensor.shape)


def weights_of(file: container.File) -> StateDict:
    """Torch tensors of a ``.metaq`` file, without the files that it carries along."""
    return restore([tensor for tensor in file.tensors if not is_carried(tensor.name, file.metadata)])


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
        return torch.empty(tensor.shape, dtype=dtype)
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


def is_safetensors(path: Path) -> bool:
    """Whether a file is, or by its name ought to be, a safetensors file; raises as :func:`container.is_metaq` does."""
    head = container.head_of(path, 9)
    return path.suffix == ".safetensors" or (head[8:] == b"{" and head[:2] != b"PK")


def _read_safetensors(source: Path) -> StateDict:
    header_checksum(source)
    try:
        return safetensors.torch.load_file(source)
    except (safetensors.SafetensorError, ValueError, OSError, struct.error) as error:
        raise FormatError(f"{source}: is not a readable safetensors file ({error}); copy or make it again.") from error


def _read_torch(source: Path) -> StateDict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(source):
            raise FormatError(
                f"{source}: holds Python objects beside tensors and would have to execute code to be read; "
                "save only model.state_dict() and try again."
            ) from error
        raise FormatError(f"{source}: is not a PyTorch, safetensors or .metaq file.") from error
    except Exception as error:
        raise FormatError(f"{source}: is damaged or not a PyTorch checkpoint; copy or make it again.") from error
    return _find_state_dict(source, loaded)


def _find_state_dict(source: Path, loaded: object) -> StateDict:
    candidates = [loaded, *(loaded[key] for key in WRAPPERS if key in loaded)] if isinstance(loaded, dict) else []
    for candidate in candidates:
        if isinstance(candidate, dict) and candidate and all(isinstance(v, torch.Tensor) for v in candidate.values()):
            return {str(name): tensor for name, tensor in candidate.items()}
    raise FormatError(f"{source}: holds no state dict of tensors; save model.state_dict() and try again.")
