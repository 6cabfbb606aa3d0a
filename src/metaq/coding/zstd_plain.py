"""Zstandard frames unpacked in plain Python, where no library is installed: some megabytes in as many seconds.

Names are those of RFC 8878, whose sections are given. Everything is checked, and no more memory is taken than the
caller allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from metaq.errors import CodecError

LARGEST_BLOCK_BYTES, LARGEST_WINDOW_BYTES = 1 << 17, 1 << 27
HEADER_BYTES = 3
"""Of a block."""

DICTIONARY_ID_BYTES = (0, 1, 2, 4)
RAW, REPEATED, COMPRESSED, TREELESS = 0, 1, 2, 3
"""Types of blocks and of literals; the last is of literals alone."""

MOST_WEIGHT_BITS, MOST_CODE_BITS, LAST_LITERAL = 6, 11, 255
FIRST_LONG_COUNT = 0x7F00
LAST_OFFSET_CODE = 27
"""Larger offsets lead out of every window."""

LONGEST_DESCRIPTION = 1024
"""Bytes, more than a table can take."""

PREDEFINED, CONSTANT, DESCRIBED = 0, 1, 2
"""What a table of sequences may be; otherwise it is that of the block before."""

LITERAL_LENGTH_BITS = (*(0,) * 16, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
MATCH_LENGTH_BITS = (*(0,) * 32, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
LITERAL_LENGTHS = tuple(accumulate((1 << bits for bits in LITERAL_LENGTH_BITS), initial=0))
MATCH_LENGTHS = tuple(accumulate((1 << bits for bits in MATCH_LENGTH_BITS), initial=3))


def decompress(frame: bytes, size_bytes: int) -> bytes:
    """The bytes of a frame without magic number, content size and checksum, which ends where `frame` ends.

    Raises :class:`CodecError` if it is damaged, or there would be more than `size_bytes` bytes.
    """
    window_bytes, place = _frame_header(frame)
    blocks = _Blocks(window_bytes=window_bytes, size_bytes=size_bytes)
    is_last = False
    while not is_last:
        header = int.from_bytes(_part(frame, place, place + HEADER_BYTES), "little")
        is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind > COMPRESSED or size > blocks.most_bytes:
            raise _damaged("a block is of an unknown type or too large")
        start = place + HEADER_BYTES
        place = start + (1 if kind == REPEATED else size)
        blocks.add(kind, _part(frame, start, place), size)
    if place != len(frame):
        raise _damaged("something follows the last block")
    return bytes(blocks.output)


def _damaged(why: str) -> CodecError:
    return CodecError(f"zstd: the compressed bytes are damaged ({why}).")


def _part(data: bytes, start: int, stop: int) -> bytes:
    if stop > len(data):
        raise _damaged("they end too early")
    return data[start:stop]


def _frame_header(frame: bytes) -> tuple[int, int]:
    """Size of the window, and where the blocks begin (3.1.1.1)."""
    descriptor = _part(frame, 0, 2)[0]
    if descriptor & 0b1110_1100:
        raise _damaged("the frame has another header than this format allows")
    end = 2 + DICTIONARY_ID_BYTES[descriptor & 3]
    if any(_part(frame, 2, end)):
        raise _damaged("the frame needs a dictionary")
    base = 1 << (10 + (frame[1] >> 3))
    window_bytes = base + base // 8 * (frame[1] & 7)
    if window_bytes > LARGEST_WINDOW_BYTES:
        raise CodecError(f"zstd: a window of {window_bytes} bytes is more than the {LARGEST_WINDOW_BYTES} allowed.")
    return window_bytes, end


class _Bits:
    """Bits from the last byte to the first, the highest first, after zeros and a one in the last byte (4.1.1)."""

    def __init__(self, data: bytes) -> None:
        if not data or not data[-1]:
            raise _damaged("a stream of bits has no mark at its end")
        self.data = data
        self.left = 8 * len(data) - 9 + data[-1].bit_length()

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise _damaged("a stream of bits ends too early")
        first = self.left >> 3
        window = int.from_bytes(self.data[first : first + (count >> 3) + 2], "little")
        return window >> (self.left & 7) & ((1 << count) - 1)


class _Table(NamedTuple):
    """Finite state entropy: the symbol of every state, and the next state, a first one plus so many bits (4.1)."""

    accuracy_bits: int
    symbols: Sequence[int]
    bits: Sequence[int]
    firsts: Sequence[int]


def _table(probabilities: Sequence[int], accuracy_bits: int) -> _Table:
    """Table of `probabilities` in units of 2**-accuracy_bits, or -1 for a symbol rarer than that."""
    size = 1 << accuracy_bits
    symbols = [0] * size
    top = size
    for symbol, probability in enumerate(probabilities):
        if probability < 0:
            top -= 1
            symbols[top] = symbol
    place, step = 0, (size >> 1) + (size >> 3) + 3
    for symbol, probability in enumerate(probabilities):
        for _ in range(probability):
            symbols[place] = symbol
            place = (place + step) & (size - 1)
            while place >= top:
                place = (place + step) & (size - 1)
    seen = [abs(probability) for probability in probabilities]
    bits, firsts = [0] * size, [0] * size
    for state, symbol in enumerate(symbols):
        bits[state] = accuracy_bits + 1 - seen[symbol].bit_length()
        firsts[state] = (seen[symbol] << bits[state]) - size
        seen[symbol] += 1
    return _Table(accuracy_bits, symbols, bits, firsts)


def _read_table(data: bytes, most_bits: int, last_symbol: int) -> tuple[_Table, int]:
    """A table from its description at the start of `data`, and the size of that (4.1.1)."""
    number = int.from_bytes(data[:LONGEST_DESCRIPTION], "little")
    accuracy_bits = 5 + (number & 15)
    if accuracy_bits > most_bits:
        raise _damaged("a table has too many states")
    place = 4
    probabilities: list[int] = []
    left = 1 << accuracy_bits
    while left > 0:
        if len(probabilities) > last_symbol:
            raise _damaged("a table has too many symbols")
        width = (left + 1).bit_length()
        found = number >> place & ((1 << width) - 1)
        low, spare = found & ((1 << (width - 1)) - 1), (1 << width) - 2 - left
        if low < spare:
            place, found = place + width - 1, low
        else:
            place, found = place + width, found - spare if found >> (width - 1) else found
        probabilities.append(found - 1)
        left -= abs(found - 1)
        repeats = 3 if found == 1 else 0
        while repeats == 3:
            repeats = number >> place & 3
            place += 2
            probabilities += [0] * repeats
            if len(probabilities) > last_symbol + 1:
                raise _damaged("a table has too many symbols")
    size = (place + 7) >> 3
    if left < 0 or size > len(data):
        raise _damaged("a table is cut off or has too many states")
    return _table(probabilities, accuracy_bits), size


class _Codes(NamedTuple):
    """Huffman codes: symbol and length of the code that begins with so many bits (4.2)."""

    most_bits: int
    symbols: bytes
    lengths: bytes


def _read_codes(data: bytes) -> tuple[_Codes, int]:
    """Codes from their description at the start of `data`, and the size of that (4.2.1)."""
    header = _part(data, 0, 1)[0]
    if header < 128:
        size = 1 + header
        weights = _coded_weights(_part(data, 1, size))
    else:
        size = 1 + (header - 126) // 2
        weights = [half for byte in _part(data, 1, size) for half in (byte >> 4, byte & 15)][: header - 127]
    total = sum(1 << (weight - 1) for weight in weights if weight)
    most_bits = total.bit_length()
    rest = (1 << most_bits) - total
    if not 0 < most_bits <= MOST_CODE_BITS or rest & (rest - 1):
        raise _damaged("lengths of codes do not fit together")
    weights.append(rest.bit_length())
    symbols, lengths = bytearray(), bytearray()
    for weight in range(1, most_bits + 1):
        for symbol, own in enumerate(weights):
            if own == weight:
                symbols += bytes([symbol]) * (1 << (weight - 1))
                lengths += bytes([most_bits + 1 - weight]) * (1 << (weight - 1))
    if len(symbols) != 1 << most_bits:
        raise _damaged("lengths of codes do not fit together")
    return _Codes(most_bits, bytes(symbols), bytes(lengths)), size


def _coded_weights(data: bytes) -> list[int]:
    """Weights by two states that take turns (4.2.1.2)."""
    table, size = _read_table(data, MOST_WEIGHT_BITS, MOST_CODE_BITS + 1)
    bits = _Bits(data[size:])
    state, other = bits.take(table.accuracy_bits), bits.take(table.accuracy_bits)
    weights: list[int] = []
    while len(weights) < LAST_LITERAL - 1:
        weights.append(table.symbols[state])
        if bits.left < table.bits[state]:
            return [*weights, table.symbols[other]]
        state, other = other, table.firsts[state] + bits.take(table.bits[state])
    raise _damaged("there are codes for too many symbols")


def _uncoded(codes: _Codes, data: bytes, count: int) -> bytearray:
    """`count` symbols of a stream of Huffman codes (4.2.2)."""
    most_bits, symbols, lengths = codes
    left = _Bits(data).left
    # Zeros around it, so that a code of any length can be looked at as one of the longest.
    data = bytes(2) + data + bytes(2)
    mask = (1 << most_bits) - 1
    found = bytearray(count)
    for index in range(count):
        low = left + 16 - most_bits
        first = low >> 3
        code = (data[first] | data[first + 1] << 8 | data[first + 2] << 16) >> (low & 7) & mask
        found[index] = symbols[code]
        left -= lengths[code]
        if left < 0:
            raise _damaged("a stream of bits ends too early")
    if left:
        raise _damaged("a stream of bits goes on where it should end")
    return found


class _Kind(NamedTuple):
    """A part of sequences: the finest table, the last code, and the table that needs no description (3.1.1.3.2.2)."""

    most_bits: int
    last_code: int
    predefined: _Table


KINDS = (
    _Kind(9, 35, _table((4, 3, *(2,) * 11, 1, 1, 1, *(2,) * 9, 3, 2, *(1,) * 5, *(-1,) * 4), 6)),
    _Kind(8, 31, _table((*(1,) * 6, 2, 2, 2, *(1,) * 15, *(-1,) * 5), 5)),
    _Kind(9, 52, _table((1, 4, 3, *(2,) * 6, *(1,) * 37, *(-1,) * 7), 6)),
)
"""Lengths of literals, offsets, and lengths of matches."""


@dataclass
class _Blocks:
    """What was unpacked, and what later blocks refer to: codes, tables, and the last three offsets."""

    window_bytes: int
    size_bytes: int
    output: bytearray = field(default_factory=bytearray)
    codes: _Codes | None = None
    tables: list[_Table] = field(default_factory=list)
    offsets: tuple[int, int, int] = (1, 4, 8)

    @property
    def most_bytes(self) -> int:
        """Of a block, packed and unpacked."""
        return min(self.window_bytes, LARGEST_BLOCK_BYTES)

    def add(self, kind: int, block: bytes, size: int) -> None:
        """Unpack a block; `size` is what its header says."""
        if kind == COMPRESSED:
            literals, start = self._literals(block)
            self._run(block[start:], literals)
            return
        self._require_room(size, self.size_bytes)
        self.output += block if kind == RAW else block * size

    def _require_room(self, count: int, limit: int) -> None:
        if len(self.output) + count > limit:
            raise _damaged("there are more bytes than promised")

    def _literals(self, block: bytes) -> tuple[bytes | bytearray, int]:
        """Literals of a block, and where its sequences begin (3.1.1.3.1)."""
        first = _part(block, 0, 1)[0]
        kind, form = first & 3, first >> 2 & 3
        if kind in (RAW, REPEATED):
            header = (1, 2, 1, 3)[form]
            size = int.from_bytes(_part(block, 0, header), "little") >> (3 if header == 1 else 4)
            stop = header + (size if kind == RAW else 1)
            self._require_literals(size)
            return _part(block, header, stop) * (1 if kind == RAW else size), stop
        header, width = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
        sizes = int.from_bytes(_part(block, 0, header), "little") >> 4
        size, stop = sizes & ((1 << width) - 1), header + (sizes >> width)
        self._require_literals(size)
        data = _part(block, header, stop)
        if kind == COMPRESSED:
            self.codes, used = _read_codes(data)
            data = data[used:]
        if self.codes is None:
            raise _damaged("the first literals refer to codes of earlier ones")
        return (_uncoded if form == 0 else _uncoded_by_four)(self.codes, data, size), stop

    def _require_literals(self, size: int) -> None:
        if size > min(self.most_bytes, self.size_bytes):
            raise _damaged("a block has too many literals")

    def _run(self, section: bytes, literals: bytes | bytearray) -> None:
        """Copy literals and matches as the sequences say (3.1.1.3.2, 3.1.1.4)."""
        output, limit = self.output, min(self.size_bytes, len(self.output) + self.most_bytes)
        count, data = self._read_tables(section)
        used = 0
        if count:
            bits = _Bits(data)
            take = bits.take
            lengths, offsets, matches = self.tables
            state, offset_state, match_state = (take(table.accuracy_bits) for table in self.tables)
        for left in range(count - 1, -1, -1):
            code, match_code, length_code = (
                offsets.symbols[offset_state],
                matches.symbols[match_state],
                lengths.symbols[state],
            )
            if code > LAST_OFFSET_CODE:
                raise _damaged("an offset is too large")
            value = (1 << code) + take(code)
            match = MATCH_LENGTHS[match_code] + take(MATCH_LENGTH_BITS[match_code])
            length = LITERAL_LENGTHS[length_code] + take(LITERAL_LENGTH_BITS[length_code])
            self._require_room(length + match, limit)
            if used + length > len(literals):
                raise _damaged("a block has too few literals")
            output += literals[used : used + length]
            used += length
            distance = self._offset(value, length)
            if not 0 < distance <= min(len(output), self.window_bytes):
                raise _damaged("an offset is out of range")
            piece = output[len(output) - distance : len(output) - distance + match]
            output += piece if distance >= match else (piece * (match // distance + 1))[:match]
            if left:
                state = lengths.firsts[state] + take(lengths.bits[state])
                match_state = matches.firsts[match_state] + take(matches.bits[match_state])
                offset_state = offsets.firsts[offset_state] + take(offsets.bits[offset_state])
        if count and bits.left:
            raise _damaged("a stream of bits goes on where it should end")
        self._require_room(len(literals) - used, limit)
        output += literals[used:]

    def _offset(self, value: int, length: int) -> int:
        """What the value of an offset means, which becomes the last one (3.1.1.5)."""
        first, second, third = self.offsets
        which = value if value > 3 or length else value + 1
        if which == 1:
            return first
        if value > 3:
            self.offsets = value - 3, first, second
        elif which == 2:
            self.offsets = second, first, third
        else:
            self.offsets = third if which == 3 else first - 1, first, second
        return self.offsets[0]

    def _read_tables(self, section: bytes) -> tuple[int, bytes]:
        """Number of sequences, and their bits; the tables are kept (3.1.1.3.2.1)."""
        first = _part(section, 0, 1)[0]
        start = 1 if first < 128 else 2 if first < 255 else 3
        number = _part(section, 0, start)
        count = (first, (first - 128) << 8 | number[-1], int.from_bytes(number[1:], "little") + FIRST_LONG_COUNT)[
            start - 1
        ]
        if count == 0:
            if len(section) > start:
                raise _damaged("bytes follow where a block has no sequences")
            return 0, b""
        modes = _part(section, start, start + 1)[0]
        if modes & 3:
            raise _damaged("a reserved bit is set")
        data = section[start + 1 :]
        tables = []
        for index, kind in enumerate(KINDS):
            mode, size = modes >> (6 - 2 * index) & 3, 0
            if mode == PREDEFINED:
                table = kind.predefined
            elif mode == CONSTANT:
                table, size = _Table(0, _part(data, 0, 1), (0,), (0,)), 1
                if data[0] > kind.last_code:
                    raise _damaged("a table has an unknown symbol")
            elif mode == DESCRIBED:
                table, size = _read_table(data, kind.most_bits, kind.last_code)
            elif self.tables:
                table = self.tables[index]
            else:
                raise _damaged("the first sequences refer to a table of earlier ones")
            tables.append(table)
            data = data[size:]
        self.tables = tables
        return count, data


def _uncoded_by_four(codes: _Codes, data: bytes, count: int) -> bytearray:
    """Symbols of four streams, each a quarter of them, rounded up, but for the last (4.2.2)."""
    sizes = [int.from_bytes(_part(data, place, place + 2), "little") for place in (0, 2, 4)]
    ends = [*accumulate(sizes, initial=6), len(data)]
    quarter = (count + 3) // 4
    counts = [quarter, quarter, quarter, count - 3 * quarter]
    if counts[-1] < 0:
        raise _damaged("there are too few literals for four streams")
    found = bytearray()
    for start, stop, own in zip(ends, ends[1:], counts, strict=False):
        found += _uncoded(codes, _part(data, start, max(start, stop)), own)
    return found
