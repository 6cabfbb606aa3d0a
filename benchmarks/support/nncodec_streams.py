"""NNCodec, the reference implementation of ISO/IEC 15938-17 (PyPI package nncodec), where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from numpy.typing import NDArray

Matrices = Sequence[NDArray[np.int32]]
Weights = Mapping[str, NDArray[np.generic]]
Row = dict[str, Any]

SETTINGS = tuple(
    {"cabac_unary_length_minus1": length, "row_skipping": skipping}
    for length, skipping in ((10, False), (20, False), (15, True), (20, True))
)
"""Of these the best for integers is taken; param_opt is always on, and other settings were never smaller."""

OF_APPLICATIONS = ("torchvision", "cv2", "flwr", "h5py", "pandas", "sentencepiece", "wandb")
"""Packages that it imports for its examples of training."""

LAMBDA_SCALES = (0.75, 1.0)
ERROR_IN_STEPS = 0.5
"""Root mean square error over the step, 2 ** (qp / 4), about."""


def is_installed() -> bool:
    """Whether the package can be imported."""
    return importlib.util.find_spec("nncodec") is not None


def codec() -> ModuleType:
    """The package's codec. What only its example applications need may be missing."""
    absent = [name for name in OF_APPLICATIONS if importlib.util.find_spec(name) is None]
    sys.modules |= {name: MagicMock(__spec__=None) for name in absent}
    try:
        return importlib.import_module("nncodec.nnc")
    finally:
        for name in absent:
            del sys.modules[name]


def encode_integers(matrices: Matrices, **settings: object) -> bytearray:
    """One stream of tensors coded without loss."""
    nnc = codec()
    named = {str(number): matrix for number, matrix in enumerate(matrices)}
    stream = nnc.compress(named, bitstream_path=None, use_dq=False, param_opt=True, return_bitstream=True, **settings)
    return bytearray(stream)


def decode_integers(stream: bytearray) -> list[NDArray[np.int32]]:
    """Invert :func:`encode_integers`."""
    nnc = codec()
    named = nnc.decompress(stream)
    return [named[str(number)] for number in range(len(named))]


def best_settings(matrices: Matrices) -> dict[str, object]:
    """Those of ``SETTINGS`` that make the smallest stream."""
    return dict(min(SETTINGS, key=lambda settings: len(encode_integers(matrices, **settings))))


def quantized(weights: Weights, *, lambda_scale: float, qp: int, vector_qp: int | None = None) -> tuple[Row, Weights]:
    """Size of a stream by dependent quantisation, and the weights restored.

    One qp is for everything, unless vectors have another.
    """
    nnc = codec()
    begun = time.perf_counter()
    stream = nnc.compress(
        {name: as_float_or_int(values) for name, values in weights.items()},
        bitstream_path=None,
        qp=qp,
        nonweight_qp=qp if vector_qp is None else vector_qp,
        lambda_scale=lambda_scale,
        use_dq=True,
        param_opt=True,
        return_bitstream=True,
    )
    row = {"lambda_scale": lambda_scale, "qp": qp, "bytes": len(stream), "seconds": time.perf_counter() - begun}
    return row, nnc.decompress(stream)


def qp_of_step(step_size: float) -> int:
    """The qp whose step size is nearest."""
    return round(4 * math.log2(step_size))


def as_float_or_int(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """A copy in one of the two types that the package takes."""
    return values.astype(np.float32 if np.issubdtype(values.dtype, np.floating) else np.int32)


def squared_error(weights: Weights, restored: Weights) -> float:
    """Sum over all floating weights."""
    names = [name for name, values in weights.items() if np.issubdtype(values.dtype, np.floating)]
    return sum(float(((weights[n].astype(np.float64) - restored[n].astype(np.float64)) ** 2).sum()) for n in names)


def rows_around(weights: Weights, errors: Sequence[float], show: Callable[[Row], None]) -> list[Row]:
    """Sizes and squared errors for the qp on either side of every error, by every lambda_scale."""
    count = sum(values.size for values in weights.values() if np.issubdtype(values.dtype, np.floating))
    rows: dict[tuple[float, int], Row] = {}

    def error_at(scale: float, qp: int) -> float:
        if (scale, qp) not in rows:
            row, restored = quantized(weights, lambda_scale=scale, qp=qp)
            rows[scale, qp] = {**row, "squared_error": squared_error(weights, restored)}
            show(rows[scale, qp])
        return float(rows[scale, qp]["squared_error"])

    for scale, error in itertools.product(LAMBDA_SCALES, errors):
        qp = qp_of_step(math.sqrt(error / count) / ERROR_IN_STEPS)
        while error_at(scale, qp) < error:
            qp += 1
        while error_at(scale, qp) > error:
            qp -= 1
        error_at(scale, qp + 1)
    return list(rows.values())


def bytes_at(rows: Sequence[Row], error: float) -> float | None:
    """Bytes at a squared error by the better lambda_scale, log over log between neighbours; None outside of them."""
    sizes = []
    for scale in {row["lambda_scale"] for row in rows}:
        points = sorted((row["squared_error"], row["bytes"]) for row in rows if row["lambda_scale"] == scale)
        errors, values = np.log(np.array(points, dtype=np.float64).T)
        if errors[0] <= math.log(error) <= errors[-1]:
            sizes.append(math.exp(np.interp(math.log(error), errors, values)))
    return min(sizes, default=None)
