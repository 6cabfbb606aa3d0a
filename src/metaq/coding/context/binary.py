"""Binary range coding with 16-bit probabilities: intervals of 32 bits, carries passed back into the bytes.

After Martin, "Range encoding: an algorithm for removing redundancy from a digitised message" (1979).
"""

from math import log2

import numpy as np

from metaq.compiled import Bytes, Integers, compiled, compiled_part, workspace
from metaq.errors import CodecError

TOP = 1 << 32
BOTTOM = 1 << 24
ONE = 1 << 16
"""Unit of probabilities."""

EVEN = ONE >> 1
LOWEST_PROBABILITY = 2
"""Models predict nothing with less, nor with more than ``ONE`` less this, so that every decision takes some bits."""

DECISIONS_PER_BIT = 23000
"""A bit of payload holds fewer decisions, since each takes at least -log2(1 - 2**-15) bits."""

TAIL_BITS = 32
"""What the end of a code may leave out."""

FIRST_CAPACITY = 4096
BIT_BYTES = 4
"""More than a single bit can take, and what the end does."""

MAX_NUMBER_DIGITS = 40

COUNT_BITS, PROBABILITY_BITS, RATE_BITS = 16, 30, 22
COUNT_MASK = (1 << COUNT_BITS) - 1
HIGHEST_PROBABILITY = (1 << PROBABILITY_BITS) - 1
"""A slot of a table holds the probability of a 1, times ``2**PROBABILITY_BITS``, above how often it was seen."""

COARSE_SHIFT = COUNT_BITS + PROBABILITY_BITS - 16
"""What is left of a slot without its lowest bits so many is its probability in units of 2**-16."""

LOW, WIDTH, POSITION, OFFSET, DECODES = 0, 1, 2, 3, 4
"""Places in a coder's state: lower end and width of the interval, bytes passed, the code above the lower end, mode."""


@compiled
def choose_or_narrow(probability: int, bit: int, state: Integers, data: Bytes) -> int:
    """Decode a bit, or encode `bit`, which is 1 with `probability` / 65536; what it is."""
    decodes = state[DECODES] != 0
    low, width, position, offset = state[LOW], state[WIDTH], state[POSITION], state[OFFSET]
    bound = (width * probability) >> 16
    if decodes:
        bit = 1 if offset < bound else 0
    if bit:
        width = bound
    else:
        low += bound
        offset -= bound
        width -= bound
        if low >= TOP:
            low -= TOP
            if not decodes:
                carry(position, data)
    while width < BOTTOM:
        if decodes:
            # 0 beyond the end.
            offset = offset << 8 | (int(data[position]) if position < len(data) else 0)
        else:
            data[position] = low >> 24
        position += 1
        low = (low << 8) & (TOP - 1)
        width <<= 8
    state[LOW], state[WIDTH], state[POSITION], state[OFFSET] = low, width, position, offset
    return bit


@compiled_part
def clipped(probability: int) -> int:
    """`probability` / 65536, kept from certainty."""
    return min(max(probability, LOWEST_PROBABILITY), ONE - LOWEST_PROBABILITY)


@compiled_part
def adapted(value: int, bit: int, limit: int, rates: Integers) -> int:
    """What is in a slot after a decision: the probability moves towards `bit`, the less the more was seen."""
    count = value & COUNT_MASK
    probability = value >> COUNT_BITS
    target = HIGHEST_PROBABILITY if bit else 0
    probability += ((target - probability) * rates[count]) >> RATE_BITS
    if count < limit:
        count += 1
    return int(probability << COUNT_BITS | count)


