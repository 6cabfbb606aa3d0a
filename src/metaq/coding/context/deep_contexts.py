"""Where a symbol is, as the deep recipe of the ``small`` profile sees it: contexts, classes of scale, and learning.

Every constant here is part of the file format.
"""

from metaq.coding.context import deep_model as deep
from metaq.coding.context.binary import RATE_BITS
from metaq.coding.context.deep_model import Model, Stream
from metaq.coding.context.prediction import COEFFICIENT_BITS
from metaq.coding.tables import LARGEST, LEVELS
from metaq.compiled import Integers, Symbols, compiled_part

UNIT = 16
"""Distances and predicted values are in sixteenths."""

SCALE_LIMIT = 60
LOGISTIC_SHARE, LOGISTIC_BITS = 185, 8
"""The scale of a logistic distribution is 1 / (2 log 2) of its mean distance: 185 / 2**8."""

LOWEST_SCALE = 256
INVERSE_BITS = 28
LARGEST_DISTANCE = 1 << 35
"""Larger distances, of alphabets of 2**31 alone, teach as this one does, so that no product leaves 64 bits."""

MOST_VOTES = 8
FLAG_MASK = (1 << 32) - 1
MOST_EMPTY, MOST_DILUTED = 7, 7
"""Classes of density: of nothing in 2**k and more symbols, and of hits that double k times up to them, k limited so."""


