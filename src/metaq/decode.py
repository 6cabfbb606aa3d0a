"""Restoring a ``.metaq`` file with numpy alone: neither PyTorch nor anything that imports it is needed.

Numba makes it fast, and zstandard unpacks what was packed with it, but neither is needed.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from metaq.config import near_match, require
from metaq.container import reader
from metaq.container.applying import Base, applied, parts_of
from metaq.container.contents import Contents
from metaq.container.fields import utf8
from metaq.container.frame import open_checked_frame, open_frame
from metaq.container.reader import DEFAULT_MAX_BYTES, require_memory
from metaq.container.source import FileLike, name_of, open_source, wanted_names

__all__ = ["inspect", "load", "stream"]


def load(
    path: FileLike,
    *,
    names: Iterable[str] | None = None,
    base: FileLike | list[FileLike] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> dict[str, NDArray[np.generic]]:
    """Tensors of a ``.metaq`` file by name, bit for bit the quantised weights that were saved.

    Parameters
    ----------
    path
        The file: its path, its bytes, or an open binary file that can seek, which is left open.
    names
        The tensors to restore; all by default. If the file has several chunks, no others than theirs are read.
    base
        Of an update, the ``.metaq`` file that it is to be applied to; if updates come between, a list of that and these
        in their order.
    max_bytes
        Memory that the tensors may take, with the bases that they need; tied tensors count as if each had its own. With
        a `base`, those of each file.

    Returns
    -------
    dict
        Little-endian arrays in the shape of the model's tensors, in order of the names; tied tensors are one array.
        Types that numpy lacks come as bit patterns: bfloat16 as uint16, the float8 types as uint8; :func:`inspect`
        tells them apart.

    Raises
    ------
    ConfigError
        If the file has no tensor of one of the `names`, or `path` is none of these.
    FormatError
        If the file is missing, foreign, damaged, of a newer version, or takes more than `max_bytes`; or if it is an
        update of another model than the `base`.
    """
    names = wanted_names(names)
    if base is not None:
        return _updated(path, base, names, max_bytes)
    chosen = None if names is None else set(names)
    with open_source(path) as source:
        # Where all is read, all is checked.
        contents, inline = open_checked_frame(source) if chosen is None else open_frame(source)
        entries = [entry for entry in contents.entries if chosen is None or entry.name in chosen]
        bases = [contents.bases[number] for number in contents.bases_of(entry.name for entry in entries)]
        require_memory(source.name, sum(entry.restored_bytes for entry in (*entries, *bases)), max_bytes)
        found = reader.streamed(source, contents, inline, names=chosen, max_bytes=max_bytes)
        loaded = {entry.name: tensor.restore() for entry, tensor in found}
    return {entry.name: loaded[entry.name] for entry in entries}


def _updated(
    update: FileLike, base: FileLike | list[FileLike], names: Iterable[str] | None, max_bytes: int
) -> dict[str, NDArray[np.generic]]:
    files = base if isinstance(base, list) else [base]
    require(bool(files), "base: is an empty list; give the file that the update is of.")
    model = Base(**parts_of(reader.read(files[0], max_bytes=max_bytes)), origin=name_of(files[0]))
    elements = applied(model, [*files[1:], update], max_bytes=max_bytes).elements
    wanted = sorted(elements if names is None else set(names), key=utf8)
    for name in wanted:
        require(name in elements, f"{name_of(update)}: there is no tensor {name!r}; {near_match(name, elements)}")
    return {name: elements[name].values for name in wanted}


def stream(
    path: FileLike, *, names: Iterable[str] | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Tensors as :func:`load` gives them, one by one.

    See :func:`metaq.container.reader.stream` for the memory that takes. `max_bytes` bounds a single tensor with
    the bases that are needed. The file is opened when the first tensor is asked for, and errors come no sooner.
    """
    for entry, tensor in reader.stream(path, max_bytes=max_bytes, names=wanted_names(names)):
        yield entry.name, tensor.restore()
        # The caller may be done with it.
        del tensor


def inspect(path: FileLike) -> Contents:
    """What a ``.metaq`` file holds: names, shapes, types, coders, grids and sizes. No tensor is decoded.

    For `path` see :func:`load`.

    Raises
    ------
    ConfigError
        If `path` is none of what that takes.
    FormatError
        If the file is missing, foreign, damaged or of a newer version.
    """
    return reader.describe(path)
