"""A small context-mixing coder for the bytes of a file's header; docs/format.md describes it exactly.

A byte is eight binary decisions, the most significant bit first. Each is predicted by adaptive probabilities in the
contexts of the last 0, 1, 2, … bytes, whose logits are added with adaptive weights (Mahoney, "Adaptive weighing of
context models for lossless data compression", 2005). The model first runs over :data:`DICTIONARY`, the headers of a few
typical networks, so that the header of a small file costs little. All arithmetic is in integers, and every constant is
part of the file format.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from metaq.coding.tables import LOGIT_LIMIT, logistic_table, logit_table
from metaq.compiled import Bytes, Integers, Symbols, compiled, compiled_part, filled, workspace
from metaq.errors import CodecError

ORDERS = 5
"""Contexts of 0 to 4 bytes."""

BUCKET_BITS = 14
BUCKET = 16
SLOTS = BUCKET << BUCKET_BITS
"""Slots of an order's table: a bucket has those of half a byte in a context.

All of a bucket is found by comparing its number once, so that a device without room for the tables can go over the
bytes before instead.
"""

OF_CONTEXT, OF_HALF = 625341585, 2654435761
"""Factors that make a bucket's number of a context and of the first half of a byte."""

PROBABILITY_BITS = 22
COUNT_BITS = 5
COUNT_MASK = (1 << COUNT_BITS) - 1
COARSE_SHIFT = COUNT_BITS + PROBABILITY_BITS - 16
"""What is left of a slot without its lowest bits so many is its probability in units of 2**-16."""

COUNT_LIMIT = 30
INITIAL_WEIGHT = 22000
LEARNING_RATE = 4
WEIGHT_SHIFT = 16
WEIGHT_HALF = 1 << (WEIGHT_SHIFT - 1)
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

    A slot, of shape (ORDERS * SLOTS,), is the probability of a 1 times ``2**22`` and, in its lowest bits, how often it
    was used. Weights are times 65536, of shape (ORDERS * ORDERS,): a set for each longest context used before.
    `buckets` and `inputs`, of shape (ORDERS,), are of the current half of a byte and the current decision, and
    `chosen`, of shape (1,), is the first weight of its set. The tables are those of :mod:`metaq.coding.tables`.
    """

    slots: Symbols
    weights: Integers
    buckets: Integers
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
    model = Model(
        slots=filled(ORDERS * SLOTS, 1 << (PROBABILITY_BITS - 1 + COUNT_BITS)),
        weights=workspace(np.full(ORDERS * ORDERS, INITIAL_WEIGHT, dtype=np.int64)),
        buckets=workspace(np.zeros(ORDERS, dtype=np.int64)),
        inputs=workspace(np.zeros(ORDERS, dtype=np.int64)),
        chosen=workspace(np.zeros(1, dtype=np.int64)),
        logits=workspace(logit_table()),
        logistic=workspace(logistic_table()),
    )
    state = workspace(np.array([0, TOP, 0, 0, 0], dtype=np.int64))
    _encoded(DICTIONARY, model, state)
    return model, int(state[HISTORY])


def _started() -> tuple[Model, Integers]:
    """A copy of the primed model, and the state of a coder that has coded nothing."""
    model, history = _primed()
    return Model(*(cast(Any, array.copy()) for array in model)), workspace(
        np.array([0, TOP, 0, 0, history], dtype=np.int64)
    )


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
        byte, first = 0, 0
        for shift in (4, 0):
            _choose_buckets(state[HISTORY], first, model)
            node = 1
            for place in range(3, -1, -1):
                bit = (int(raw[index]) >> (shift + place)) & 1
                probability = _predict(node, model)
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
                _learn(node, bit, probability, model)
                node = node << 1 | bit
            first = node
            byte = byte << 4 | (node & 15)
        raw[index] = byte
        state[HISTORY] = (state[HISTORY] << 8 | byte) & TOP
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
def _choose_buckets(history: int, first: int, model: Model) -> None:
    """Buckets of half a byte; `first` is 0 for the first half, and 16 and that half for the second."""
    for order in range(ORDERS):
        context = history & ((1 << (8 * order)) - 1)
        mixed = (context * OF_CONTEXT + first * OF_HALF) & TOP
        model.buckets[order] = order * SLOTS + (mixed >> (32 - BUCKET_BITS)) * BUCKET


@compiled_part
def _predict(node: int, model: Model) -> int:
    """Probability of a 1 times 65536; where it comes from is left in `inputs` and `chosen`."""
    # Names of their own, because a field of a record takes long to find where nothing is compiled.
    slots, buckets, weights, inputs, logits = model.slots, model.buckets, model.weights, model.inputs, model.logits
    longest = 0
    for order in range(ORDERS):
        slot = int(slots[buckets[order] + node])
        if slot & COUNT_MASK:
            longest = order
        inputs[order] = logits[slot >> COARSE_SHIFT]
    first = longest * ORDERS
    total = 0
    for order in range(ORDERS):
        total += weights[first + order] * inputs[order]
    model.chosen[0] = first
    logit = min(max(total >> 16, -LOGIT_LIMIT), LOGIT_LIMIT)
    probability = int(model.logistic[logit + LOGIT_LIMIT + 1])
    return min(max(probability, LOWEST_PROBABILITY), 65536 - LOWEST_PROBABILITY)


@compiled_part
def _learn(node: int, bit: int, probability: int, model: Model) -> None:
    slots, buckets, weights, inputs = model.slots, model.buckets, model.weights, model.inputs
    first = model.chosen[0]
    error = ((bit << 16) - probability) * LEARNING_RATE
    target = ((1 << PROBABILITY_BITS) - 1) * bit
    for order in range(ORDERS):
        weights[first + order] += (inputs[order] * error + WEIGHT_HALF) >> WEIGHT_SHIFT
        place = buckets[order] + node
        slot = int(slots[place])
        value, count = slot >> COUNT_BITS, slot & COUNT_MASK
        value += ((target - value) * (131072 // (2 * count + 3))) >> 16
        slots[place] = value << COUNT_BITS | (count + 1 if count < COUNT_LIMIT else COUNT_LIMIT)
