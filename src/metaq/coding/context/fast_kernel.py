"""Loops of the fast profile: tabled asymmetric numeral systems with four interleaved states.

The method is that of Duda ("Asymmetric numeral systems", 2013, section 4); slots are spread over the table and coded as
in Collet's Finite State Entropy. Codes are made back to front and read front to back, least significant bit first.
Every constant here is part of the file format. All arithmetic is on integers that fit an int64 without wrapping, except
the window of 64 bits in :func:`decode`, of which only the lower 56 are used: plain Python computes the same.
"""

import numpy as np
from numpy.typing import NDArray

from metaq.coding.bits import read_number
from metaq.compiled import Bytes, Integers, Symbols, compiled, compiled_part

MAX_TABLE_BITS = 12
MIN_TABLE_BITS = 4
MAX_TOKENS = 4095
"""An entry of a decoding table is a uint32: 12 bits of index, 12 bits of next state, 8 bits for the number of bits."""

INDEX_MASK = (1 << MAX_TABLE_BITS) - 1
LANES = 4
LONG = 1024
"""Shorter streams use one state, since four of them take more room at the start."""

ORDER_BITS = 5
"""Width of the Golomb order of escapes."""

SAMPLED_NUMBERS = 1 << 12

CUT_OFF, BAD_STATE = -1, -2
SPARE_WORDS = 8


@compiled
def min_and_max(values: Symbols) -> tuple[int, int]:
    """Smallest and largest of `values`, int32 of shape (n,), n >= 1."""
    lowest = highest = values[0]
    for index in range(values.size):
        value = values[index]
        lowest = min(lowest, value)
        highest = max(highest, value)
    return int(lowest), int(highest)


@compiled
def count(values: Symbols, lowest: int, counts: Symbols) -> None:
    """Add to `counts`, int32 of shape (4, m), how often every value in ``lowest + [0, m)`` occurs, in four parts.

    The parts keep a frequent value from waiting for its own last count.
    """
    whole = values.size - values.size % 4
    for index in range(0, whole, 4):
        counts[0, int(values[index]) - lowest] += 1
        counts[1, int(values[index + 1]) - lowest] += 1
        counts[2, int(values[index + 2]) - lowest] += 1
        counts[3, int(values[index + 3]) - lowest] += 1
    for index in range(whole, values.size):
        counts[0, int(values[index]) - lowest] += 1


@compiled
def spread(masses: Integers, table_bits: int) -> Integers:
    """Index of the token that owns each slot, int64 of shape (2**table_bits,); the masses sum to that."""
    size = 1 << table_bits
    step = (size >> 1) + (size >> 3) + 3
    owners = np.zeros(size, dtype=np.int64)
    slot = 0
    for index in range(masses.size):
        for _ in range(masses[index]):
            owners[slot] = index
            slot = (slot + step) & (size - 1)
    return owners


@compiled
def decoding_table(masses: Integers, table_bits: int) -> NDArray[np.uint32]:
    """Entries by state, uint32 of shape (2**MAX_TABLE_BITS,): index, next state less bits to come, their number."""
    size = 1 << table_bits
    owners = spread(masses, table_bits)
    numbers = masses.copy()
    table = np.zeros(1 << MAX_TABLE_BITS, dtype=np.uint32)
    for slot in range(size):
        owner = owners[slot]
        number = numbers[owner]
        numbers[owner] += 1
        bits = 0
        while number << bits < size:
            bits += 1
        table[slot] = owner << 20 | ((number << bits) - size) << 8 | bits
    return table


