"""A small context-mixing coder for the bytes of a file's header; docs/format.md describes it exactly.

A byte is eight binary decisions, the most significant bit first. Each is predicted by adaptive probabilities in the
contexts of the last 0, 1, 2, … bytes, whose logits are added with adaptive weights (Mahoney, "Adaptive weighing of
context models for lossless data compression", 2005). The model first runs over :data:`DICTIONARY`, the headers of a few
typical networks, so that the header of a small file costs little. All arithmetic is in integers, and every constant is
part of the file format.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaq.coding.logistic import LOGIT_LIMIT, logistic_table, logit_table
from metaq.compiled import compiled, workspace
from metaq.errors import CodecError

ORDERS = 5
"""Contexts of 0 to 4 bytes."""

SLOTS = 1 << 16
"""Slots of a context's table."""

PROBABILITY_BITS = 22
COUNT_LIMIT = 30
INITIAL_WEIGHT = 22000
LEARNING_RATE = 4
WEIGHT_SHIFT = 16
LOWEST_PROBABILITY = 128
"""Of 65536. A byte then takes more than 1/356 of a byte, which bounds what a short code can unpack to."""

MAX_EXPANSION = 400
"""A coded header of n bytes unpacks to at most this times n + 8."""

DICTIONARY = bytes.fromhex(
    """
    0c 00 0a 14 00 39 6c 6d 5f 68 65 61 64 00 91 01 6d 6f 64 65 6c 2e 65 6d 62 65
    64 5f 74 6f 6b 65 6e 73 06 c1 01 6c 61 79 65 72 73 2e 30 2e 69 6e 70 75 74 5f
    6c 61 79 65 72 6e 6f 72 6d 0f 69 6d 6c 70 2e 64 6f 77 6e 5f 70 72 6f 6a 13 49
    67 61 74 65 5f 70 72 6f 6a 13 39 75 70 5f 70 72 6f 6a 0f c1 01 70 6f 73 74 5f
    61 74 74 65 6e 74 69 6f 6e 5f 6c 61 79 65 72 6e 6f 72 6d 0f 81 01 73 65 6c 66
    5f 61 74 74 6e 2e 6b 5f 70 72 6f 6a 19 31 6f 5f 70 72 6f 6a 19 31 71 5f 70 72
    6f 6a 19 31 76 5f 70 72 6f 6a 06 21 6e 6f 72 6d 42 80 fa 01 80 10 42 80 fa 01
    80 10 22 80 10 42 80 10 80 40 42 80 40 80 10 42 80 40 80 10 22 80 10 42 80 10
    80 10 42 80 10 80 10 42 80 10 80 10 42 80 10 80 10 22 80 10 01 01 01 01 01 01
    01 01 01 01 03 00 03 01 02 0c 09 0c 09 09 0c 0c 09 0c 0f 07 1f 09 15 05 0b 03
    1b 11 3f de 28 02 3d 73 29 ae 30 6e 34 06 25 74 2c 93 39 7c 26 e4 27 00 0a 14
    00 a2 01 65 6d 62 65 64 64 69 6e 67 73 2e 4c 61 79 65 72 4e 6f 72 6d 14 01 0b
    99 01 70 6f 73 69 74 69 6f 6e 5f 65 6d 62 65 64 64 69 6e 67 73 0b a9 01 74 6f
    6b 65 6e 5f 74 79 70 65 5f 65 6d 62 65 64 64 69 6e 67 73 0b 79 77 6f 72 64 5f
    65 6d 62 65 64 64 69 6e 67 73 01 ca 02 6e 63 6f 64 65 72 2e 6c 61 79 65 72 2e
    30 2e 61 74 74 65 6e 74 69 6f 6e 2e 6f 75 74 70 75 74 2e 4c 61 79 65 72 4e 6f
    72 6d 2a 01 21 2a 64 65 6e 73 65 26 01 1a 42 73 65 6c 66 2e 6b 65 79 22 01 1f
    2a 71 75 65 72 79 24 01 1f 2a 76 61 6c 75 65 24 01 10 92 01 69 6e 74 65 72 6d
    65 64 69 61 74 65 2e 64 65 6e 73 65 22 01 10 82 01 6f 75 74 70 75 74 2e 4c 61
    79 65 72 4e 6f 72 6d 20 01 17 2a 64 65 6e 73 65 1c 01 0e e2 01 31 2e 61 74 74
    65 6e 74 69 6f 6e 2e 6f 75 74 70 75 74 2e 4c 61 79 65 72 4e 6f 72 6d 2a 01 21
    2a 64 65 6e 73 65 26 01 1a 42 73 65 6c 66 2e 6b 65 79 22 01 1f 2a 71 75 65 72
    79 24 01 1f 2a 76 61 6c 75 65 24 01 10 92 01 69 6e 74 65 72 6d 65 64 69 61 74
    65 2e 64 65 6e 73 65 22 01 10 82 01 6f 75 74 70 75 74 2e 4c 61 79 65 72 4e 6f
    72 6d 20 01 17 2a 64 65 6e 73 65 1c 01 00 62 70 6f 6f 6c 65 72 2e 64 65 6e 73
    65 0c 01 20 80 06 20 80 06 40 80 04 80 06 40 02 80 06 40 ba ee 01 80 06 20 80
    06 20 80 06 20 80 06 40 80 06 80 06 20 80 06 40 80 06 80 06 20 80 06 40 80 06
    80 06 20 80 06 40 80 06 80 06 20 80 18 40 80 18 80 06 20 80 06 20 80 06 20 80
    06 40 80 06 80 18 20 80 06 20 80 06 20 80 06 40 80 06 80 06 20 80 06 40 80 06
    80 06 20 80 06 40 80 06 80 06 20 80 06 40 80 06 80 06 20 80 18 40 80 18 80 06
    20 80 06 20 80 06 20 80 06 40 80 06 80 18 20 80 06 40 80 06 80 06 01 01 01 01
    01 01 01 01 01 01 03 00 03 01 03 02 03 03 03 04 03 05 03 06 03 07 03 08 03 09
    03 00 03 01 03 02 03 03 03 04 03 05 03 06 03 07 03 08 03 09 03 00 03 01 03 02
    03 03 03 04 03 05 03 06 03 07 03 08 02 0c 09 0c 09 09 0c 0c 09 0c 0f 07 1f 09
    15 05 0b 03 1b 11 3f de 28 02 3d 73 29 ae 30 6e 34 06 25 74 2c 93 39 7c 26 e4
    26 00 0a 14 00 1a 62 6e 31 03 05 03 03 03 04 03 01 00 29 63 6f 6e 76 31 00 12
    66 63 02 01 00 62 6c 61 79 65 72 31 2e 30 2e 62 6e 31 0c 05 0c 03 0c 04 0c 01
    0b 0a 32 0c 05 0c 03 0c 04 0c 01 09 29 63 6f 6e 76 31 0d 09 32 05 3a 32 2e 30
    2e 62 6e 31 0c 05 0c 03 0c 04 0c 01 0b 0a 32 0c 05 0c 03 0c 04 0c 01 09 29 63
    6f 6e 76 31 0d 09 32 09 61 64 6f 77 6e 73 61 6d 70 6c 65 2e 30 14 0a 31 15 05
    15 03 15 04 15 01 20 40 08 20 40 20 40 20 40 80 40 03 07 07 20 e8 07 40 e8 07
    80 04 20 40 08 20 40 20 40 20 40 20 40 08 20 40 20 40 20 40 80 40 40 03 03 80
    40 40 03 03 20 80 01 08 20 80 01 20 80 01 20 80 01 20 80 01 08 20 80 01 20 80
    01 20 80 01 80 80 01 40 03 03 80 80 01 80 01 03 03 80 80 01 40 01 01 20 80 01
    08 20 80 01 20 80 01 20 80 01 01 08 d9 59 00 00 00 00 00 00 00 00 01 01 01 01
    01 08 e1 59 00 00 00 00 00 00 00 00 01 01 08 e6 59 00 00 00 00 00 00 00 00 03
    04 03 05 01 03 00 08 ed 59 00 00 00 00 00 00 00 00 03 01 03 02 08 f2 59 00 00
    00 00 00 00 00 00 03 08 03 00 01 03 06 03 07 08 fa 59 00 00 00 00 00 00 00 00
    03 04 02 09 09 0c 0c 09 09 0c 0c 0c 0f 15 05 0b 03 1b 1f 09 11 07 3f de 30 6e
    34 06 25 74 2c 93 39 7c 3d 73 29 ae 26 e4 28 02 80 02 80 02 80 02 80 02 80 02
    80 02 80 04 80 04 80 04 80 04 80 04 80 04 0a 04 0a 14 00 2a 63 6f 6e 76 31 05
    01 04 0a 32 05 01 00 1a 66 63 31 03 01 02 0a 32 03 01 02 0a 33 03 01 20 06 80
    06 01 05 05 20 10 80 10 06 05 05 20 78 40 78 80 02 20 54 40 54 78 20 0a 40 0a
    54 01 02 02 02 02 02 02 02 02 02 02 0f 3f de d4 16 08 61 63 63 75 72 61 63 79
    02 00 00 00 00 00 d0 58 40 07 64 61 74 61 73 65 74 00 05 6d 6e 69 73 74 03 6e
    65 74 00 06 6c 65 6e 65 74 35 04 73 65 65 64 01 00 0a 00 0a 14 00 2a 63 6f 6e
    76 31 05 01 04 0a 32 05 01 00 1a 66 63 31 03 01 02 0a 32 03 01 02 0a 33 03 01
    20 06 80 06 01 05 05 20 10 80 10 06 05 05 20 78 40 78 80 02 20 54 40 54 78 20
    0a 40 0a 54 01 01 01 01 01 01 01 01 01 01 02 0c 09 0c 09 09 0c 0c 09 0c 0f 07
    1f 09 15 05 0b 03 1b 11 3f de 28 02 3d 73 29 ae 30 6e 34 06 25 74 2c 93 39 7c
    26 e4 c4 13
    """
)
"""Headers of a few typical networks, 1564 bytes, made by ``tests/container/dictionary.py``."""

