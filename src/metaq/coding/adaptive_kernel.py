"""The compiled part of the adaptive coder: contexts, mixing and binary range coding, in integers throughout.

A symbol is a sequence of binary decisions (see :mod:`metaq.coding.adaptive`). Every decision is predicted by
``INPUTS`` adaptive probabilities, one a context, whose logits are added with adaptive weights (Mahoney, "Adaptive
weighing of context models for lossless data compression", 2005). Encoder and decoder run the same predictions, so that
no table is stored. Every constant here is part of the file format.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaq.coding.logistic import LOGIT_LIMIT, logistic_table, logit_table
from metaq.compiled import compiled

INPUTS = 9
NODES = 256
COLUMN_INPUT = 8
COLUMN_NODES = 4
MAX_COLUMNS = 1 << 20
CONTEXT_SIZES = (1, 64, 72, 32, 32, 1024, 66, 27)
OFFSETS = np.cumsum([0, *(size * NODES for size in CONTEXT_SIZES)])

PROBABILITY_BITS = 22
PRIOR_COUNT = 4
COUNT_LIMIT = 1023
LOWEST_PROBABILITY = 16
WEIGHT_SETS = 16
INITIAL_WEIGHT = 8192
LEARNING_RATE = 8
WEIGHT_SHIFT = 20

FLAG_NODE = 0
SIGN_NODE = 1
LENGTH_NODE = 2
MAX_DIGITS = 31
MANTISSA_NODE = LENGTH_NODE + MAX_DIGITS
MANTISSA_LENGTHS = 26
MODELLED_BITS = 3
MANTISSA_NODES = 7

EVEN = 1 << 15
TOP = 1 << 32
BOTTOM = 1 << 24
SPARE_BYTES = 256
"""More than a symbol can take: at most 64 decisions of at most 12 bits."""

LOW, WIDTH, POSITION, OFFSET = 0, 1, 2, 3
"""Places in a coder's state: lower end and width of the interval, bytes passed, and the code above the lower end."""

RECENT, ROW_HITS = 0, 1
"""Places in a model's tally: flags of the last 32 symbols, and how many of this row were not the mode."""


class Model(NamedTuple):
    """Everything that adapts, and scratch space.

    Attributes
    ----------
    probabilities, counts
        A slot a context and decision: probability of a 1 times ``2**22``, and how often it was seen, int32.
    weights
        Mixing weights times 65536, int64 of shape (WEIGHT_SETS, INPUTS).
    logits, logistic
        The tables of :mod:`metaq.coding.logistic`.
    contexts, slots, inputs
        Of the current symbol and decision, int64 of shape (INPUTS,).
    columns
        How many symbols of each column were not the mode, int64 of shape (row_length + 1,).
    tally
        See ``RECENT`` and ``ROW_HITS``.
    """

    probabilities: NDArray[np.int32]
    counts: NDArray[np.int32]
    weights: NDArray[np.int64]
    logits: NDArray[np.int64]
    logistic: NDArray[np.int64]
    contexts: NDArray[np.int64]
    slots: NDArray[np.int64]
    inputs: NDArray[np.int64]
    columns: NDArray[np.int64]
    tally: NDArray[np.int64]


def new_model(row_length: int) -> Model:
    """A model that has seen nothing, for rows of `row_length` symbols (0 if unknown)."""
    slots = int(OFFSETS[COLUMN_INPUT]) + COLUMN_NODES * max(min(row_length, MAX_COLUMNS), 1)
    return Model(
        probabilities=np.full(slots, 1 << (PROBABILITY_BITS - 1), dtype=np.int32),
        counts=np.zeros(slots, dtype=np.int32),
        weights=np.full((WEIGHT_SETS, INPUTS), INITIAL_WEIGHT, dtype=np.int64),
        logits=logit_table(),
        logistic=logistic_table(),
        contexts=np.zeros(INPUTS, dtype=np.int64),
        slots=np.zeros(INPUTS, dtype=np.int64),
        inputs=np.zeros(INPUTS, dtype=np.int64),
        columns=np.zeros(row_length + 1, dtype=np.int64),
        tally=np.zeros(2, dtype=np.int64),
    )


@compiled
def encode(
    residuals: NDArray[np.int64], row_length: int, negative: bool, positive: bool, model: Model
) -> NDArray[np.uint8]:
    """Coded bytes of `residuals`, the differences of symbols and mode, int64 of shape (n,).

    Parameters
    ----------
    residuals
        The stream.
    row_length
        Symbols of a row, 0 if unknown.
    negative, positive
        Whether the alphabet leaves room for residuals of that sign; if only for one, signs are not coded.
    model
        A new model, used up by the call.
    """
    state = np.array([0, TOP, 0, 0])
    data = np.zeros(4 * SPARE_BYTES, dtype=np.uint8)
    for index in range(residuals.size):
        if state[POSITION] + SPARE_BYTES > data.size:
            longer = np.zeros(2 * data.size, dtype=np.uint8)
            longer[: data.size] = data
            data = longer
        _set_contexts(residuals, index, row_length, model)
        residual = residuals[index]
        _encode_bit(FLAG_NODE, int(residual != 0), model, state, data)
        if residual != 0:
            if negative and positive:
                _encode_bit(SIGN_NODE, int(residual > 0), model, state, data)
            _encode_magnitude(abs(residual), model, state, data)
        _count(residual, index, row_length, model)
    dropped, tail = _tail(state)
    if tail >= TOP:
        _carry(state, data)
    for byte in range(4 - dropped):
        data[state[POSITION]] = (tail >> (24 - 8 * byte)) & 0xFF
        state[POSITION] += 1
    return data[: state[POSITION]]