def rate_table(limit: int) -> Integers:
    """Share of the way to a bit that a probability moves, by how often it was seen, times ``2**RATE_BITS``."""
    return workspace(((2 << RATE_BITS) // (2 * np.arange(limit + 1) + 3)).astype(np.int64))


@compiled
def finish_encoding(state: Integers, data: Bytes) -> None:
    """Write the fewest bytes that tell the interval."""
    dropped, tail = _tail(state)
    if tail >= TOP:
        carry(state[POSITION], data)
    for byte in range(4 - dropped):
        data[state[POSITION]] = (tail >> (24 - 8 * byte)) & 0xFF
        state[POSITION] += 1


@compiled
def is_finished(state: Integers, data: Bytes) -> bool:
    """Whether `data` end with exactly the bytes that :func:`finish_encoding` writes."""
    dropped, tail = _tail(state)
    window = (state[LOW] + state[OFFSET]) & (TOP - 1)
    return bool(len(data) == state[POSITION] - dropped and window == tail & (TOP - 1))


@compiled_part
def carry(position: int, data: Bytes) -> None:
    """Add one to the number that the bytes before `position` are; it never exceeds them."""
    place = position - 1
    while data[place] == 255:
        data[place] = 0
        place -= 1
    data[place] += 1


@compiled_part
def _tail(state: Integers) -> tuple[int, int]:
    """How many of the last four bytes can be left out, and the number in the interval that allows it."""
    for dropped in (4, 3, 2, 1):
        mask = (1 << (8 * dropped)) - 1
        tail = (state[LOW] + mask) & ~mask
        if tail < state[LOW] + state[WIDTH]:
            return dropped, tail
    return 0, state[LOW]


class BinaryCode:
    """A code that is being written, or with a payload read, and numbers in it that are not modelled.

    `state` is int64 of shape (5,), see ``LOW`` and the names after it; `data` is what was written so far and room for
    more, or all that is read.
    """

    def __init__(self, payload: bytes | None = None) -> None:
        if payload is None:
            start = [0, TOP, 0, 0, 0]
            self.data: Bytes = np.zeros(FIRST_CAPACITY, dtype=np.uint8)
        else:
            start = [0, TOP, 4, int.from_bytes(payload[:4].ljust(4, b"\0"), "big"), 1]
            # A copy, because the functions that may also write take no read-only array.
            self.data = workspace(np.frombuffer(payload, dtype=np.uint8).copy())
        self.state: Integers = workspace(np.array(start, dtype=np.int64))

    @property
    def size_bits(self) -> float:
        """Size of what was coded so far, but for a constant: what the interval has lost of its width."""
        return 8 * int(self.state[POSITION]) - log2(self.state[WIDTH])

    def reserve(self, size_bytes: int) -> None:
        """Make room for so many bytes."""
        needed = int(self.state[POSITION]) + size_bytes
        if not self.state[DECODES] and needed > self.data.size:
            longer = np.zeros(2 * needed, dtype=np.uint8)
            longer[: self.data.size] = self.data
            self.data = longer

    def bit(self, value: int) -> int:
        """Code a bit; what it is."""
        self.reserve(BIT_BYTES)
        return int(choose_or_narrow(EVEN, value, self.state, self.data))

    def bits(self, value: int, width: int) -> int:
        """Code a number below ``2**width``, highest digit first."""
        found = 0
        for place in range(width - 1, -1, -1):
            found = found << 1 | self.bit(value >> place & 1)
        return found

    def number(self, value: int) -> int:
        """Code a number from 0 on: one 1 for each digit of its successor but the first, a 0, and those digits."""
        digits = 0
        while self.bit(int((value + 1) >> (digits + 1) != 0)):
            digits += 1
            if digits > MAX_NUMBER_DIGITS:
                raise CodecError("small: a number is too large.")
        return (1 << digits | self.bits((value + 1) & ((1 << digits) - 1), digits)) - 1

    def integer(self, value: int) -> int:
        """Code a number of any sign: 0, -1, 1, -2, … as 0, 1, 2, 3, …"""
        folded = self.number(2 * value if value >= 0 else -2 * value - 1)
        return -((folded + 1) >> 1) if folded & 1 else folded >> 1

    def finish(self) -> bytes:
        """End a code that was written, and give its bytes."""
        self.reserve(BIT_BYTES)
        finish_encoding(self.state, self.data)
        return self.data[: int(self.state[POSITION])].tobytes()

    def check_finished(self) -> None:
        """Check that a code that was read ends here as :meth:`finish` ends it; raises :class:`CodecError`."""
        if not is_finished(self.state, self.data):
            raise CodecError("small: the coded bytes are damaged, cut off or too long.")
