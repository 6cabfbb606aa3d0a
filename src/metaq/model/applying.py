"""A model of any kind as a base, and what a chain of updates makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened

from torch import nn

from metaq import container
from metaq.config import require
from metaq.container import applying
from metaq.container.applying import Base, Held, parts_of, tied
from metaq.container.carried import is_weight
from metaq.container.fields import utf8
from metaq.container.source import FileLike
from metaq.model import checkpoint
from metaq.model.checkpoint import StateDict
from metaq.model.opened import AnyModel, open_model
from metaq.model.stored import Reader


@dataclass(frozen=True, kw_only=True, eq=False)
class Model(Base):
    """The same with PyTorch's tensors at hand."""

    def state_dict(self) -> StateDict:
        """The weights with their values."""
        return checkpoint.restore([each for each in tied(self.held) if is_weight(each.name, self.metadata)])

    def encode(self, *, coder: str = container.DEFAULT_CODER) -> bytes:
        """Bytes of a ``.metaq`` file of the model."""
        return container.encode(self.tensors, metadata=self.metadata, coder=coder)


def is_packed(source: object) -> bool:
    """Whether a model is compressed already: a ``.metaq`` file, by path or bytes."""
    if isinstance(source, Model | bytes):
        return isinstance(source, bytes) or source.is_quantized
    return isinstance(source, str | os.PathLike) and Path(source).is_file() and container.is_metaq(source)


def model_of(source: AnyModel | Model | bytes, *, key: str | None = None) -> Model:
    """A model in memory, of whatever :func:`metaq.model.opened.open_model` takes, or of the bytes of a ``.metaq`` file.

    Raises :class:`ConfigError` and :class:`FormatError` as that does.
    """
    if isinstance(source, Model):
        return source
    if not isinstance(source, nn.Module | Mapping | str | os.PathLike):
        is_file = isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read")
        require(is_file, f"{shortened(source)} is no model; give a module, a state dict, or a file or folder.")
        return Model(**parts_of(container.read(source)))
    if not isinstance(source, nn.Module | Mapping) and not Path(source).is_dir() and container.is_metaq(source):
        require(key is None, f"--key {key}: {source} is a .metaq file; leave the key out.")
        return Model(**parts_of(container.read(source)), origin=os.fspath(source))
    opened = open_model(source, key=key)
    with Reader() as reader:
        exact: dict[str, Held] = {tensor.name: reader.exact(tensor) for tensor in opened.tensors}
        files = {file.name: reader.exact(file) for file in opened.rest.files}
    origin = "the base" if isinstance(source, nn.Module | Mapping) else os.fspath(source)
    held = {name: exact[opened.holders[name]] for name in sorted(opened.holders, key=utf8)}
    return Model(held=held, files=files, metadata=opened.rest.metadata, origin=origin)


def applied(
    base: AnyModel | Model | bytes, updates: Sequence[FileLike], *, max_bytes: int = container.DEFAULT_MAX_BYTES
) -> Model:
    """The model that a chain of updates makes of a base; see :func:`metaq.container.applying.applied`."""
    return applying.applied(model_of(base), updates, max_bytes=max_bytes)
