"""The compiled searches for levels that minimise distortion + λ · bits along one row of the scan."""

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.quantize.rates import MAX_LEVEL

INFINITE = 1e300


@compiled
def choose_levels(
    targets: NDArray[np.float64],
    importances: NDArray[np.float64],
    classes: NDArray[np.uint8],
    costs: NDArray[np.float64],
    limit: int,
    levels: NDArray[np.int32],
) -> None:
    """Fill `levels` one by one: the least of ``importance * (target - level)**2 + cost`` among three candidates.

    Targets are weights less the centre, in steps; importances are curvature over λ: what a squared step is worth in
    bits. For classes and costs see :mod:`metaq.quantize.rates`; quantiser 0 is used. `limit` is the largest magnitude
    that the grid holds.
    """
    for place in range(targets.size):
        size = abs(targets[place])
        nearest = min(int(size + 0.5), limit)
        best, chosen = INFINITE, 0
        for candidate in (nearest, max(nearest - 1, 0), 0):
            distance = size - candidate
            cost = importances[place] * distance * distance + _bits(costs, 0, classes[place], candidate)
            if cost < best:
                best, chosen = cost, candidate
        levels[place] = chosen if targets[place] >= 0 else -chosen


@compiled
def choose_path(
    targets: NDArray[np.float64],
    importances: NDArray[np.float64],
    classes: NDArray[np.uint8],
    costs: NDArray[np.float64],
    limit: int,
    predecessors: NDArray[np.int32],
    levels: NDArray[np.int32],
) -> None:
    """Fill `levels` with the path through the trellis of the least total cost (Viterbi); arguments as above.

    `predecessors` are for every state its two, each as ``2 * state + parity``, (2 * states,). The path starts in state
    0.
    """
    number = targets.size
    states = predecessors.size // 2
    candidates = np.zeros((number, 4), dtype=np.int32)
    turns = np.zeros((number, states), dtype=np.uint8)
    total = np.full(states, INFINITE)
    total[0] = 0.0
    following = np.empty(states)
    branch = np.empty(4)
    # Branches are numbered 2 * quantiser + parity; those of a state and parity are fixed.
    first = np.empty(states, dtype=np.int64)
    second = np.empty(states, dtype=np.int64)
    first_branch = np.empty(states, dtype=np.int64)
    second_branch = np.empty(states, dtype=np.int64)
    for state in range(states):
        first[state], second[state] = predecessors[2 * state] >> 1, predecessors[2 * state + 1] >> 1
        first_branch[state] = 2 * (first[state] & 1) + (predecessors[2 * state] & 1)
        second_branch[state] = 2 * (second[state] & 1) + (predecessors[2 * state + 1] & 1)
    for place in range(number):
        size = abs(targets[place])
        for quantizer in range(2):
            for parity in range(2):
                level, cost = _best_of_parity(size, quantizer, parity, importances[place], classes[place], costs, limit)
                branch[2 * quantizer + parity] = cost
                candidates[place, 2 * quantizer + parity] = level
        row = turns[place]
        for state in range(states):
            one = total[first[state]] + branch[first_branch[state]]
            other = total[second[state]] + branch[second_branch[state]]
            row[state] = other < one
            following[state] = min(one, other)
        least = following[0]
        for state in range(1, states):
            least = min(least, following[state])
        for state in range(states):
            total[state] = following[state] - least
    state = 0
    for other_state in range(states):
        if total[other_state] < total[state]:
            state = other_state
    for place in range(number - 1, -1, -1):
        came = predecessors[2 * state + turns[place, state]]
        branch_number = 2 * ((came >> 1) & 1) + (came & 1)
        level = candidates[place, branch_number]
        levels[place] = level if targets[place] >= 0 else -level
        state = came >> 1