TOP = (1 << 32) - 1

LOW, HIGH, CODE, POSITION, HISTORY = 0, 1, 2, 3, 4
"""Places in a coder's state: ends of the interval, code in it, bytes passed, and the last four bytes."""


class Model(NamedTuple):
    """Everything that adapts, its tables and scratch space; workspaces of integers.

    Attributes
    ----------
    probabilities, counts
        A slot a context: probability of a 1 times ``2**22`` and how often it was used, of shape (ORDERS * SLOTS,).
    weights
        Mixing weights times 65536, of shape (ORDERS * ORDERS,): a set for each longest context used before.
    slots, inputs
        Of the current decision, of shape (ORDERS,); the last place of `chosen` is the first weight of its set.
    chosen
        First weight of the current set, of shape (1,).
    logits, logistic
        The tables of :mod:`metaq.coding.logistic`.
    """

    probabilities: NDArray[np.int64]
    counts: NDArray[np.int64]
    weights: NDArray[np.int64]
    slots: NDArray[np.int64]
    inputs: NDArray[np.int64]
    chosen: NDArray[np.int64]
    logits: NDArray[np.int64]
    logistic: NDArray[np.int64]


def encode_header_bytes(raw: bytes) -> bytes:
    """Code of `raw`, without its size.

    Examples
    --------
    >>> decode_header_bytes(encode_header_bytes(b"conv1.weight"), 12)
    b'conv1.weight'
    """
    model, history = _primed_model()
    state = workspace(np.array([0, TOP, 0, 0, history], dtype=np.int64))
    # A decision never takes more than 9 bits, nor does the end more than 4 bytes.
    out = np.zeros(9 * len(raw) + 8, dtype=np.uint8)
    _encode(workspace(np.frombuffer(raw, dtype=np.uint8)), model, state, out)
    return out[: state[POSITION]].tobytes()


