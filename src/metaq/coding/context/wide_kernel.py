"""The compiled loop of the ``small`` profile for large tensors: four contexts of local scale, mixed; quick.

A symbol's distance from the mode is the decisions: is it not 0; with d binary digits of the magnitude, d - 1
decisions 1 and one 0; its sign; the digits after the first, of which the first three are modelled. The first and the
lengths are predicted by four adaptive probabilities whose logits are mixed, the sign and the digits by one. Encoder and
decoder share the loop. Every constant here is part of the file format.
"""

from typing import NamedTuple

import numpy as np

from metaq.coding.context import binary
from metaq.coding.context.binary import BOTTOM, TOP, adapted, carry, clipped, rate_table
from metaq.coding.tables import (
    FINE_LEVELS,
    LARGEST,
    LEVELS,
    LOGIT_LIMIT,
    fine_level_table,
    level_table,
    logistic_table,
    logit_table,
)
from metaq.compiled import Bytes, Integers, Symbols, compiled, workspace

QUANTIZERS = 2
MIXED_NODES = 32
"""Decisions that are mixed: the flag, then the lengths; the last one is never a 1."""

NEAR = QUANTIZERS
EXPECTED = NEAR + QUANTIZERS * LEVELS
JOINT = EXPECTED + QUANTIZERS * FINE_LEVELS
JOINT_CLASSES = FINE_LEVELS // 2
"""First context of each of the last three kinds, and of how many classes of scale the last one knows."""

SIGN_SLOT = (JOINT + LEVELS * JOINT_CLASSES) * MIXED_NODES
DIGIT_SLOTS = SIGN_SLOT + 2
MODELLED_DIGITS = 3
DIGIT_NODES = 1 << MODELLED_DIGITS
SLOTS = DIGIT_SLOTS + DIGIT_NODES * MIXED_NODES
"""Slots of the decisions that are not mixed come after the others; the one after that of the sign is not used."""

INPUTS = 4
COUNT_LIMIT = 4000
INITIAL_WEIGHT = 17000
WEIGHT_BITS = 16
LEARNING_RATE = 3
WEIGHT_SHIFT = 20
WEIGHT_ROUNDING = 1 << (WEIGHT_SHIFT - 1)

SCALE_BITS = 12
"""Column scales are in units of 2**-12."""

UNIT_SCALE = 1 << SCALE_BITS
RATIO_BITS = 8
EXPECTED_SHIFT = 6
PRIOR_SYMBOLS = 32
MAX_ROWS = 150
WINDOW = 256 << SCALE_BITS
ENOUGH = 1 << 26
"""Factors of the expected scale beyond this put it into its highest class whatever the other one is."""

LARGEST_SUM = (1 << 55) - 1
LARGEST_MAGNITUDE = 1 << 30
"""Sums and scales stop here, so that no product leaves 64 bits."""

TRELLIS_STATE, ROW_SUM, ROW_EXPECTED, COLUMN, ROW, LEFT, SECOND = range(7)
"""Places in the memory that goes from call to call."""


class Model(NamedTuple):
    """Everything that adapts, and constant tables; all arrays have one dimension.

    `table` has a slot for every context and decision. Mixing weights are times 65536, four a decision; `columns` are
    mean magnitudes times 4096, empty without rows; for `memory` see ``TRELLIS_STATE`` and the names after it.
    """

    table: Integers
    weights: Integers
    columns: Integers
    memory: Integers
    levels: Integers
    fine_levels: Integers
    rates: Integers
    logits: Integers
    logistic: Integers


def new_model(row_length: int) -> Model:
    """A model that has seen nothing, for a stream with such rows, or none if that is 0."""
    memory = np.zeros(7, dtype=np.int64)
    memory[[ROW_SUM, ROW_EXPECTED]] = PRIOR_SYMBOLS << SCALE_BITS
    return Model(
        table=workspace(np.full(SLOTS, 1 << (binary.PROBABILITY_BITS - 1 + binary.COUNT_BITS), dtype=np.int64)),
        weights=workspace(np.full(INPUTS * MIXED_NODES, INITIAL_WEIGHT, dtype=np.int64)),
        columns=workspace(np.zeros(row_length, dtype=np.int64)),
        memory=workspace(memory),
        levels=workspace(level_table()),
        fine_levels=workspace(fine_level_table()),
        rates=rate_table(COUNT_LIMIT),
        logits=workspace(logit_table()),
        logistic=workspace(logistic_table()),
    )