@compiled
def choose_coupled(
    targets: NDArray[np.float64],
    column_weights: NDArray[np.float64],
    row_weights: NDArray[np.float64],
    column_coupling: NDArray[np.float64],
    row_coupling: NDArray[np.float64],
    classes: NDArray[np.uint8],
    costs: NDArray[np.float64],
    limit: int,
    levels: NDArray[np.int32],
) -> None:
    """Fill `levels` one by one, each with the errors of those before in mind, over the columns and over the rows.

    With E the errors, U the coupling of rows, V that of columns, and c, r the weights, the whole distortion is ``sum_ij
    r_i c_j (Uᵀ E V)_ij²``. As U and V are unit upper triangular, the term of an element has errors of rows and columns
    up to its own alone. Arguments are as above, in two dimensions: (columns, rows); the weights (columns,) and (rows,),
    the couplings (columns, columns) and (rows, rows), all float64.
    """
    columns, rows = targets.shape
    errors = np.zeros((columns, rows))
    before = np.empty(rows)
    known = np.empty(rows)
    aim, weight = np.empty(1), np.empty(1)
    for column in range(columns):
        before[:] = 0.0
        for earlier in range(column):
            coupling = column_coupling[earlier, column]
            for row in range(rows):
                before[row] += coupling * errors[earlier, row]
        for row in range(rows):
            carried = before[row]
            for above in range(row):
                carried += row_coupling[above, row] * known[above]
            # What is exactly zero stays so, whatever the errors before it.
            aim[0] = targets[column, row] - carried if targets[column, row] != 0 else 0.0
            weight[0] = column_weights[column] * row_weights[row]
            choose_levels(aim, weight, classes[column, row : row + 1], costs, limit, levels[column, row : row + 1])
            errors[column, row] = levels[column, row] - targets[column, row]
            known[row] = before[row] + errors[column, row]


@compiled
def _best_of_parity(
    size: float,
    quantizer: int,
    parity: int,
    importance: float,
    kind: int,
    costs: NDArray[np.float64],
    limit: int,
) -> tuple[int, float]:
    """The best magnitude of a parity in a quantiser, and its cost."""
    if size == 0 and parity == 0:
        # What is exactly zero stays so: the other parity has no such level, and costs too much.
        return 0, _bits(costs, quantizer, kind, 0)
    if size == 0:
        return 1, INFINITE
    middle = size + 0.5 * quantizer
    lower = int(middle)
    if (lower & 1) != parity:
        lower -= 1
    best, chosen = INFINITE, parity
    for candidate in (lower, lower + 2, lower - 2):
        if candidate < 0 or candidate > limit or (candidate & 1) != parity:
            continue
        distance = size - candidate + (0.5 * quantizer if candidate > 0 else 0.0)
        cost = importance * distance * distance + _bits(costs, quantizer, kind, candidate)
        if cost < best:
            best, chosen = cost, candidate
    return chosen, best


@compiled
def _bits(costs: NDArray[np.float64], quantizer: int, kind: int, magnitude: int) -> float:
    if magnitude <= MAX_LEVEL:
        return float(costs[quantizer, kind, magnitude])
    return float(costs[quantizer, kind, MAX_LEVEL] + 2.0 * np.log2(magnitude / MAX_LEVEL))


@compiled
def search_rows(
    targets: NDArray[np.float64],
    importances: NDArray[np.float64],
    classes: NDArray[np.uint8],
    costs: NDArray[np.float64],
    limit: int,
    predecessors: NDArray[np.int32],
    levels: NDArray[np.int32],
) -> None:
    """Choose the levels of every row, all arrays of shape (rows, columns); no trellis if `predecessors` is empty."""
    for row in range(targets.shape[0]):
        if predecessors.size:
            choose_path(targets[row], importances[row], classes[row], costs, limit, predecessors, levels[row])
        else:
            choose_levels(targets[row], importances[row], classes[row], costs, limit, levels[row])


@compiled
def count_rows(
    levels: NDArray[np.int32], classes: NDArray[np.uint8], trellis: NDArray[np.int32], counts: NDArray[np.int64]
) -> None:
    """Add the levels of all rows to `counts`, int64 (2, CLASSES, MAX_LEVEL + 1); no trellis if it is empty."""
    for row in range(levels.shape[0]):
        state = 0
        for place in range(levels.shape[1]):
            level = levels[row, place]
            counts[state & 1, classes[row, place], min(abs(level), MAX_LEVEL)] += 1
            if trellis.size:
                state = trellis[2 * state + (level & 1)]