def decode_header_bytes(coded: bytes, size_bytes: int) -> bytes:
    """Invert :func:`encode_header_bytes`: the `size_bytes` bytes that `coded` stands for.

    Raises
    ------
    CodecError
        If no header of `size_bytes` bytes is that short, or `coded` is not what encoding the result gives.
    """
    if size_bytes > MAX_EXPANSION * (len(coded) + 8):
        raise CodecError(f"{len(coded)} bytes cannot hold a header of {size_bytes}.")
    model, history = _primed_model()
    state = workspace(np.array([0, TOP, 0, 0, history], dtype=np.int64))
    raw = np.zeros(size_bytes, dtype=np.uint8)
    if not _decode(workspace(np.frombuffer(coded, dtype=np.uint8)), model, state, raw):
        raise CodecError("the coded header is damaged, cut off or too long.")
    return raw.tobytes()


def _new_model() -> Model:
    return Model(
        probabilities=np.full(ORDERS * SLOTS, 1 << (PROBABILITY_BITS - 1), dtype=np.int64),
        counts=np.zeros(ORDERS * SLOTS, dtype=np.int64),
        weights=np.full(ORDERS * ORDERS, INITIAL_WEIGHT, dtype=np.int64),
        slots=np.zeros(ORDERS, dtype=np.int64),
        inputs=np.zeros(ORDERS, dtype=np.int64),
        chosen=np.zeros(1, dtype=np.int64),
        logits=logit_table(),
        logistic=logistic_table(),
    )


