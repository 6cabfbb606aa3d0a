"""A small context-mixing coder for the bytes of a file's header; docs/format.md describes it exactly.

A byte is eight binary decisions, the most significant bit first. Each is predicted by adaptive probabilities in the
contexts of the last 0, 1, 2, … bytes, whose logits are added with adaptive weights (Mahoney, "Adaptive weighing of
context models for lossless data compression", 2005). The model first runs over :data:`DICTIONARY`, the headers of a few
typical networks, so that the header of a small file costs little. All arithmetic is in integers, and every constant is
part of the file format.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaq.coding.tables import LOGIT_LIMIT, logistic_table, logit_table
from metaq.compiled import Bytes, Integers, compiled, compiled_part, workspace
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

DICTIONARY = Path(__file__).with_name("header_dictionary.bin").read_bytes()
"""Headers of a few typical networks, 1531 bytes, made by ``tests/container/dictionary.py``."""

TOP = (1 << 32) - 1

PADDING = 16
"""Zeros to read behind a code: more than a single byte of a header can take."""

LOW, HIGH, CODE, POSITION, HISTORY = 0, 1, 2, 3, 4
"""Places in a coder's state: ends of the interval, code in it, bytes passed, and the last four bytes."""


class Model(NamedTuple):
    """Everything that adapts, its tables and scratch space; workspaces of integers.

    A slot a context, of shape (ORDERS * SLOTS,), has the probability of a 1 times ``2**22`` and how often it was used.
    Weights are times 65536, of shape (ORDERS * ORDERS,): a set for each longest context used before. `slots` and
    `inputs`, of shape (ORDERS,), are of the current decision, and `chosen`, of shape (1,), is the first weight of its
    set. The tables are those of :mod:`metaq.coding.tables`.
    """

    probabilities: Integers
    counts: Integers
    weights: Integers
    slots: Integers
    inputs: Integers
    chosen: Integers
    logits: Integers
    logistic: Integers


def encode_header_bytes(raw: bytes) -> bytes:
    """Code of `raw`, without its size.

    Examples
    --------
    >>> decode_header_bytes(encode_header_bytes(b"conv1.weight"), 12)
    b'conv1.weight'
    """
    return _encoded(raw, *_started())


def decode_header_bytes(coded: bytes, size_bytes: int) -> bytes:
    """Invert :func:`encode_header_bytes`: the `size_bytes` bytes that `coded` stands for.

    Raises :class:`CodecError` if no header of `size_bytes` bytes is that short, or `coded` is not what encoding the
    result gives.
    """
    if size_bytes > MAX_EXPANSION * (len(coded) + 8):
        raise CodecError(f"{len(coded)} bytes cannot hold a header of {size_bytes}.")
    model, state = _started()
    state[CODE] = int.from_bytes(coded[:4].ljust(4, b"\0"), "big")
    raw = np.zeros(size_bytes, dtype=np.uint8)
    _code(raw, model, state, _workspace_of(coded + bytes(PADDING)), True)
    kept, tail = _tail(state)
    if len(coded) != state[POSITION] + kept or state[CODE] != tail:
        raise CodecError("the coded header is damaged, cut off or too long.")
    return raw.tobytes()


@cache
def _primed() -> tuple[Model, int]:
    """The model that has seen the dictionary, and the last bytes of that."""
    tables = Model(
        probabilities=np.full(ORDERS * SLOTS, 1 << (PROBABILITY_BITS - 1), dtype=np.int64),
        counts=np.zeros(ORDERS * SLOTS, dtype=np.int64),
        weights=np.full(ORDERS * ORDERS, INITIAL_WEIGHT, dtype=np.int64),
        slots=np.zeros(ORDERS, dtype=np.int64),
        inputs=np.zeros(ORDERS, dtype=np.int64),
        chosen=np.zeros(1, dtype=np.int64),
        logits=logit_table(),
        logistic=logistic_table(),
    )
    model = Model(*map(workspace, tables))
    state = workspace(np.array([0, TOP, 0, 0, 0], dtype=np.int64))
    _encoded(DICTIONARY, model, state)
    return model, int(state[HISTORY])


def _started() -> tuple[Model, Integers]:
    """A copy of the primed model, and the state of a coder that has coded nothing."""
    model, history = _primed()
    return Model(*(array.copy() for array in model)), workspace(np.array([0, TOP, 0, 0, history], dtype=np.int64))


def _workspace_of(data: bytes) -> Bytes:
    # A copy, because the function that may also write takes no read-only array.
    return workspace(np.frombuffer(bytearray(data), dtype=np.uint8))


def _encoded(raw: bytes, model: Model, state: Integers) -> bytes:
    # A decision never takes more than 9 bits.
    out = np.zeros(9 * len(raw), dtype=np.uint8)
    _code(_workspace_of(raw), model, state, out, False)
    kept, tail = _tail(state)
    return out[: state[POSITION]].tobytes() + int(tail).to_bytes(4, "big")[:kept]


@compiled
def _code(raw: Bytes, model: Model, state: Integers, data: Bytes, decodes: bool) -> None:
    """Code `raw` into `data` but for the end, or find it there, with :data:`PADDING` behind the code."""
    for index in range(len(raw)):
        node = 1
        for place in range(8):
            bit = (int(raw[index]) >> (7 - place)) & 1
            probability = _predict(node, state[HISTORY], model)
            if decodes:
                bit = 1 if state[CODE] <= _split(probability, state) else 0
            _narrow(bit, probability, state)
            while (state[LOW] ^ state[HIGH]) >> 24 == 0:
                if decodes:
                    state[CODE] = (state[CODE] << 8) & TOP | data[state[POSITION] + 4]
                else:
                    data[state[POSITION]] = state[HIGH] >> 24
                state[LOW] = (state[LOW] << 8) & TOP
                state[HIGH] = (state[HIGH] << 8) & TOP | 255
                state[POSITION] += 1
            _learn(bit, probability, model)
            node = node << 1 | bit
        raw[index] = node & 255
        state[HISTORY] = (state[HISTORY] << 8 | (node & 255)) & TOP
        # What lies this far behind the end is zeros that no encoder leaves out.
        if decodes and state[POSITION] > len(data) - PADDING:
            return


@compiled_part
def _split(probability: int, state: Integers) -> int:
    return int(state[LOW] + (((state[HIGH] - state[LOW]) * probability) >> 16))


@compiled_part
def _narrow(bit: int, probability: int, state: Integers) -> None:
    if bit:
        state[HIGH] = _split(probability, state)
    else:
        state[LOW] = _split(probability, state) + 1


@compiled
def _tail(state: Integers) -> tuple[int, int]:
    """Fewest bytes whose number, filled up with zeros, lies in the interval, and that number."""
    for kept in range(4):
        mask = TOP >> (8 * kept)
        tail = (state[LOW] + mask) & ~mask
        if tail <= state[HIGH]:
            return kept, tail
    return 4, state[LOW]


@compiled_part
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


@compiled_part
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
