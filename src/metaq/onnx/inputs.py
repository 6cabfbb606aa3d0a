"""Batches for an ONNX file, made of arrays that lie in a file."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaq.compression.inputs import batch_size, named_arrays
from metaq.errors import DataError
from metaq.onnx.sessions import Input

LEAST_BATCHES = 2
"""One calibrates, and one is held out."""


def batches_of(path: Path, inputs: Iterable[Input]) -> list[dict[str, torch.Tensor]]:
    """Batches of the arrays of an ``.npz`` file, which are called as the `inputs` of a network, or of the array of an
    ``.npy`` file for the first floating one.

    The first dimension is that of samples. Where a network takes a fixed number of them, batches have as many. An array
    that has one dimension more than its input is cut along that, one batch for every index. All batches have numbers,
    arrays whose first dimension is as long as the network asks for and, beside such that are cut by index, all others.

    Raises
    ------
    DataError
        If the file cannot be read, or its arrays do not fit.
    """
    known = {each.name: each for each in inputs}
    arrays = named_arrays(path)
    if "" in arrays:
        first = next((name for name, each in known.items() if each.dtype.kind == "f"), next(iter(known), ""))
        arrays = {first: arrays[""]}
    _check_names(path, arrays.keys(), known)
    arrays = {name: _fitted(path, array, known[name]) for name, array in arrays.items()}
    cut = [name for name, array in arrays.items() if _has_index(array, known[name])]
    by_index = bool(cut)
    cut = cut or [name for name, array in arrays.items() if array.dim() and _fixed(known[name]) != len(array)]
    lengths = {name: len(arrays[name]) for name in cut}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} for {name}" for name, length in lengths.items())
        raise DataError(f"{path}: holds unlike numbers of samples: {told}; give as many for every input.")
    length = next(iter(lengths.values()), 1)
    sizes = {1} if by_index else {size for name in cut if (size := _fixed(known[name]))}
    if len(sizes) > 1:
        raise DataError(f"{path}: the network takes different numbers of samples of {', '.join(cut)} at once.")
    size = min(sizes, default=batch_size(length))
    count = length // size if sizes else -(-length // size)
    if count < LEAST_BATCHES and (sizes or not cut):
        raise DataError(f"{path}: is enough for {count} runs of the network; give inputs for {LEAST_BATCHES} or more.")
    return [
        {name: _part(array, number, size, by_index) if name in cut else array for name, array in arrays.items()}
        for number in range(count)
    ]


def _part(array: torch.Tensor, number: int, size: int, by_index: bool) -> torch.Tensor:
    return array[number] if by_index else array[number * size : (number + 1) * size]


def _check_names(path: Path, given: Collection[str], known: Mapping[str, Input]) -> None:
    described = ", ".join(f"{name} ({each})" for name, each in known.items())
    unknown = [name for name in given if name not in known]
    if unknown:
        raise DataError(f"{path}: the network takes no {', '.join(unknown)}; it takes {described}.")
    missing = [name for name in known if name not in given]
    if missing:
        raise DataError(
            f"{path}: lacks {', '.join(missing)}; write all that the network takes with numpy.savez: {described}."
        )


def _fitted(path: Path, array: torch.Tensor, wanted: Input) -> torch.Tensor:
    """The array, if the network takes such numbers in such a shape, whatever their first dimension."""
    asked = array.shape if wanted.shape is None else wanted.shape
    sizes = array.shape[1:] if _has_index(array, wanted) else array.shape
    pairs = list(zip(sizes, asked, strict=False))[0 if _has_index(array, wanted) else 1 :]
    is_shaped = len(sizes) == len(asked) and all(not isinstance(fixed, int) or size == fixed for size, fixed in pairs)
    if not is_shaped or not _holds(wanted.dtype, array):
        kind = str(array.dtype).removeprefix("torch.")
        raise DataError(
            f"{path}: {wanted.name} is {kind} of shape {list(array.shape)}, but the network takes {wanted}; give such "
            "numbers, with the first dimension for samples."
        )
    return array


def _holds(dtype: np.dtype[Any], array: torch.Tensor) -> bool:
    """Whether a type takes the numbers of an array for what they are."""
    if dtype.kind == "f":
        return True
    if array.dtype == torch.bool:
        return dtype.kind in "biu"
    if dtype.kind not in "iu" or array.is_floating_point():
        return False
    limits = np.iinfo(dtype)
    return not array.numel() or (limits.min <= int(array.min()) and int(array.max()) <= limits.max)


def _has_index(array: torch.Tensor, wanted: Input) -> bool:
    """Whether an array has a dimension more than the network takes."""
    return wanted.shape is not None and array.dim() == len(wanted.shape) + 1


def _fixed(wanted: Input) -> int | None:
    """How many samples the network takes at once; None if as many as one likes."""
    first = wanted.shape[0] if wanted.shape else None
    return first if isinstance(first, int) else None