@compiled
def decode(data: Bytes, start: int, table: NDArray[np.uint32], table_bits: int, marker: int, out: Symbols) -> int:
    """Fill `out` with ``marker + index`` of the coded tokens and return the byte after them.

    `data` is the payload and eight bytes more, and the code starts at byte `start`; for `table` see
    :func:`decoding_table`. Index 0 is the escape; int32 holds `marker` and all values that follow. Returned is
    ``CUT_OFF`` if the data end before, ``BAD_STATE`` if the code does not start or end as it must.
    """
    end = 8 * (data.size - 8)
    position = 8 * start
    while position < min(8 * start + 8, end) and not (int(data[start]) >> (position & 7)) & 1:
        position += 1
    if position >= min(8 * start + 8, end):
        return BAD_STATE if 8 * start < end else CUT_OFF
    position += 1
    lanes = LANES if out.size >= LONG else 1
    states = np.zeros(LANES, dtype=np.int64)
    for lane in range(lanes):
        if position > end:
            return CUT_OFF
        states[lane] = window_at(data, position) & ((1 << table_bits) - 1)
        position += table_bits
    done = 0
    if lanes == LANES:
        position = _decode_lanes(data, position, end, table, marker, out, states)
        done = out.size - out.size % LANES
    for index in range(done, out.size):
        if position > end:
            return CUT_OFF
        lane = index % lanes
        entry = int(np.int64(table[states[lane]]))
        out[index] = marker + (entry >> 20)
        bits = entry & 15
        states[lane] = ((entry >> 8) & INDEX_MASK) + (window_at(data, position) & ((1 << bits) - 1))
        position += bits
    if position > end:
        return CUT_OFF
    for lane in range(lanes):
        if states[lane] != 0:
            return BAD_STATE
    return position >> 3 if position & 7 == 0 else BAD_STATE


