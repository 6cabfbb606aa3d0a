"""The compiled loop of the ``small`` profile for small tensors: contexts, experts and mixing, in integers throughout.

A symbol is a sequence of binary decisions. Every decision is predicted by adaptive probabilities, one a context, and by
experts, logistic distributions around a predicted value. Their logits are added with adaptive weights, chosen by how
often the context was seen (after Mahoney, "Adaptive weighing of context models for lossless data compression", 2005).
Encoder and decoder run the same code. Every constant here is part of the file format.

Numba compiles a version of a function for every constant that it is called with, but not for ``int(constant)``; flags
and signs, the most frequent decisions, are worth a version.

Where nothing is compiled, a call, a field of a record, and a name of another module each take as long as the arithmetic
around them. The loops over all contexts of a decision therefore have none.
"""

from metaq.coding.context import binary
from metaq.coding.context import deep_model as deep
from metaq.coding.context.binary import (
    COARSE_SHIFT,
    COUNT_BITS,
    COUNT_MASK,
    HIGHEST_PROBABILITY,
    ONE,
    RATE_BITS,
    adapted,
    choose_or_narrow,
    clipped,
)
from metaq.coding.context.deep_contexts import UNIT, learn_symbol, set_contexts
from metaq.coding.context.deep_model import (
    COLUMN_CONTEXT,
    COLUMN_NODES,
    CONFIDENCES,
    CONTEXTS,
    COUNT_LIMIT,
    FLAG_NODE,
    INPUTS,
    SIGN_NODE,
    Model,
    Stream,
)
from metaq.coding.tables import CUMULATIVE_BITS, LOGIT_LIMIT
from metaq.compiled import Bytes, Integers, compiled, compiled_part

MIN_FLAGGED_ROW = 4
UNKNOWN_HINT = 2
NO_END = 0
WEIGHT_BITS = 16
WEIGHT_SHIFT = 24
WEIGHT_HALF = 1 << (WEIGHT_SHIFT - 1)
LEARNING_RATE = 20
LEARNING_GAIN = 400
LEARNING_TIME = 700
LENGTH_SETS = 3
FIRST_LENGTH_SET = 2
TOTAL = 1 << CUMULATIVE_BITS
EXPERT_FLOOR = 64
"""Mass that an expert leaves to what it takes to be impossible, of ``TOTAL``."""

LOGIT_SHIFT = 12
LAST_PLACE = 2 * LOGIT_LIMIT + 2
"""Of the cumulative table."""

OUTSIDE = 1 << 40
"""A residual that leads outside every alphabet."""


@compiled
def code_deep(start: int, stop: int, stream: Stream, model: Model, state: Integers, data: Bytes) -> int:
    """Code the symbols from `start` to `stop` or the end of a row without other symbols than the mode.

    Returns where the next call starts, or -1 if a decoded symbol is outside the alphabet.
    """
    row_length = stream.facts[deep.ROW]
    tally, trellis = model.tally, stream.trellis
    index = start
    while index < stop:
        column = index % row_length if row_length else index
        if column == 0:
            tally[deep.ROW_HITS], tally[deep.TRELLIS_STATE] = 0, 0
            tally[deep.BASE], tally[deep.VOTES] = stream.facts[deep.MODE], 1
            if row_length >= MIN_FLAGGED_ROW and not _code_row_flag(index, stream, model, state, data):
                for place in range(index, index + row_length):
                    stream.values[place] = stream.facts[deep.MODE]
                    stream.residuals[place] = stream.errors[place] = 0
                index += row_length
                continue
        set_contexts(index, column, stream, model)
        base = tally[deep.BASE]
        value = base + _code_residual(stream.values[index] - base, stream.facts, model, state, data)
        if state[binary.DECODES]:
            if value < 0 or value > stream.facts[deep.HIGHEST]:
                return -1
            stream.values[index] = value
        if len(stream.flags):
            stream.flags[index] = tally[deep.FLAG_PROBABILITY]
        learn_symbol(index, column, value, stream, model)
        if len(trellis):
            tally[deep.TRELLIS_STATE] = trellis[
                2 * tally[deep.TRELLIS_STATE] + ((value - stream.facts[deep.CENTRAL]) & 1)
            ]
        index += 1
    return index