@compiled
def decode(
    data: NDArray[np.uint8], row_length: int, negative: bool, positive: bool, model: Model, residuals: NDArray[np.int64]
) -> bool:
    """Fill `residuals` from `data`; whether `data` are exactly the bytes that :func:`encode` writes for them."""
    state = np.array([0, TOP, 0, 0])
    for _ in range(4):
        state[OFFSET] = state[OFFSET] << 8 | _next_byte(data, state)
    for index in range(residuals.size):
        _set_contexts(residuals, index, row_length, model)
        residual = 0
        if _decode_bit(FLAG_NODE, model, state, data):
            above_mode = positive
            if negative and positive:
                above_mode = _decode_bit(SIGN_NODE, model, state, data) == 1
            magnitude = _decode_magnitude(model, state, data)
            if magnitude == 0:
                return False
            residual = magnitude if above_mode else -magnitude
        residuals[index] = residual
        _count(residual, index, row_length, model)
    dropped, tail = _tail(state)
    window = (state[LOW] + state[OFFSET]) & (TOP - 1)
    return bool(data.size == state[POSITION] - dropped and window == tail & (TOP - 1))


@compiled
def _encode_magnitude(magnitude: int, model: Model, state: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
    further = 0
    while magnitude >> (further + 1):
        _encode_bit(LENGTH_NODE + further, 1, model, state, data)
        further += 1
    _encode_bit(LENGTH_NODE + further, 0, model, state, data)
    node = MANTISSA_NODE + MANTISSA_NODES * min(further - 1, MANTISSA_LENGTHS - 1) - 1
    prefix = 1
    for place in range(further):
        bit = (magnitude >> (further - 1 - place)) & 1
        if place < MODELLED_BITS:
            _encode_bit(node + prefix, bit, model, state, data)
            prefix = prefix << 1 | bit
        else:
            _narrow(EVEN, bit, state, data)


@compiled
def _decode_magnitude(model: Model, state: NDArray[np.int64], data: NDArray[np.uint8]) -> int:
    further = 0
    while _decode_bit(LENGTH_NODE + further, model, state, data):
        further += 1
        if further == MAX_DIGITS:
            return 0
    node = MANTISSA_NODE + MANTISSA_NODES * min(further - 1, MANTISSA_LENGTHS - 1) - 1
    prefix = 1
    magnitude = 1
    for place in range(further):
        if place < MODELLED_BITS:
            bit = _decode_bit(node + prefix, model, state, data)
            prefix = prefix << 1 | bit
        else:
            bit = _choose(EVEN, state, data)
        magnitude = magnitude << 1 | bit
    return magnitude


@compiled
def _encode_bit(node: int, bit: int, model: Model, state: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
    probability = _predict(node, model)
    _narrow(probability, bit, state, data)
    _learn(node, bit, probability, model)


@compiled
def _decode_bit(node: int, model: Model, state: NDArray[np.int64], data: NDArray[np.uint8]) -> int:
    probability = _predict(node, model)
    bit = _choose(probability, state, data)
    _learn(node, bit, probability, model)
    return bit


@compiled
def _narrow(probability: int, bit: int, state: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
    bound = (state[WIDTH] * probability) >> 16
    if bit:
        state[WIDTH] = bound
    else:
        state[LOW] += bound
        state[WIDTH] -= bound
        if state[LOW] >= TOP:
            state[LOW] -= TOP
            _carry(state, data)
    while state[WIDTH] < BOTTOM:
        data[state[POSITION]] = state[LOW] >> 24
        state[POSITION] += 1
        state[LOW] = (state[LOW] << 8) & (TOP - 1)
        state[WIDTH] <<= 8


@compiled
def _carry(state: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
    place = state[POSITION] - 1
    while data[place] == 255:
        data[place] = 0
        place -= 1
    data[place] += 1


@compiled
def _choose(probability: int, state: NDArray[np.int64], data: NDArray[np.uint8]) -> int:
    bound = (state[WIDTH] * probability) >> 16
    bit = int(state[OFFSET] < bound)
    if bit:
        state[WIDTH] = bound
    else:
        state[LOW] = (state[LOW] + bound) & (TOP - 1)
        state[OFFSET] -= bound
        state[WIDTH] -= bound
    while state[WIDTH] < BOTTOM:
        state[LOW] = (state[LOW] << 8) & (TOP - 1)
        state[WIDTH] <<= 8
        state[OFFSET] = state[OFFSET] << 8 | _next_byte(data, state)
    return bit


@compiled
def _next_byte(data: NDArray[np.uint8], state: NDArray[np.int64]) -> int:
    position = state[POSITION]
    state[POSITION] += 1
    return int(data[position]) if position < data.size else 0


@compiled
def _tail(state: NDArray[np.int64]) -> tuple[int, int]:
    """How many of the last four bytes can be left out, and the number in the interval that allows it."""
    for dropped in (4, 3, 2, 1):
        mask = (1 << (8 * dropped)) - 1
        tail = (state[LOW] + mask) & ~mask
        if tail < state[LOW] + state[WIDTH]:
            return dropped, tail
    return 0, state[LOW]


@compiled
def _predict(node: int, model: Model) -> int:
    """Probability of a 1 times 65536, and where it comes from in ``slots`` and ``inputs``."""
    weights = model.weights[min(node, WEIGHT_SETS - 1)]
    total = 0
    for place in range(INPUTS):
        slot = node
        if place < COLUMN_INPUT:
            slot = OFFSETS[place] + model.contexts[place] * NODES + node
        elif node < COLUMN_NODES:
            slot = OFFSETS[place] + model.contexts[place] * COLUMN_NODES + node
        if slot != node and model.counts[slot] == 0:
            # A context never seen starts from what is known of this decision in general.
            model.probabilities[slot] = model.probabilities[node]
            model.counts[slot] = PRIOR_COUNT
        model.slots[place] = slot
        model.inputs[place] = model.logits[model.probabilities[slot] >> (PROBABILITY_BITS - 16)]
        total += weights[place] * model.inputs[place]
    logit = min(max(total >> 16, -LOGIT_LIMIT), LOGIT_LIMIT)
    probability = model.logistic[logit + LOGIT_LIMIT + 1]
    return int(min(max(probability, LOWEST_PROBABILITY), 65536 - LOWEST_PROBABILITY))


@compiled
def _learn(node: int, bit: int, probability: int, model: Model) -> None:
    weights = model.weights[min(node, WEIGHT_SETS - 1)]
    error = ((bit << 16) - probability) * LEARNING_RATE
    target = ((1 << PROBABILITY_BITS) - 1) * bit
    for place in range(INPUTS):
        weights[place] += (model.inputs[place] * error + (1 << (WEIGHT_SHIFT - 1))) >> WEIGHT_SHIFT
        slot = model.slots[place]
        if place > 0 and slot == node:
            continue
        count = int(model.counts[slot])
        rate = (2 << 16) // (2 * count + 3)
        value = int(model.probabilities[slot])
        model.probabilities[slot] = value + (((target - value) * rate) >> 16)
        model.counts[slot] = min(count + 1, COUNT_LIMIT)


@compiled
def _set_contexts(residuals: NDArray[np.int64], index: int, row_length: int, model: Model) -> None:
    """Contexts of the symbol at `index` from the symbols before it; outside the matrix residuals count as 0."""
    left = residuals[index - 1] if index > 0 else 0
    row, column, above, above_left, above_right, second_above, column_hits = 0, index, 0, 0, 0, 0, 0
    if row_length:
        row, column = index // row_length, index % row_length
        column_hits = model.columns[column]
        if row > 0:
            above = residuals[index - row_length]
            above_left = residuals[index - row_length - 1] if column > 0 else 0
            above_right = residuals[index - row_length + 1] if column + 1 < row_length else 0
        if row > 1:
            second_above = residuals[index - 2 * row_length]
    if column == 0:
        model.tally[ROW_HITS] = 0
    recent = model.tally[RECENT]
    size_left, size_above = min(abs(left), 2), min(abs(above), 2)
    around = int(above_left != 0) << 2 | int(above_right != 0) << 1 | int(second_above != 0)
    model.contexts[1] = recent & 63
    model.contexts[2] = (size_left * 3 + size_above) << 3 | around
    model.contexts[3] = _density(column_hits, row)
    model.contexts[4] = _density(model.tally[ROW_HITS], column)
    model.contexts[5] = model.contexts[3] << 5 | model.contexts[4]
    model.contexts[6] = _ones(recent) << 1 | int(left != 0)
    model.contexts[7] = (np.sign(left) + 1) * 9 + (np.sign(above) + 1) * 3 + size_left
    model.contexts[8] = column & (MAX_COLUMNS - 1) if row_length else 0


@compiled
def _count(residual: int, index: int, row_length: int, model: Model) -> None:
    hit = int(residual != 0)
    model.tally[RECENT] = (model.tally[RECENT] << 1 | hit) & (TOP - 1)
    model.tally[ROW_HITS] += hit
    if row_length:
        model.columns[index % row_length] += hit


@compiled
def _density(hits: int, seen: int) -> int:
    """One of 32 classes of `hits` out of `seen`."""
    level = 0
    if hits == 0:
        while level < 7 and seen >> level:
            level += 1
        return level
    while level < 7 and hits << level < seen:
        level += 1
    amount = 0 if hits == 1 else (1 if hits < 4 else 2)
    return 8 + 8 * amount + level


@compiled
def _ones(bits: int) -> int:
    number = 0
    while bits:
        bits &= bits - 1
        number += 1
    return number