@compiled_part
def _decode_lanes(
    data: Bytes, position: int, end: int, table: NDArray[np.uint32], marker: int, out: Symbols, states: Integers
) -> int:
    """Decode whole groups of four symbols with the states in registers; returns the position, in bits."""
    state0, state1, state2, state3 = states[0], states[1], states[2], states[3]
    for group in range(out.size // LANES):
        # Past the end the position only grows, and the caller sees it.
        if position > end:
            return position
        place = LANES * group
        window = window_at(data, position)
        # The mask shows the compiler that indices are not negative.
        entry0 = int(np.int64(table[state0 & INDEX_MASK]))
        entry1 = int(np.int64(table[state1 & INDEX_MASK]))
        entry2 = int(np.int64(table[state2 & INDEX_MASK]))
        entry3 = int(np.int64(table[state3 & INDEX_MASK]))
        out[place] = marker + (entry0 >> 20)
        out[place + 1] = marker + (entry1 >> 20)
        out[place + 2] = marker + (entry2 >> 20)
        out[place + 3] = marker + (entry3 >> 20)
        state0 = ((entry0 >> 8) & INDEX_MASK) + (window & ((1 << (entry0 & 15)) - 1))
        window >>= entry0 & 15
        state1 = ((entry1 >> 8) & INDEX_MASK) + (window & ((1 << (entry1 & 15)) - 1))
        window >>= entry1 & 15
        state2 = ((entry2 >> 8) & INDEX_MASK) + (window & ((1 << (entry2 & 15)) - 1))
        window >>= entry2 & 15
        state3 = ((entry3 >> 8) & INDEX_MASK) + (window & ((1 << (entry3 & 15)) - 1))
        # Four numbers of at most 12 do not carry out of the lowest byte.
        position += (entry0 + entry1 + entry2 + entry3) & 255
    states[0], states[1], states[2], states[3] = state0, state1, state2, state3
    return position


@compiled_part
def window_at(data: Bytes, position: int) -> int:
    """The 56 bits from `position` on, and rubbish above them; the eight bytes become one load."""
    byte = (position >> 3) & 0x7FFFFFFFFFFF
    low = np.int64(data[byte]) | np.int64(data[byte + 1]) << 8
    low = low | np.int64(data[byte + 2]) << 16 | np.int64(data[byte + 3]) << 24
    low = low | np.int64(data[byte + 4]) << 32 | np.int64(data[byte + 5]) << 40
    low = low | np.int64(data[byte + 6]) << 48 | np.int64(data[byte + 7]) << 56
    return int(low >> (position & 7))


@compiled
def encode(values: Symbols, marker: int, masses: Integers, table_bits: int, words: NDArray[np.uint32]) -> int:
    """Code tokens into the end of `words`, of shape (words_for(n),), and return the byte where the code starts.

    ``value - marker`` is the index of a token. `masses` by index sum to ``2**table_bits``; indices outside them or
    without mass are coded as index 0.
    """
    size = 1 << table_bits
    owners = spread(masses, table_bits)
    most_bits, offsets = np.zeros(masses.size, dtype=np.int64), np.zeros(masses.size, dtype=np.int64)
    free = np.zeros(masses.size, dtype=np.int64)
    before = 0
    for index in range(masses.size):
        mass = masses[index]
        free[index] = before
        bits = table_bits
        while mass > 1 and (mass - 1) >> (table_bits - bits + 1):
            bits -= 1
        # (state + most_bits) >> 16 is the number of bits that leave a state of this token.
        most_bits[index] = (bits << 16) - (mass << bits)
        offsets[index] = before - mass
        before += mass
    next_states = np.zeros(size, dtype=np.int64)
    for slot in range(size):
        owner = owners[slot]
        next_states[free[owner]] = size + slot
        free[owner] += 1
    for index in range(masses.size):
        if masses[index] == 0:
            most_bits[index], offsets[index] = most_bits[0], offsets[0]
    return _encode_lanes(values, marker, size, most_bits, offsets, next_states, words)


@compiled_part
def _encode_lanes(
    values: Symbols,
    marker: int,
    size: int,
    most_bits: Integers,
    offsets: Integers,
    next_states: Integers,
    words: NDArray[np.uint32],
) -> int:
    lanes = LANES if values.size >= LONG else 1
    states = np.full(LANES, size, dtype=np.int64)
    top = most_bits.size
    held, width, word = 0, 0, words.size
    whole = values.size - values.size % LANES if lanes == LANES else 0
    for back in range(values.size - whole):
        place = values.size - 1 - back
        index = _index(int(values[place]) - marker, top)
        state = states[place % lanes]
        bits = (state + most_bits[index]) >> 16
        held, width = held << bits | state & ((1 << bits) - 1), width + bits
        states[place % lanes] = next_states[(state >> bits) + offsets[index]]
        held, width, word = _full_word_stored(held, width, word, words)
    state0, state1, state2, state3 = states[0], states[1], states[2], states[3]
    for back in range(whole // LANES):
        place = whole - LANES * (back + 1)
        index3 = _index(int(values[place + 3]) - marker, top)
        index2 = _index(int(values[place + 2]) - marker, top)
        index1 = _index(int(values[place + 1]) - marker, top)
        index0 = _index(int(values[place]) - marker, top)
        bits3 = (state3 + most_bits[index3]) >> 16
        bits2 = (state2 + most_bits[index2]) >> 16
        bits1 = (state1 + most_bits[index1]) >> 16
        bits0 = (state0 + most_bits[index0]) >> 16
        held = held << bits3 | state3 & ((1 << bits3) - 1)
        held = held << bits2 | state2 & ((1 << bits2) - 1)
        width += bits3 + bits2
        held, width, word = _full_word_stored(held, width, word, words)
        held = held << bits1 | state1 & ((1 << bits1) - 1)
        held = held << bits0 | state0 & ((1 << bits0) - 1)
        width += bits1 + bits0
        held, width, word = _full_word_stored(held, width, word, words)
        state3 = next_states[(state3 >> bits3) + offsets[index3]]
        state2 = next_states[(state2 >> bits2) + offsets[index2]]
        state1 = next_states[(state1 >> bits1) + offsets[index1]]
        state0 = next_states[(state0 >> bits0) + offsets[index0]]
    if lanes == LANES:
        states[0], states[1], states[2], states[3] = state0, state1, state2, state3
    table_bits = 0
    while size >> (table_bits + 1):
        table_bits += 1
    for back in range(lanes + 1):
        # The last field is the 1 that tells where the code starts in its first byte.
        bits = table_bits if back < lanes else 1
        held = held << bits | (states[lanes - 1 - back] - size if back < lanes else 1)
        width += bits
        held, width, word = _full_word_stored(held, width, word, words)
    words[word - 1] = (held << (32 - width)) & 0xFFFFFFFF
    return 4 * word - (width + 7) // 8


@compiled_part
def _full_word_stored(held: int, width: int, word: int, words: NDArray[np.uint32]) -> tuple[int, int, int]:
    """Store the oldest 32 of the `width` bits held, if there are so many; what is held then, and the last word."""
    # A word is always stored and kept only if it is full, which is faster than to ask.
    full = width >> 5
    words[word - 1] = (held >> max(width - 32, 0)) & 0xFFFFFFFF
    width -= 32 * full
    return held & ((1 << width) - 1), width, word - full


@compiled_part
def _index(index: int, top: int) -> int:
    return index if 0 <= index < top else 0


def words_for(symbols: int) -> int:
    """Words that :func:`encode` may need for so many symbols."""
    return (MAX_TABLE_BITS * (symbols + LANES)) // 32 + SPARE_WORDS


@compiled
def read_masses(data: Bytes, start: int, table_bits: int, escapes: bool, masses: Integers) -> tuple[int, int]:
    """Fill `masses`, int64 of shape (MAX_TOKENS + 1,), until they sum to ``2**table_bits``.

    Returns the byte after them and how many there are, counting that of the escape, index 0; or (-1, 0) if they are
    damaged. `data` has eight bytes more than the payload.
    """
    end = 8 * (data.size - 8)
    position = 8 * start
    left = 1 << table_bits
    previous = 0
    index = 0 if escapes else 1
    masses[0] = 0
    while left > 0:
        order = golomb_order(previous)
        mass, position = read_number(data, position, end, order, table_bits + order + 1)
        if position < 0 or index > MAX_TOKENS or mass > left or (mass == 0 and index < 2):
            return -1, 0
        masses[index] = mass
        left -= mass
        previous = mass if index > 0 else 0
        index += 1
    while position & 7:
        if (int(data[position >> 3]) >> (7 - (position & 7))) & 1:
            return -1, 0
        position += 1
    return position >> 3, index


@compiled_part
def golomb_order(previous: int) -> int:
    """Order of the Golomb code of a mass, given the mass before it."""
    order = 0
    while previous >> (order + 2):
        order += 1
    return order


@compiled
def pack_low_bits(values: Symbols, width: int, out: Bytes) -> None:
    """The lowest `width` bits of every value into `out`, uint8 of zeros of shape ((n * width + 7) // 8,)."""
    held, held_bits, byte = 0, 0, 0
    mask = (1 << width) - 1
    for index in range(values.size):
        held |= (int(values[index]) & mask) << held_bits
        held_bits += width
        while held_bits >= 8:
            out[byte] = held & 255
            held >>= 8
            held_bits -= 8
            byte += 1
    if held_bits:
        out[byte] = held


@compiled
def append_low_bits(data: Bytes, start: int, width: int, out: Symbols) -> None:
    """Replace every token of `out` by ``token * 2**width + field``, its field of `width` bits from byte `start` on.

    `data` holds all the fields and eight bytes more.
    """
    mask = (1 << width) - 1
    for index in range(out.size):
        out[index] = (int(out[index]) << width) + (window_at(data, 8 * start + index * width) & mask)


@compiled
def golomb_cost(numbers: Integers, counts: Integers) -> tuple[int, int]:
    """Order in 0 to 31 whose codes of `numbers`, each used `counts` times, are shortest, and about their bits in all.

    Of many numbers only some thousands are looked at.
    """
    step = max(numbers.size // SAMPLED_NUMBERS, 1)
    best, best_bits = 0, -1
    for order in range(1 << ORDER_BITS):
        size_bits = 0
        for index in range(0, numbers.size, step):
            digits = order + 1
            while (int(numbers[index]) + (1 << order)) >> digits:
                digits += 1
            size_bits += int(counts[index]) * (2 * digits - 1 - order) * step
        # The size is all but convex in the order.
        if best_bits >= 0 and size_bits > best_bits:
            break
        if best_bits < 0 or size_bits < best_bits:
            best, best_bits = order, size_bits
    return best, best_bits


@compiled
def find_escapes(values: Symbols, marker: int, masses: Integers, tokens: Integers) -> int:
    """Put the values that :func:`encode` codes as index 0 into `tokens`, of shape (n + 1,); return their number."""
    used = 0
    for index in range(values.size):
        value = int(values[index])
        # Written anyway and kept only if it counts, since escapes cannot be foreseen.
        tokens[used] = value
        index = _index(value - marker, masses.size)
        used += int(index == 0 or masses[index] == 0)
    return used


@compiled
def split(
    values: Symbols,
    transitions: Symbols,
    restart: int,
    row_length: int,
    blocks: Integers,
    places: Integers,
    pool: Symbols,
) -> None:
    """Append every value of a stream to the block of its row and quantiser.

    The trellis (:func:`metaq.tensors.trellis.transitions`) begins anew after `restart` values; `row_length` values
    share two blocks, by quantiser, in `blocks` of shape (2 * rows,). `places`, where the next value of each block goes
    in `pool`, are changed by the call.
    """
    state, left = 0, restart
    for row in range(values.size // row_length):
        for index in range(row * row_length, (row + 1) * row_length):
            block = blocks[2 * row + (state & 1)]
            pool[places[block]] = values[index]
            places[block] += 1
            state = transitions[2 * state + (int(values[index]) & 1)]
            left -= 1
            if left == 0:
                state, left = 0, restart


@compiled
def merge(
    pool: Symbols,
    transitions: Symbols,
    restart: int,
    row_length: int,
    blocks: Integers,
    places: Integers,
    ends: Integers,
    values: Symbols,
) -> bool:
    """Invert :func:`split`; False if a block holds too few values. The two blocks of a row are different.

    `pool` has one element more than all blocks together, and `ends` are the ends of the blocks.
    """
    state, left = 0, restart
    for row in range(values.size // row_length):
        block0, block1 = blocks[2 * row], blocks[2 * row + 1]
        place0, place1 = places[block0], places[block1]
        end0, end1 = ends[block0], ends[block1]
        for index in range(row * row_length, (row + 1) * row_length):
            quantizer = state & 1
            # Both candidates are fetched before it is known which one is due.
            value0, value1 = int(pool[place0]), int(pool[place1])
            value = value1 if quantizer else value0
            place0 += 1 - quantizer
            place1 += quantizer
            if place0 > end0 or place1 > end1:
                return False
            values[index] = value
            state = int(transitions[2 * state + (value & 1)])
            left -= 1
            if left == 0:
                state, left = 0, restart
        places[block0], places[block1] = place0, place1
    return True


@compiled
def split_rows(values: Symbols, row_length: int, blocks: Integers, places: Integers, pool: Symbols) -> None:
    """Append every row of a stream to its block, ``blocks[2 * row]``; otherwise as :func:`split`."""
    for row in range(values.size // row_length):
        place = places[blocks[2 * row]]
        pool[place : place + row_length] = values[row * row_length : (row + 1) * row_length]
        places[blocks[2 * row]] += row_length


@compiled
def merge_rows(
    pool: Symbols, row_length: int, blocks: Integers, places: Integers, ends: Integers, values: Symbols
) -> bool:
    """Invert :func:`split_rows`; False if a block holds too few values."""
    for row in range(values.size // row_length):
        place = places[blocks[2 * row]]
        if place + row_length > ends[blocks[2 * row]]:
            return False
        values[row * row_length : (row + 1) * row_length] = pool[place : place + row_length]
        places[blocks[2 * row]] += row_length
    return True


@compiled
def tally(
    values: Symbols, transitions: Symbols, restart: int, row_length: int, classes: Integers, counts: Integers
) -> None:
    """Add to `counts`, int64 of shape (2 * classes, 2 * m), the values of each class of rows and quantiser.

    Values are clipped to ``[-m, m)``; value v is counted at ``v + m``. The trellis is that of :func:`split`.
    """
    half = counts.shape[1] // 2
    state, left = 0, restart
    for row in range(classes.size):
        for index in range(row * row_length, (row + 1) * row_length):
            value = int(values[index])
            counts[2 * classes[row] + (state & 1), min(max(value, -half), half - 1) + half] += 1
            state = int(transitions[2 * state + (value & 1)])
            left -= 1
            if left == 0:
                state, left = 0, restart


@compiled
def row_sums(values: Symbols, row_length: int, magnitudes: Integers, sums: Integers) -> float:
    """Sum of the magnitudes, and of the values, of every row, int64 of shape (rows,) each; returns that of squares."""
    squares = 0.0
    for row in range(sums.size):
        magnitude, total = 0, 0
        square = 0.0
        for index in range(row * row_length, (row + 1) * row_length):
            value = int(values[index])
            magnitude += abs(value)
            total += value
            square += float(value) * float(value)
        magnitudes[row] = magnitude
        sums[row] = total
        squares += square
    return squares