@compiled
def code_wide(
    values: Symbols,
    start: int,
    stop: int,
    row_length: int,
    mode: int,
    alphabet_size: int,
    trellis: Integers,
    model: Model,
    state: Integers,
    data: Bytes,
) -> int:
    """Code the symbols from `start` to before `stop` of a stream, changing `values` where they are decoded.

    All that is in use is in local variables, which makes the loop twice as fast. `row_length` divides the stream and is
    less, or is 0; `trellis` (see :func:`metaq.tensors.trellis.transitions`) is empty if there is none. Returns `stop`,
    or -1 if a decoded symbol is outside the alphabet.
    """
    table, weights, columns, memory, levels, fine_levels, rates, logits, logistic = model
    decodes = state[binary.DECODES] != 0
    low, width, position, offset = state[binary.LOW], state[binary.WIDTH], state[binary.POSITION], state[binary.OFFSET]
    size = len(data)
    central = (alphabet_size - 1) // 2
    trellis_state, row, column = memory[TRELLIS_STATE], memory[ROW], memory[COLUMN]
    row_sum, row_expected = memory[ROW_SUM], memory[ROW_EXPECTED]
    # Above to the right, and in the last column the first symbol of the row, but never a symbol that is yet to come.
    beside_lag = max(row_length - 1, 1)
    left, second = memory[LEFT], memory[SECOND]
    for index in range(start, stop):
        quantizer = trellis_state & 1
        above, beside = 0, 0
        if row_length:
            if index >= row_length:
                above = abs(values[index - row_length] - mode)
                beside = abs(values[index - beside_lag] - mode)
            column_scale = columns[column]
        else:
            column_scale = UNIT_SCALE
        near = levels[min(4 * (2 * left + second + 2 * above + beside), LARGEST)]
        ratio = min((row_sum << RATIO_BITS) // row_expected, ENOUGH)
        expected = (min(column_scale, ENOUGH) * ratio) >> RATIO_BITS
        fine = fine_levels[min(expected >> EXPECTED_SHIFT, LARGEST)]
        first = quantizer * MIXED_NODES
        by_near = (NEAR + QUANTIZERS * near + quantizer) * MIXED_NODES
        by_scale = (EXPECTED + QUANTIZERS * fine + quantizer) * MIXED_NODES
        by_both = (JOINT + near * JOINT_CLASSES + (fine >> 1)) * MIXED_NODES
        residual = 0
        magnitude = 0
        positive = 0
        if not decodes:
            residual = values[index] - mode
            magnitude = abs(residual)
            positive = int(residual > 0)
        # Stage 0 is the flag, stages 1, 2, … the lengths.
        stage = 0
        while True:
            slot_a, slot_b, slot_c, slot_d = first + stage, by_near + stage, by_scale + stage, by_both + stage
            value_a, value_b, value_c, value_d = table[slot_a], table[slot_b], table[slot_c], table[slot_d]
            logit_a, logit_b = logits[value_a >> binary.COARSE_SHIFT], logits[value_b >> binary.COARSE_SHIFT]
            logit_c, logit_d = logits[value_c >> binary.COARSE_SHIFT], logits[value_d >> binary.COARSE_SHIFT]
            place = INPUTS * stage
            weight_a, weight_b = weights[place], weights[place + 1]
            weight_c, weight_d = weights[place + 2], weights[place + 3]
            total = weight_a * logit_a + weight_b * logit_b + weight_c * logit_c + weight_d * logit_d
            logit = min(max(total >> WEIGHT_BITS, -LOGIT_LIMIT), LOGIT_LIMIT)
            probability = clipped(logistic[logit + LOGIT_LIMIT + 1])
            bound = (width * probability) >> 16
            bit = int(offset < bound) if decodes else int((magnitude >> stage) != 0)
            if bit:
                width = bound
            else:
                low += bound
                offset -= bound
                width -= bound
            while width < BOTTOM:
                if decodes:
                    offset = offset << 8 | (int(data[position]) if position < size else 0)
                    low &= TOP - 1
                else:
                    if low >= TOP:
                        low -= TOP
                        carry(position, data)
                    data[position] = low >> 24
                position += 1
                low = (low << 8) & (TOP - 1)
                width <<= 8
            error = ((bit << 16) - probability) * LEARNING_RATE
            weights[place] = weight_a + ((logit_a * error + WEIGHT_ROUNDING) >> WEIGHT_SHIFT)
            weights[place + 1] = weight_b + ((logit_b * error + WEIGHT_ROUNDING) >> WEIGHT_SHIFT)
            weights[place + 2] = weight_c + ((logit_c * error + WEIGHT_ROUNDING) >> WEIGHT_SHIFT)
            weights[place + 3] = weight_d + ((logit_d * error + WEIGHT_ROUNDING) >> WEIGHT_SHIFT)
            table[slot_a] = adapted(value_a, bit, COUNT_LIMIT, rates)
            table[slot_b] = adapted(value_b, bit, COUNT_LIMIT, rates)
            table[slot_c] = adapted(value_c, bit, COUNT_LIMIT, rates)
            table[slot_d] = adapted(value_d, bit, COUNT_LIMIT, rates)
            if not bit:
                break
            stage += 1
            if stage == MIXED_NODES:
                return -1
        if stage > 0:
            # The sign, at the place of the first digit, then the digits after that.
            further = stage - 1
            found = 1
            for place in range(further, -1, -1):
                modelled = further - place <= MODELLED_DIGITS
                probability = binary.EVEN
                value = 0
                slot = SIGN_SLOT if place == further else DIGIT_SLOTS + DIGIT_NODES * further + found
                if modelled:
                    value = table[slot]
                    probability = clipped(value >> binary.COARSE_SHIFT)
                bound = (width * probability) >> 16
                if decodes:
                    bit = int(offset < bound)
                elif place == further:
                    bit = positive
                else:
                    bit = (magnitude >> place) & 1
                if bit:
                    width = bound
                else:
                    low += bound
                    offset -= bound
                    width -= bound
                while width < BOTTOM:
                    if decodes:
                        offset = offset << 8 | (int(data[position]) if position < size else 0)
                        low &= TOP - 1
                    else:
                        if low >= TOP:
                            low -= TOP
                            carry(position, data)
                        data[position] = low >> 24
                    position += 1
                    low = (low << 8) & (TOP - 1)
                    width <<= 8
                if modelled:
                    table[slot] = adapted(value, bit, COUNT_LIMIT, rates)
                if place == further:
                    positive = bit
                else:
                    found = found << 1 | bit
            if decodes:
                magnitude = found
                residual = found if positive else -found
        if decodes:
            value = mode + residual
            if value < 0 or value >= alphabet_size:
                return -1
            values[index] = value
        second = left
        left = magnitude
        scaled = min(magnitude, LARGEST_MAGNITUDE) << SCALE_BITS
        row_sum = min(row_sum + scaled, LARGEST_SUM)
        row_expected = min(row_expected + column_scale, LARGEST_SUM)
        if len(trellis):
            trellis_state = trellis[2 * trellis_state + ((values[index] - central) & 1)]
        if row_length:
            change = (scaled - column_scale) * rates[min(row + 1, MAX_ROWS)]
            columns[column] = column_scale + (change >> binary.RATE_BITS)
            column += 1
            if column == row_length:
                column, trellis_state = 0, 0
                row += 1
                row_sum = row_expected = PRIOR_SYMBOLS * max(row_expected // (row_length + PRIOR_SYMBOLS), 1)
        elif row_expected > WINDOW:
            row_sum, row_expected = row_sum >> 1, row_expected >> 1
    if low >= TOP:
        low -= TOP
        if not decodes:
            carry(position, data)
    state[binary.LOW], state[binary.WIDTH], state[binary.POSITION], state[binary.OFFSET] = low, width, position, offset
    memory[TRELLIS_STATE], memory[ROW], memory[COLUMN] = trellis_state, row, column
    memory[ROW_SUM], memory[ROW_EXPECTED] = row_sum, row_expected
    memory[LEFT], memory[SECOND] = left, second
    return int(stop)