@compiled_part
def _code_row_flag(index: int, stream: Stream, model: Model, state: Integers, data: Bytes) -> int:
    """Code whether the row from `index` on has other symbols than the mode."""
    row_length, mode = stream.facts[deep.ROW], stream.facts[deep.MODE]
    live = 0
    if not state[binary.DECODES]:
        place = index
        while place < index + row_length and stream.values[place] == mode:
            place += 1
        live = 1 if place < index + row_length else 0
    slot = deep.ROW_NODE + (stream.row_hints[index // row_length] if len(stream.row_hints) else UNKNOWN_HINT)
    probability = clipped(model.table[slot] >> COARSE_SHIFT)
    if len(stream.flags):
        stream.flags[index : index + row_length] = max(probability // row_length, binary.LOWEST_PROBABILITY)
    live = choose_or_narrow(probability, live, state, data)
    model.table[slot] = adapted(model.table[slot], live, deep.ROW_COUNT_LIMIT, model.rates)
    return live


@compiled_part
def _code_residual(residual: int, facts: Integers, model: Model, state: Integers, data: Bytes) -> int:
    """Code the decisions of `residual`; what was decoded, or `residual` itself."""
    differs = 1 if residual != 0 else 0
    if not _code(FLAG_NODE, differs, 0, 0, 0, model, state, data):
        return 0
    base = model.tally[deep.BASE]
    positive = 1 if residual > 0 else 0
    if base == 0 or base == facts[deep.HIGHEST]:
        positive = 1 if base == 0 else 0
    else:
        positive = _code(SIGN_NODE, positive, 0, 0, 0, model, state, data)
    model.tally[deep.SIGN] = 1 if positive else -1
    magnitude = abs(residual)
    further = 0
    node = deep.LENGTH_NODE + (deep.MAX_DIGITS if positive else 0)
    while _code(
        node + further,
        1 if magnitude >> (further + 1) else 0,
        1 << further,
        2 << further,
        int(NO_END),
        model,
        state,
        data,
    ):
        further += 1
        if further == deep.MAX_DIGITS:
            return OUTSIDE
    magnitude = _code_digits(magnitude, further, model, state, data)
    return magnitude if positive else -magnitude


@compiled_part
def _code_digits(magnitude: int, further: int, model: Model, state: Integers, data: Bytes) -> int:
    """Code the `further` digits of `magnitude` after the first; all of it."""
    node = deep.DIGIT_NODE + deep.DIGIT_NODES * min(further - 1, deep.DIGIT_LENGTHS - 1) - 1
    found = 1
    for place in range(further - 1, -1, -1):
        bit = (magnitude >> place) & 1
        if further - place <= deep.MODELLED_DIGITS:
            low = found << (place + 1)
            bit = _code(node + found, bit, low, low + (1 << place), low + (2 << place), model, state, data)
        else:
            bit = choose_or_narrow(int(binary.EVEN), bit, state, data)
        found = found << 1 | bit
    return found


@compiled_part
def _code(node: int, bit: int, low: int, middle: int, high: int, model: Model, state: Integers, data: Bytes) -> int:
    """Code a decision: whether the magnitude is in [middle, high) or in [low, middle), for nodes after the sign.

    If `high` is 0, there is no upper end.
    """
    if node < deep.LENGTH_NODE:
        chosen = node
    elif node < deep.DIGIT_NODE:
        chosen = FIRST_LENGTH_SET + min((node - deep.LENGTH_NODE) % deep.MAX_DIGITS, LENGTH_SETS - 1)
    else:
        chosen = deep.DIGIT_SET
    total = _ask_contexts(node, chosen, model) + _ask_experts(node, chosen, low, middle, high, model)
    logit = total >> WEIGHT_BITS
    logit = -LOGIT_LIMIT if logit < -LOGIT_LIMIT else (logit if logit < LOGIT_LIMIT else LOGIT_LIMIT)
    probability = clipped(model.logistic[logit + LOGIT_LIMIT + 1])
    if node == FLAG_NODE:
        model.tally[deep.FLAG_PROBABILITY] = probability
    bit = choose_or_narrow(probability, bit, state, data)
    decided = model.decided[chosen]
    model.decided[chosen] = decided + 1
    rate = LEARNING_RATE + LEARNING_GAIN * LEARNING_TIME // (LEARNING_TIME + decided)
    error = (bit * ONE - probability) * rate
    weights, table, rates = model.weights, model.table, model.rates
    for place, logit in zip(model.places, model.inputs):  # noqa: B905
        weights[place] += (logit * error + WEIGHT_HALF) >> WEIGHT_SHIFT
    target = HIGHEST_PROBABILITY if bit else 0
    slots = model.slots
    for context in range(CONTEXTS if node < COLUMN_NODES else COLUMN_CONTEXT):
        # As in :func:`adapted`.
        slot = slots[context]
        value = table[slot]
        seen = value & COUNT_MASK
        change = ((target - (value >> COUNT_BITS)) * rates[seen]) >> RATE_BITS
        table[slot] = value + (change << COUNT_BITS) + (1 if seen < COUNT_LIMIT else 0)
    return bit


@compiled_part
def _ask_contexts(node: int, chosen: int, model: Model) -> int:
    """Weighted logits of all contexts at a node."""
    table, contexts, slots, inputs, places = model.table, model.contexts, model.slots, model.inputs, model.places
    weights, logits, confidences = model.weights, model.logits, model.confidences
    total = 0
    ground = table[contexts[0] + node]
    first = chosen * INPUTS * CONFIDENCES
    for context in range(CONTEXTS):
        slot = contexts[context] + node
        if context == COLUMN_CONTEXT and node >= COLUMN_NODES:
            slot = contexts[0] + node
        value = table[slot]
        if value == 0:
            # Not seen yet: what is known without any context is the best guess.
            value = ground >> COUNT_BITS << COUNT_BITS
            table[slot] = value
        place = first + confidences[value & COUNT_MASK]
        first += CONFIDENCES
        logit = logits[value >> COARSE_SHIFT]
        slots[context] = slot
        inputs[context] = logit
        places[context] = place
        total += weights[place] * logit
    return total


@compiled_part
def _ask_experts(node: int, chosen: int, low: int, middle: int, high: int, model: Model) -> int:
    """Weighted logits of all experts at a node."""
    inputs, places, weights, logits = model.inputs, model.places, model.weights, model.logits
    confidences, scale_counts, classes = model.confidences, model.scale_counts, model.classes
    cumulative, edges = model.cumulative, model.edges
    total = 0
    first = (chosen * INPUTS + CONTEXTS) * CONFIDENCES
    # The distribution is mirrored where the residual is negative.
    sign = model.tally[deep.SIGN] if node > SIGN_NODE else 1
    for expert in range(deep.EXPERTS):
        mean, inverse = edges[2 * expert] * sign + UNIT // 2, edges[2 * expert + 1]
        if node <= SIGN_NODE:
            zero = cumulative[_place(-mean, inverse)]
            one = TOTAL - cumulative[_place(UNIT - mean, inverse)]
            if node == FLAG_NODE:
                zero = TOTAL - one - zero
                one = TOTAL - zero
        else:
            edge = cumulative[_place(UNIT * middle - mean, inverse)]
            one = (cumulative[_place(UNIT * high - mean, inverse)] if high else TOTAL) - edge
            zero = edge - cumulative[_place(UNIT * low - mean, inverse)]
        share = (one + EXPERT_FLOOR) * ONE // (one + zero + 2 * EXPERT_FLOOR)
        logit = logits[share if share < ONE else ONE - 1]
        seen = scale_counts[expert * deep.SCALE_CLASSES + classes[expert]]
        place = first + confidences[seen]
        first += CONFIDENCES
        inputs[CONTEXTS + expert] = logit
        places[CONTEXTS + expert] = place
        total += weights[place] * logit
    return total


@compiled_part
def _place(distance: int, inverse: int) -> int:
    """Where in the cumulative table a residual is that lies `distance` sixteenths above the mean."""
    place = ((distance * inverse) >> LOGIT_SHIFT) + LOGIT_LIMIT + 1
    return 0 if place < 0 else (place if place < LAST_PLACE else LAST_PLACE)
