"""A ``.metaq`` file as torch tensors: all at once, or one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from metaq import container
from metaq.container import DEFAULT_MAX_BYTES, Entry
from metaq.container.carried import is_carried
from metaq.model.checkpoint import StateDict, restore


def load(
    path: str | os.PathLike[str],
    *,
    names: Iterable[str] | None = None,
    map_location: str | torch.device = "cpu",
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> StateDict:
    """State dict of a ``.metaq`` file, bit for bit the quantised weights that were saved.

    Parameters
    ----------
    path
        The file.
    names
        The tensors to restore; all by default. Of a large file only the chunks that they need are read.
    map_location
        Device of the tensors.
    max_bytes
        Memory that a single tensor may take, with the bases that it needs.

    Raises
    ------
    ConfigError
        If the file has no tensor of one of the `names`.
    FormatError
        If the file is missing, damaged, foreign, of a newer format, or takes more memory than that.
    """
    file = open(path, max_bytes=max_bytes)
    wanted = list(file) if names is None else list(names)
    loaded = file.tensors(wanted)
    made: dict[int, torch.Tensor] = {}
    # Tied tensors stay one on another device too.
    moved = {name: made.setdefault(id(tensor), tensor.to(map_location)) for name, tensor in loaded.items()}
    return {name: moved[name] for name in wanted}


def open(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> ModelFile:
    """A ``.metaq`` file of which nothing is decoded yet: names, shapes and types, and one tensor at a time.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Memory that a single tensor may take, with the bases that it needs.

    Raises
    ------
    FormatError
        If the file is missing, damaged, foreign or of a newer format.

    Examples
    --------
    >>> file = metaq.open("models/lenet5-mnist.metaq")  # doctest: +SKIP
    >>> file.shape("conv1.weight")  # doctest: +SKIP
    (20, 1, 5, 5)
    >>> file["conv1.weight"]  # doctest: +SKIP
    """
    return ModelFile(Path(path), max_bytes)


class ModelFile(Mapping[str, torch.Tensor]):
    """What :func:`open` gives: a mapping from names to tensors, each restored when it is asked for.

    Attributes
    ----------
    contents
        The header: sizes, chunks, and for every tensor how it is kept.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self.contents = container.describe(path)
        metadata = self.contents.metadata
        self._entries = {entry.name: entry for entry in self.contents.entries if not is_carried(entry.name, metadata)}

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

    def tensors(self, names: Iterable[str]) -> StateDict:
        """Several tensors at once, tied ones as one; raises :class:`ConfigError` for a name that is not there."""
        made: StateDict = {}
        held: dict[str, torch.Tensor] = {}
        for entry, tensor in container.stream(self._path, names=names, max_bytes=self._max_bytes):
            holder = self.contents.holder_of(entry).name
            if holder not in held:
                held[holder] = restore([tensor])[entry.name]
            made[entry.name] = held[holder]
        return made

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise KeyError(f"{self._path}: there is no tensor {name!r}.")
        return self._entries[name]