@compiled_part
def set_contexts(index: int, column: int, stream: Stream, model: Model) -> None:
    """Find the contexts and the experts' distributions for the symbol at `index`."""
    row_length = stream.facts[deep.ROW]
    residuals, errors = stream.residuals, stream.errors
    left = int(residuals[index - 1]) if index > 0 else 0
    second_left = int(residuals[index - 2]) if index > 1 else 0
    error_left = int(errors[index - 1]) if index > 0 else 0
    error_second_left = int(errors[index - 2]) if index > 1 else 0
    above, above_left, above_right, second_above = 0, 0, 0, 0
    error_above, error_second_above = 0, 0
    row, column_hits = 0, 0
    if row_length:
        row, column_hits = index // row_length, stream.columns[column]
        place = index - row_length
        if row > 0:
            above, error_above = int(residuals[place]), int(errors[place])
            above_left = int(residuals[place - 1]) if column > 0 else 0
            above_right = int(residuals[place + 1]) if column + 1 < row_length else 0
        if row > 1:
            second_above, error_second_above = int(residuals[place - row_length]), int(errors[place - row_length])
    period = stream.facts[deep.PERIOD]
    error_period = int(errors[index - period]) if 0 < period <= index else error_left
    near = 2 * abs(left) + abs(second_left) + abs(above)
    levels, contexts, classes = model.levels, model.contexts, model.classes
    near_class = levels[_at_most(UNIT // 4 * near, LARGEST)]
    along = levels[_at_most(2 * error_left + error_period + error_second_left, LARGEST)]
    across = levels[_at_most(2 * error_above + error_second_above, LARGEST)]
    around = (4 if above_left != 0 else 0) | (2 if above_right != 0 else 0) | (1 if second_above != 0 else 0)
    density = _density(column_hits, row)
    _set_flag_contexts(left, above, around, density, _density(model.tally[deep.ROW_HITS], column), model)
    contexts[8] = deep.FIRST_SIZE + deep.NODES * (
        _at_most(near_class, deep.NEAR_CLASSES - 1) * deep.ACROSS_CLASSES + _at_most(across, deep.ACROSS_CLASSES - 1)
    )
    contexts[10] = deep.FIRST_HINT + deep.NODES * _hint(row, column, stream)
    contexts[deep.COLUMN_CONTEXT] = deep.FIRST_COLUMN + deep.COLUMN_NODES * (
        _surroundings(index, column, left, above, stream)
        if len(stream.given)
        else (column & (deep.MAX_COLUMNS - 1) if row_length else 0)
    )
    classes[0] = along
    classes[1] = across
    classes[2] = along * LEVELS + across
    classes[3] = near_class * LEVELS + _at_most(density, LEVELS - 1)
    _set_experts(index, stream, model)


@compiled_part
def _set_flag_contexts(left: int, above: int, around: int, column_density: int, row_density: int, model: Model) -> None:
    """Contexts of nearby symbols as such: which are not the base, on which side of it, and how many."""
    contexts = model.contexts
    recent = model.tally[deep.RECENT]
    size_left, size_above = _at_most(abs(left), 2), _at_most(abs(above), 2)
    clipped_left = _within(left, deep.LARGEST_LEFT) + deep.LARGEST_LEFT
    sign_left, sign_above = _within(left, 1) + 1, _within(above, 1) + 1
    contexts[0] = deep.NODES * (model.tally[deep.TRELLIS_STATE] & 1)
    contexts[1] = deep.FIRST_RECENT + deep.NODES * (recent & (deep.RECENT_FLAGS - 1))
    contexts[2] = deep.FIRST_NEIGHBOUR + deep.NODES * (8 * (3 * size_left + size_above) + around)
    contexts[3] = deep.FIRST_COLUMN_DENSITY + deep.NODES * column_density
    contexts[4] = deep.FIRST_ROW_DENSITY + deep.NODES * row_density
    contexts[5] = deep.FIRST_BOTH_DENSITIES + deep.NODES * (32 * column_density + row_density)
    contexts[6] = deep.FIRST_FLAG_NUMBER + deep.NODES * (2 * _ones(recent) + (1 if left != 0 else 0))
    contexts[7] = deep.FIRST_SIGN + deep.NODES * (9 * sign_left + 3 * sign_above + size_left)
    contexts[11] = deep.FIRST_LEFT + deep.NODES * (3 * clipped_left + sign_above)


@compiled_part
def _set_experts(index: int, stream: Stream, model: Model) -> None:
    """Predicted value, its context, and the distribution of every expert, whose classes are known."""
    tally, edges, scales, classes = model.tally, model.edges, model.scales, model.classes
    tally[deep.MEAN] = UNIT * stream.facts[deep.MODE] + (_predict(index, stream) if stream.facts[deep.PERIOD] else 0)
    offset = tally[deep.MEAN] - UNIT * tally[deep.BASE]
    shown = stream.given[index] if len(stream.given) else offset >> 3
    model.contexts[9] = deep.FIRST_OFFSET + deep.NODES * _at_most(max(shown + deep.OFFSETS // 2, 0), deep.OFFSETS - 1)
    for expert in range(deep.EXPERTS):
        scale = (scales[expert * deep.SCALE_CLASSES + classes[expert]] * LOGISTIC_SHARE) >> LOGISTIC_BITS
        edges[2 * expert] = 0 if expert == deep.BASE_EXPERT else offset
        edges[2 * expert + 1] = (1 << INVERSE_BITS) // (scale if scale > LOWEST_SCALE else LOWEST_SCALE)


@compiled_part
def _predict(index: int, stream: Stream) -> int:
    """Linear prediction of the symbol at `index` less the mode, in 1/16; see :class:`Prediction`."""
    period, mode = stream.facts[deep.PERIOD], stream.facts[deep.MODE]
    values, coefficients = stream.values, stream.coefficients
    total = coefficients[0] * _before(values, index, 1, mode)
    total += coefficients[1] * _before(values, index, period, mode)
    total += coefficients[2] * _before(values, index, period + 1, mode)
    total += coefficients[3] * _before(values, index, period - 1, mode)
    total += coefficients[4] * _before(values, index, 2, mode)
    total += coefficients[5] * _before(values, index, stream.facts[deep.ROW], mode)
    return int((total * UNIT) >> COEFFICIENT_BITS)


@compiled_part
def learn_symbol(index: int, column: int, value: int, stream: Stream, model: Model) -> None:
    """Learn from the symbol at `index`, which is `value`."""
    tally, classes, scales, counts, rates = model.tally, model.classes, model.scales, model.scale_counts, model.rates
    residual = value - tally[deep.BASE]
    differs = 1 if value != stream.facts[deep.MODE] else 0
    tally[deep.RECENT] = (tally[deep.RECENT] << 1 | (1 if residual != 0 else 0)) & FLAG_MASK
    tally[deep.ROW_HITS] += differs
    if stream.facts[deep.ROW]:
        stream.columns[column] += differs
    error = min(abs(UNIT * value - tally[deep.MEAN]), LARGEST_DISTANCE)
    stream.residuals[index] = residual
    stream.errors[index] = _at_most(error, LARGEST)
    for expert in range(deep.EXPERTS):
        place = expert * deep.SCALE_CLASSES + classes[expert]
        distance = UNIT * abs(residual) if expert == deep.BASE_EXPERT else error
        count = counts[place]
        scales[place] += (((distance << deep.SCALE_BITS) - scales[place]) * rates[count]) >> RATE_BITS
        if count < SCALE_LIMIT:
            counts[place] = count + 1
    if stream.facts[deep.ROW_BASE]:
        _vote(value, residual, tally)


@compiled_part
def _vote(value: int, residual: int, tally: Integers) -> None:
    """Let the base follow the symbols, once more of them speak against it than lately spoke for it."""
    if residual == 0:
        tally[deep.VOTES] = min(tally[deep.VOTES] + 1, MOST_VOTES)
    elif tally[deep.VOTES] > 0:
        tally[deep.VOTES] -= 1
    else:
        tally[deep.BASE], tally[deep.VOTES] = value, 0


@compiled_part
def _at_most(number: int, limit: int) -> int:
    """The smaller one; `min` takes twice as long where nothing is compiled."""
    return number if number < limit else limit


@compiled_part
def _within(number: int, limit: int) -> int:
    """`number`, or the nearer of `limit` and its opposite."""
    return -limit if number < -limit else (number if number < limit else limit)


@compiled_part
def _before(values: Symbols, index: int, distance: int, origin: int = 0) -> int:
    """What is `distance` before `index`, less `origin`; 0 if that is before the first."""
    return int(values[index - distance]) - origin if index >= distance else 0


@compiled_part
def _surroundings(index: int, column: int, left: int, above: int, stream: Stream) -> int:
    """What the base of an update has here and around, and whether symbols before were changed: one of 256."""
    given, row_length = stream.given, stream.facts[deep.ROW]
    last = row_length - 1 if row_length else len(given) - 1
    found = min(abs(given[index]), 3)
    found = found << 1 | (1 if column > 0 and given[index - 1] != 0 else 0)
    found = found << 1 | (1 if column < last and given[index + 1] != 0 else 0)
    found = found << 1 | (1 if 0 < row_length <= index and given[index - row_length] != 0 else 0)
    found = found << 1 | (1 if row_length and index + row_length < len(given) and given[index + row_length] != 0 else 0)
    return int(found << 2 | (2 if left != 0 else 0) | (1 if above != 0 else 0))


@compiled_part
def _hint(row: int, column: int, stream: Stream) -> int:
    """What earlier streams tell of the row and the column: one of nine."""
    hint = 0
    if len(stream.row_hints):
        hint += 1 + stream.row_hints[row]
    if len(stream.column_hints):
        hint += 3 * (1 + stream.column_hints[column])
    return hint


@compiled_part
def _density(hits: int, seen: int) -> int:
    """One of 32 classes of `hits` out of `seen`."""
    level = 0
    if hits == 0:
        while level < MOST_EMPTY and seen >> level:
            level += 1
        return level
    while level < MOST_DILUTED and hits << level < seen:
        level += 1
    amount = 0 if hits == 1 else (1 if hits < 4 else 2)
    return 8 + 8 * amount + level


@compiled_part
def _ones(bits: int) -> int:
    number = 0
    while bits:
        bits &= bits - 1
        number += 1
    return number
