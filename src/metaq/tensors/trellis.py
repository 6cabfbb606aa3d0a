"""Dependent quantisation: which of two interleaved quantisers a weight uses follows from the parities before it.

Quantiser 0 is the grid itself. Quantiser 1 moves every reference value but the central one half a step towards the
centre. A state machine driven by the parity of each level (bucket index less central index) chooses between them, so
that together they pack the space of weight sequences more tightly than one grid does: trellis-coded quantisation
(Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources", 1990), with the
parity-driven form of ISO/IEC 15938-17 and Ungerboeck's convolutional codes ("Channel coding with multilevel/phase
signals", 1982, table I).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from metaq.compiled import Bytes, Integers, compiled, workspace

PARITY_CHECKS = {
    2: (0o5, 0o2),
    3: (0o13, 0o4),
    4: (0o23, 0o4),
    5: (0o45, 0o10),
    6: (0o103, 0o24),
    7: (0o235, 0o126),
    8: (0o515, 0o362),
}
"""Parity-check polynomials (h0, h1) by the binary logarithm of the number of states."""


@cache
def transitions(trellis_bits: int) -> NDArray[np.int32]:
    """Next state by state and parity, int32 of shape (2 * states,), at ``2 * state + parity``.

    The lowest bit of a state tells its quantiser. The machine is the systematic feedback encoder of the code: the
    coded bits are the quantiser (the lowest bit of the state) and the parity.
    """
    feedback, forward = PARITY_CHECKS[trellis_bits]
    index = np.arange(2 << trellis_bits)
    state, parity = index >> 1, index & 1
    return ((state ^ (state & 1) * feedback ^ parity * forward) >> 1).astype(np.int32)


def continued_numerators(
    scanned: NDArray[np.integer], count: int, trellis_bits: int, *, row_length: int, start: int, state: int
) -> tuple[Integers, int]:
    """Reference values less the centre in units of radius / `count`, and the state of the trellis afterwards."""
    numerators = 2 * scanned.astype(np.int64) + (1 - count)
    if not trellis_bits:
        return numerators, 0
    chosen = np.zeros(scanned.size, dtype=np.uint8)
    indices, table = workspace(scanned), workspace(transitions(trellis_bits))
    state = _walk(indices, (count - 1) // 2, table, row_length, start, state, chosen)
    numerators -= np.sign(numerators) * chosen
    return numerators, int(state)


@compiled
def _walk(
    scanned: NDArray[np.integer],
    central: int,
    table: NDArray[np.int32],
    row_length: int,
    start: int,
    state: int,
    chosen: Bytes,
) -> int:
    left = row_length - start % row_length
    if left == row_length:
        state = 0
    for place in range(len(scanned)):
        chosen[place] = state & 1
        state = table[2 * state + ((scanned[place] - central) & 1)]
        left -= 1
        if left == 0:
            left, state = row_length, 0
    return state