@cache
def _primed() -> tuple[Model, int]:
    model = Model(*(workspace(array) for array in _new_model()))
    state = workspace(np.zeros(5, dtype=np.int64))
    _prime(workspace(np.frombuffer(DICTIONARY, dtype=np.uint8)), model, state)
    return model, int(state[HISTORY])


def _primed_model() -> tuple[Model, int]:
    """A copy of the model that has seen the dictionary, and the last bytes of that."""
    model, history = _primed()
    return Model(*(array.copy() for array in model)), history


@compiled
def _prime(data: NDArray[np.uint8], model: Model, state: NDArray[np.int64]) -> None:
    for byte in data:
        node = 1
        for place in range(8):
            bit = (int(byte) >> (7 - place)) & 1
            _learn(bit, _predict(node, state[HISTORY], model), model)
            node = node << 1 | bit
        state[HISTORY] = (state[HISTORY] << 8 | (node & 255)) & TOP


@compiled
def _encode(data: NDArray[np.uint8], model: Model, state: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    for byte in data:
        node = 1
        for place in range(8):
            bit = (int(byte) >> (7 - place)) & 1
            probability = _predict(node, state[HISTORY], model)
            _narrow(bit, probability, state)
            while (state[LOW] ^ state[HIGH]) >> 24 == 0:
                out[state[POSITION]] = state[HIGH] >> 24
                _shift(state)
            _learn(bit, probability, model)
            node = node << 1 | bit
        state[HISTORY] = (state[HISTORY] << 8 | (node & 255)) & TOP
    kept, tail = _tail(state)
    for place in range(kept):
        out[state[POSITION]] = (tail >> (24 - 8 * place)) & 255
        state[POSITION] += 1


@compiled
def _decode(data: NDArray[np.uint8], model: Model, state: NDArray[np.int64], raw: NDArray[np.uint8]) -> bool:
    """Fill `raw` from `data`; whether `data` are exactly the bytes that encoding `raw` gives."""
    for place in range(4):
        state[CODE] = state[CODE] << 8 | _byte_at(data, place)
    for index in range(len(raw)):
        node = 1
        for _ in range(8):
            probability = _predict(node, state[HISTORY], model)
            bit = 1 if state[CODE] <= _split(probability, state) else 0
            _narrow(bit, probability, state)
            while (state[LOW] ^ state[HIGH]) >> 24 == 0:
                _shift(state)
                state[CODE] = (state[CODE] << 8) & TOP | _byte_at(data, state[POSITION] + 3)
            _learn(bit, probability, model)
            node = node << 1 | bit
        state[HISTORY] = (state[HISTORY] << 8 | (node & 255)) & TOP
        raw[index] = node & 255
        # What lies this far behind the end is zeros that no encoder leaves out.
        if state[POSITION] > len(data):
            return False
    kept, tail = _tail(state)
    return bool(len(data) == state[POSITION] + kept and state[CODE] == tail)


@compiled
def _byte_at(data: NDArray[np.uint8], place: int) -> int:
    return int(data[place]) if place < len(data) else 0


@compiled
def _split(probability: int, state: NDArray[np.int64]) -> int:
    return int(state[LOW] + (((state[HIGH] - state[LOW]) * probability) >> 16))


@compiled
def _narrow(bit: int, probability: int, state: NDArray[np.int64]) -> None:
    if bit:
        state[HIGH] = _split(probability, state)
    else:
        state[LOW] = _split(probability, state) + 1


@compiled
def _shift(state: NDArray[np.int64]) -> None:
    state[LOW] = (state[LOW] << 8) & TOP
    state[HIGH] = (state[HIGH] << 8) & TOP | 255
    state[POSITION] += 1


@compiled
def _tail(state: NDArray[np.int64]) -> tuple[int, int]:
    """Fewest bytes whose number, filled up with zeros, lies in the interval, and that number."""
    for kept in range(4):
        mask = TOP >> (8 * kept)
        tail = (state[LOW] + mask) & ~mask
        if tail <= state[HIGH]:
            return kept, tail
    return 4, state[LOW]


@compiled
def _predict(node: int, history: int, model: Model) -> int:
    """Probability of a 1 times 65536; where it comes from is left in `slots`, `inputs` and `chosen`."""
    longest = 0
    for order in range(ORDERS):
        context = history & ((1 << (8 * order)) - 1)
        mixed = (context & 0xFFFF) * 40503 + (context >> 16) * 30011 + node * 24593
        slot = order * SLOTS + ((mixed ^ (mixed >> 15)) & (SLOTS - 1))
        if model.counts[slot] > 0:
            longest = order
        model.slots[order] = slot
        model.inputs[order] = model.logits[model.probabilities[slot] >> (PROBABILITY_BITS - 16)]
    first = longest * ORDERS
    total = 0
    for order in range(ORDERS):
        total += model.weights[first + order] * model.inputs[order]
    model.chosen[0] = first
    logit = min(max(total >> 16, -LOGIT_LIMIT), LOGIT_LIMIT)
    probability = int(model.logistic[logit + LOGIT_LIMIT + 1])
    return min(max(probability, LOWEST_PROBABILITY), 65536 - LOWEST_PROBABILITY)


@compiled
def _learn(bit: int, probability: int, model: Model) -> None:
    first = model.chosen[0]
    error = ((bit << 16) - probability) * LEARNING_RATE
    target = ((1 << PROBABILITY_BITS) - 1) * bit
    for order in range(ORDERS):
        model.weights[first + order] += (model.inputs[order] * error + (1 << (WEIGHT_SHIFT - 1))) >> WEIGHT_SHIFT
        slot = model.slots[order]
        count = model.counts[slot]
        value = model.probabilities[slot]
        model.probabilities[slot] = value + (((target - value) * (131072 // (2 * count + 3))) >> 16)
        model.counts[slot] = min(count + 1, COUNT_LIMIT)
