"""The loop of examples/federated.py, and NNCodec's streams as one more way for its models to travel."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from support import nncodec_streams
from support.nncodec_streams import LAMBDA_SCALES, squared_error

EXAMPLE = Path(__file__).parents[2] / "examples" / "federated.py"
QP_DENSITY = 4
"""Steps are 2 ** (qp / 16): fine enough that most of the bytes allowed are used."""

FIRST_QP, WIDENING = -96, 8

Weights = Mapping[str, torch.Tensor]
Changes = dict[str, NDArray[np.float32]]


def example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("federated_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class NNCodec:
    """Changes as NNCodec's streams of at most `limit` bytes, with the least squared error that its settings give."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._codec: Any = nncodec_streams.codec()
        self._near = dict.fromkeys(LAMBDA_SCALES, FIRST_QP)

    def pack(self, base: Weights, new: Weights) -> bytes:
        """The best stream over ``LAMBDA_SCALES``."""
        changes: Changes = {name: np.ascontiguousarray((new[name] - base[name]).numpy()) for name in base}
        streams = [self._largest(changes, scale) for scale in LAMBDA_SCALES]
        return min(streams, key=lambda stream: squared_error(changes, self._codec.decompress(bytearray(stream))))

    def unpack(self, base: Weights, data: bytes) -> dict[str, torch.Tensor]:
        """The base with the changes."""
        changes = self._codec.decompress(bytearray(data))
        return {name: base[name] + torch.from_numpy(changes[name]).view_as(base[name]) for name in base}

    def _largest(self, changes: Changes, scale: float) -> bytes:
        """The stream of the least qp that fits, looked for from that of the message before."""
        known: dict[int, bytes] = {}

        def fits(qp: int) -> bool:
            if qp not in known:
                known[qp] = self._stream(changes, scale, qp)
            return len(known[qp]) <= self._limit

        high = low = self._near[scale]
        if not any(change.any() for change in changes.values()):
            return self._stream(changes, scale, high)
        while not fits(high):
            high += WIDENING
        while fits(low):
            low -= WIDENING
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        self._near[scale] = high
        return known[high]

    def _stream(self, changes: Changes, scale: float, qp: int) -> bytes:
        stream = self._codec.compress(
            changes,
            bitstream_path=None,
            qp=qp,
            nonweight_qp=qp,
            qp_density=QP_DENSITY,
            lambda_scale=scale,
            use_dq=True,
            param_opt=True,
            row_skipping=True,
            return_bitstream=True,
        )
        return bytes(stream)
