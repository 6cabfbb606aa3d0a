"""Compilation of the few loops that run over every weight or bucket. Without Numba they run as plain Python."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])
Array = TypeVar("Array", bound=NDArray[np.generic])

Bytes = NDArray[np.uint8]
Symbols = NDArray[np.int32]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
"""What compiled functions mostly work on."""

IS_COMPILED = find_spec("numba") is not None
"""Whether :func:`compiled` compiles; restoring files does without, many times slower."""


listeners: list[Callable[[bool], None]] = []
"""Called with True when compiling begins, and with False when it ends; not where machine code is at hand."""


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
    if not IS_COMPILED:
        return function
    try:
        return cast(Function, _numba().njit(cache=True, nogil=True, **options)(function))
    except RuntimeError:
        return cast(Function, _numba().njit(nogil=True, **options)(function))


@cache
def _numba() -> Any:
    """The library, which then tells the :data:`listeners` what it does."""
    import numba
    from numba.core import event

    class Teller(event.Listener):
        def on_start(self, _: object) -> None:
            for listener in listeners:
                listener(True)

        def on_end(self, _: object) -> None:
            for listener in listeners:
                listener(False)

    cast(Any, event).register("numba:compile", Teller())
    return numba


def workspace(array: Array) -> Array:
    """`array` in the form in which a function made by :func:`compiled` reaches single elements fastest.

    That is the array itself, or without Numba a list of its elements, which copies: plain Python reads an element of a
    list three times as fast as one of an array. What the function changes is seen in the workspace alone.
    """
    return array if IS_COMPILED else cast(Array, array.tolist())


def filled(size: int, value: int) -> Symbols:
    """A workspace of `size` elements, int32 where they have a type, which all are `value`.

    Without Numba they are the same number, which takes a fifth of the memory of :func:`workspace`, and little time.
    """
    return np.full(size, value, dtype=np.int32) if IS_COMPILED else cast(Symbols, [value] * size)
