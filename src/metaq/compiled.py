"""Compilation of the few loops that run over every weight or bucket. Without Numba they run as plain Python."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

numba: ModuleType | None
try:
    numba = import_module("numba")
except ImportError:
    numba = None

Function = TypeVar("Function", bound=Callable[..., object])
Array = TypeVar("Array", bound=NDArray[np.generic])

IS_COMPILED = numba is not None
"""Whether :func:`compiled` compiles; restoring files does without, many times slower."""


def compiled(function: Function) -> Function:
    """Compile with Numba when first called, keeping the machine code for later processes where that is possible.

    Where no cache folder is writable, the function is compiled anew in every process. Where Numba is missing, the
    function itself is returned.
    """
    return _compiled(function)


def compiled_part(function: Function) -> Function:
    """As :func:`compiled`, for a function that compiled ones alone call: its way in from Python is not compiled.

    With records of many arrays as arguments that takes as long as the function itself.
    """
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _compiled(function: Function, **options: bool) -> Function:
    if numba is None:
        return function
    try:
        return cast(Function, numba.njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:
        return cast(Function, numba.njit(nogil=True, **options)(function))


def workspace(array: Array) -> Array:
    """`array` in the form in which a function made by :func:`compiled` reaches single elements fastest.

    That is the array itself, or without Numba a list of its elements, which copies: plain Python reads an element of a
    list three times as fast as one of an array. What the function changes is seen in the workspace alone.
    """
    return array if IS_COMPILED else cast(Array, array.tolist())
