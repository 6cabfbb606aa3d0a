"""Restoring a ``.metaq`` file with numpy alone: neither PyTorch nor anything that imports it is needed."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from metaq import container
from metaq.container import DEFAULT_MAX_BYTES, Contents

__all__ = ["inspect", "load"]


def load(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> dict[str, NDArray[np.generic]]:
    """Tensors of a ``.metaq`` file by name, bit for bit the quantised weights that were saved.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Memory that its tensors may take.

    Returns
    -------
    dict
        Little-endian arrays in the shape of the model's tensors, in order of the names. Types that numpy lacks come as
        bit patterns: bfloat16 as uint16, the float8 types as uint8; :func:`inspect` tells them apart.

    Raises
    ------
    FormatError
        If the file is missing, foreign, damaged, of a newer major version, or takes more than `max_bytes`.
    """
    tensors = container.read(path, max_bytes=max_bytes).tensors
    # Arithmetic on arrays without dimensions gives scalars; they become arrays again.
    return {tensor.name: np.asarray(tensor.restore()).reshape(tensor.shape) for tensor in tensors}


def inspect(path: str | os.PathLike[str]) -> Contents:
    """What a ``.metaq`` file holds: names, shapes, types, coders, grids and sizes. No tensor is decoded.

    Raises
    ------
    FormatError
        If the file is missing, foreign, damaged or of a newer major version.
    """
    return container.describe(path)
