"""What the ``small`` profile knows of small tensors: adaptive tables, the stream, and their first state.

Every constant here is part of the file format.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaq.coding.context.binary import COUNT_BITS, PROBABILITY_BITS, rate_table
from metaq.coding.tables import LEVELS, cumulative_table, level_table, logistic_table, logit_table
from metaq.compiled import Integers, Symbols, workspace

FLAG_NODE = 0
SIGN_NODE = 1
LENGTH_NODE = 2
MAX_DIGITS = 31
DIGIT_NODE = LENGTH_NODE + 2 * MAX_DIGITS
DIGIT_LENGTHS = 26
MODELLED_DIGITS = 3
DIGIT_NODES = (1 << MODELLED_DIGITS) - 1
ROW_NODE = DIGIT_NODE + DIGIT_LENGTHS * DIGIT_NODES
"""First node of the decisions of a symbol of each kind; lastly, of whether a row has other symbols than the mode."""

NODES = 256
COLUMN_NODES = 4
MAX_COLUMNS = 1 << 16
"""The context of the column has slots for so many nodes and columns; all others have them for all nodes."""

QUANTIZERS = 2
RECENT_FLAGS = 64
NEIGHBOURS = 72
DENSITIES = 32
FLAG_NUMBERS = 66
SIGNS = 27
NEAR_CLASSES, ACROSS_CLASSES = 16, 16
OFFSETS = 64
HINTS = 16
LARGEST_LEFT = 20
LEFT_CLASSES = 3 * (2 * LARGEST_LEFT + 1)

FIRST_RECENT = QUANTIZERS * NODES
FIRST_NEIGHBOUR = FIRST_RECENT + RECENT_FLAGS * NODES
FIRST_COLUMN_DENSITY = FIRST_NEIGHBOUR + NEIGHBOURS * NODES
FIRST_ROW_DENSITY = FIRST_COLUMN_DENSITY + DENSITIES * NODES
FIRST_BOTH_DENSITIES = FIRST_ROW_DENSITY + DENSITIES * NODES
FIRST_FLAG_NUMBER = FIRST_BOTH_DENSITIES + DENSITIES * DENSITIES * NODES
FIRST_SIGN = FIRST_FLAG_NUMBER + FLAG_NUMBERS * NODES
FIRST_SIZE = FIRST_SIGN + SIGNS * NODES
FIRST_OFFSET = FIRST_SIZE + NEAR_CLASSES * ACROSS_CLASSES * NODES
FIRST_HINT = FIRST_OFFSET + OFFSETS * NODES
FIRST_LEFT = FIRST_HINT + HINTS * NODES
FIRST_COLUMN = FIRST_LEFT + LEFT_CLASSES * NODES
SLOTS = FIRST_COLUMN + MAX_COLUMNS * COLUMN_NODES
"""First slot of each kind of context, after those of the quantiser, which start at 0; and how many there are."""

CONTEXTS = 13
COLUMN_CONTEXT = CONTEXTS - 1
EXPERTS = 4
BASE_EXPERT = EXPERTS - 1
"""The last expert predicts the base, the others what the linear prediction says."""

INPUTS = CONTEXTS + EXPERTS
SETS = 6
DIGIT_SET = SETS - 1
CONFIDENCES = 8

COUNT_LIMIT = 400
ROW_COUNT_LIMIT = 250
CONTEXT_FACTORS = (2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 2, 2)
CONFIDENCE_WEIGHTS = (0, 1300, 1650, 2300, 2950, 3300, 3300, 2600)
CONFIDENCE_EDGES = (1, 2, 4, 8, 16, 40, 120)
EXPERT_WEIGHTS = (9000, 9000, 8500, 6000)

SCALE_CLASSES = LEVELS * LEVELS
SCALE_BITS = 8
"""Scales are in units of 2**-8 of those of distances, which are sixteenths."""

INITIAL_SCALES = (2, 2, 2, 2, 2, 4, 5, 8, 11, 16, 22, 32, 45, 64, 90, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048)
INITIAL_SCALE_COUNT = 3

RECENT, ROW_HITS, BASE, VOTES, MEAN, SIGN, TRELLIS_STATE, FLAG_PROBABILITY = range(8)
"""Places in a model's tally: flags of the last 32 symbols, the latest lowest; symbols of the row that were not the
mode; what symbols are told apart from, and the votes for it; the predicted value in sixteenths; sign of the symbol;
state of the trellis; probability that the last flag had, in units of 2**-16."""

ROW, MODE, ROW_BASE, PERIOD, HIGHEST, CENTRAL = range(6)
"""Places in the facts of a stream: row length or 0, most common symbol, whether the base changes within rows, period of
the prediction or 0, last and central symbol of the alphabet."""


class Stream(NamedTuple):
    """A stream of n symbols, and what is kept of each; all arrays have one dimension.

    The symbols are changed where they are decoded. `coefficients` of the prediction are in 1/32. Hints are 1 if the
    unit of the row, or column, was in use in earlier streams, 0 if not, or empty. `trellis` is empty if there is none.
    `residuals` are the symbols less what was their base, `errors` distances from the predicted values in 1/16, at most
    4095, `columns` how many symbols of each column were not the mode. `flags`, empty if nobody asks, are probabilities
    of a symbol other than the base in units of 2**-16; in a row that is told to be empty, its share of the probability
    that the row is not. `given`, empty without the base of an update, are hints from there, one a symbol.
    """

    values: Symbols
    facts: Integers  # See ``ROW`` and the names after it.
    coefficients: Integers
    row_hints: Integers
    column_hints: Integers
    trellis: Integers  # See :func:`metaq.tensors.trellis.transitions`.
    residuals: Symbols
    errors: NDArray[np.int32]
    columns: Integers
    flags: Integers
    given: Symbols


class Model(NamedTuple):
    """Everything that adapts, scratch space and constant tables; all arrays have one dimension.

    `table` has a slot for every context and decision. Mixing weights are times 65536, by set, input and confidence;
    `decided` are the decisions so far, by set. `scales` are mean distances of symbols from an expert's prediction in
    1/4096, by expert and class. Of the current symbol and decision there are the first slot of each context, its slot,
    the logits, the places of the weights, and for every expert its class and edges: (mean above the base in 1/16, 2**28
    over its scale in 1/4096).
    """

    table: Integers
    weights: Integers
    decided: Integers
    scales: Integers
    scale_counts: Integers
    contexts: Integers
    slots: Integers
    inputs: Integers
    places: Integers
    classes: Integers
    edges: Integers
    tally: Integers  # See ``RECENT`` and the names after it.
    logits: Integers
    logistic: Integers
    cumulative: Integers
    rates: Integers
    confidences: Integers
    levels: Integers


def new_model() -> Model:
    """A model that has seen nothing."""
    table = np.zeros(SLOTS, dtype=np.int64)
    table[:FIRST_RECENT] = 1 << (PROBABILITY_BITS - 1 + COUNT_BITS)
    counts = np.arange(COUNT_LIMIT + 1)
    scales = np.array(INITIAL_SCALES, dtype=np.int64) << SCALE_BITS
    return Model(
        table=workspace(table),
        weights=workspace(_initial_weights()),
        decided=_zeros(SETS),
        scales=workspace(np.tile(scales, EXPERTS * LEVELS)),
        scale_counts=workspace(np.full(EXPERTS * SCALE_CLASSES, INITIAL_SCALE_COUNT, dtype=np.int64)),
        contexts=_zeros(CONTEXTS),
        slots=_zeros(CONTEXTS),
        inputs=_zeros(INPUTS),
        places=_zeros(INPUTS),
        classes=_zeros(EXPERTS),
        edges=_zeros(2 * EXPERTS),
        tally=_zeros(8),
        logits=workspace(logit_table()),
        logistic=workspace(logistic_table()),
        cumulative=workspace(cumulative_table()),
        rates=rate_table(COUNT_LIMIT),
        confidences=workspace(np.searchsorted(CONFIDENCE_EDGES, counts, side="right").astype(np.int64)),
        levels=workspace(level_table()),
    )


def begin_stream(stream: Stream, model: Model) -> None:
    """Forget where the last stream was, but not what it taught."""
    for place in range(len(model.tally)):
        model.tally[place] = 0
    model.tally[BASE], model.tally[VOTES] = stream.facts[MODE], 1


def _initial_weights() -> Integers:
    """Mixing weights before anything is learned, int64 of shape (SETS * INPUTS * CONFIDENCES,)."""
    weights = np.zeros((SETS, INPUTS, CONFIDENCES), dtype=np.int64)
    for place, factor in enumerate(CONTEXT_FACTORS):
        weights[:, place] = factor * np.array(CONFIDENCE_WEIGHTS)
    weights[:, CONTEXTS:] = np.array(EXPERT_WEIGHTS)[:, None]
    return weights.reshape(-1)


def _zeros(size: int) -> Integers:
    return workspace(np.zeros(size, dtype=np.int64))
