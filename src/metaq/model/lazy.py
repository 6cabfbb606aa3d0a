"""A ``.metaq`` file as torch tensors: all at once, or one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from metaq import container
from metaq.config import near_match, require
from metaq.container import DEFAULT_MAX_BYTES, Entry
from metaq.container.carried import is_weight
from metaq.container.frame import open_checked_frame
from metaq.container.slicing import read_rows
from metaq.container.source import FileLike, name_of, open_source, wanted_names
from metaq.errors import ConfigError
from metaq.model.checkpoint import StateDict, restore
from metaq.tensors.integers import factors_of, on_grid

if TYPE_CHECKING:
    from metaq.model.applying import Model
    from metaq.model.opened import AnyModel

Device = str | int | torch.device | None

LONGEST_REASON = 80


def load(
    path: FileLike,
    *,
    names: Iterable[str] | None = None,
    base: AnyModel | Model | bytes | None = None,
    map_location: Device = None,
    device: Device = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> StateDict:
    """State dict of a ``.metaq`` file, bit for bit the quantised weights that were saved.

    Parameters
    ----------
    path
        The file: its path, its bytes, or an open binary file that can seek. All of that counts, wherever it stands, and
        it is left open.
    names
        The tensors to restore; all by default. Of a large file only the chunks that they need are read.
    base
        Of an update, the model that it is to be applied to: a module, a state dict, the path of a file or folder, or
        the bytes of a ``.metaq`` file.
    map_location, device
        Device of the tensors, the CPU by default: give one of them, which mean the same.
    max_bytes
        Memory that a single tensor may take, with the bases that it needs.

    Raises
    ------
    ConfigError
        If the file has no tensor of one of the `names`, `path` is none of these, or the device cannot be used.
    FormatError
        If the file is missing, damaged, foreign, of a newer format, or takes more memory than that; or it is an update
        of another model than the `base`.
    """
    names = wanted_names(names)
    if base is not None:
        return _updated(path, base, names, _device(map_location, device), max_bytes)
    file = open(path, map_location=map_location, device=device, max_bytes=max_bytes)
    wanted = list(file) if names is None else names
    if names is None and len(file.contents.chunks) > 1:
        # Where all is read, all is checked.
        with open_source(path) as source:
            open_checked_frame(source)
    loaded = file.tensors(wanted)
    return {name: loaded[name] for name in wanted}


def _updated(
    update: FileLike, base: AnyModel | Model | bytes, names: Iterable[str] | None, device: torch.device, max_bytes: int
) -> StateDict:
    # Imported late, as a file that is no update needs none of it.
    from metaq.model.applying import applied

    loaded = applied(base, [update], max_bytes=max_bytes).state_dict()
    wanted = list(loaded) if names is None else list(names)
    for name in wanted:
        require(name in loaded, f"{name_of(update)}: there is no tensor {name!r}; {near_match(name, loaded)}")
    moved = {id(tensor): tensor.to(device) for tensor in loaded.values()}
    return {name: moved[id(loaded[name])] for name in wanted}


def open(
    path: FileLike,
    *,
    map_location: Device = None,
    device: Device = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> ModelFile:
    """A ``.metaq`` file of which nothing is decoded yet: names, shapes and types, and one tensor at a time.

    It can be used as ``safetensors.safe_open`` is, in a ``with`` statement too, though nothing has to be closed: the
    file is opened whenever a tensor is asked for.

    Parameters
    ----------
    path
        As for :func:`load`; an open file must stay open.
    map_location, device
        Device of the tensors, the CPU by default: give one of them, which mean the same.
    max_bytes
        Memory that a single tensor may take, with the bases that it needs.

    Raises
    ------
    ConfigError
        If `path` is none of what :func:`load` takes, or the device cannot be used.
    FormatError
        If the file is missing, damaged, foreign or of a newer format.

    Examples
    --------
    >>> with metaq.open("models/lenet5-mnist.metaq") as file:  # doctest: +SKIP
    ...     file.shape("conv1.weight"), file["conv1.weight"], file.get_slice("fc1.weight")[:10]
    """
    return ModelFile(path, _device(map_location, device), max_bytes)


class IntegerTensor(NamedTuple):
    """A tensor as ``(integers - zero) * scale``.

    `integers` are int8 in its shape, and lie between -8 and 7 if four bits are enough. `scale` is float32, a single one
    of shape () or one a row of shape (rows, 1, …). `zero` is an integer, 0 if possible, where the values are multiples
    of the scale, which those of trained grids are; else a float.
    """

    integers: torch.Tensor
    scale: torch.Tensor
    zero: float

    def dequantized(self) -> torch.Tensor:
        """The values in float32."""
        return (self.integers.float() - self.zero) * self.scale


class ModelFile(Mapping[str, torch.Tensor]):
    """What :func:`open` gives: a mapping from names to tensors, each restored when it is asked for.

    Attributes
    ----------
    contents
        The header: sizes, chunks, and for every tensor how it is kept.
    """

    def __init__(self, file: FileLike, device: torch.device, max_bytes: int) -> None:
        # Bytes that may change are copied once, rather than for every tensor.
        self._file = bytes(file) if isinstance(file, bytearray | memoryview) else file
        self._device = device
        self._max_bytes = max_bytes
        self.contents = container.describe(self._file)
        metadata = self.contents.metadata
        self._entries = {entry.name: entry for entry in self.contents.entries if is_weight(entry.name, metadata)}

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: no file is held open."""

    @property
    def metadata(self) -> Mapping[str, str | int | float]:
        """Small facts that the file keeps, such as the network's name."""
        return self.contents.metadata

    def __getitem__(self, name: str) -> torch.Tensor:
        self._entry(name)
        return self.tensors([name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Element type of a tensor."""
        found: torch.dtype = getattr(torch, self._entry(name).dtype.name)
        return found

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor: the same as ``file[name]``."""
        return self[name]

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which nothing is decoded yet: ``file.get_slice(name)[rows]`` restores some rows of it."""
        self._entry(name)
        return TensorSlice(self, name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """The part of a tensor whose first index is `start` to `stop`, between 0 and its size, ascending.

        Of a large tensor that is coded row by row, as most are, only the chunks of these rows are read and decoded. One
        that is coded by columns or in one piece is decoded in full; so is a vector with a trellis.
        """
        self._entry(name)
        read = read_rows(self._file, name, start, stop, max_bytes=self._max_bytes)
        return restore([read])[name].to(self._device)

    def tensors(self, names: Iterable[str]) -> StateDict:
        """Several tensors at once, tied ones as one; raises :class:`ConfigError` for a name that is not there."""
        return self._tensors(names, self._device)

    def integers(self, name: str) -> IntegerTensor:
        """A tensor as integers of at most eight bits and their scale, for kernels that multiply with these.

        They give the values of ``file[name]``: exactly where the step of its grid has few digits, as learned steps
        have, else to two units in the last place of the largest element, since a scale is a float32.

        Raises
        ------
        ConfigError
            If there are no such integers: the tensor is kept exactly, has too many levels, is a product with a basis,
            or has scales of columns.
        """
        entry = self.contents.holder_of(self._entry(name))
        found = _integers(self._tensors([name], torch.device("cpu"))[name], entry)
        if isinstance(found, str):
            raise ConfigError(f"{name_of(self._file)}: {name!r} {found}; take the tensor itself.")
        return IntegerTensor(found.integers.to(self._device), found.scale.to(self._device), found.zero)

    def _tensors(self, names: Iterable[str], device: torch.device) -> StateDict:
        made: StateDict = {}
        held: dict[str, torch.Tensor] = {}
        for entry, tensor in container.stream(self._file, names=names, max_bytes=self._max_bytes):
            holder = self.contents.holder_of(entry).name
            if holder not in held:
                held[holder] = restore([tensor])[entry.name].to(device)
            made[entry.name] = held[holder]
        return made

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise KeyError(f"{name_of(self._file)}: there is no tensor {name!r}.")
        return self._entries[name]


class TensorSlice:
    """What :meth:`ModelFile.get_slice` gives: the part that is asked for in square brackets, as of a torch tensor."""

    def __init__(self, file: ModelFile, name: str) -> None:
        self._file = file
        self._name = name

    def get_shape(self) -> list[int]:
        """Shape of the whole tensor."""
        return list(self._file.shape(self._name))

    def __getitem__(self, index: Any) -> torch.Tensor:
        """What torch gives for this index; where that begins with rows, no others are restored if possible.

        See :meth:`ModelFile.rows`.
        """
        first, *others = index if isinstance(index, tuple) and index else (index,)
        shape = self._file.shape(self._name)
        if shape and isinstance(first, int) and not isinstance(first, bool) and -shape[0] <= first < shape[0]:
            row = first % shape[0]
            return self._file.rows(self._name, row, row + 1)[(0, *others)]
        if shape and isinstance(first, slice) and (first.step is None or first.step > 0):
            start, stop, step = first.indices(shape[0])
            return self._file.rows(self._name, start, max(start, stop))[(slice(None, None, step), *others)]
        return self._file[self._name][index]


def _integers(values: torch.Tensor, entry: Entry) -> IntegerTensor | str:
    """The integers that give `values`, or why there are none."""
    if entry.grid is None or not entry.count:
        return "is kept exactly"
    if entry.basis is not None:
        return "is a product with a basis"
    rows, columns = factors_of(entry.scales, values.ndim)
    if columns.ndim:
        return "has scales of its columns"
    factor, wanted = rows * columns, values.double()
    tolerance = 2 * torch.finfo(values.dtype).eps * wanted.abs().max()
    for integers, offset in on_grid(wanted.numpy() / factor, entry.grid):
        stored = torch.from_numpy(integers.stored.astype(np.int8))
        scale = torch.from_numpy(np.asarray(integers.scale * factor, dtype=np.float32))
        zero = integers.zero_point - offset / integers.scale if offset else integers.zero_point
        found = IntegerTensor(stored, scale, zero)
        if ((found.dequantized().to(values.dtype).double() - wanted).abs() <= tolerance).all():
            return found
    return "has more levels than integers of eight bits"


def _device(map_location: Device, device: Device) -> torch.device:
    """The device of the tensors, which is known to work."""
    require(map_location is None or device is None, "device: means the same as map_location; give one of them.")
    wanted = device if map_location is None else map_location
    try:
        found = torch.device("cpu" if wanted is None else wanted)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0][:LONGEST_REASON].rstrip(".:")
        raise ConfigError(f"device: {wanted!r} cannot be used here ({reason}).") from error
    return found
