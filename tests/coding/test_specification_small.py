"""A decoder of the ``small`` coder written from docs/format.md alone, in plain integers, agrees with the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaq import container
from metaq.coding.chunks import StreamShape
from metaq.coding.context import small
from metaq.coding.context.prediction import Prediction
from metaq.container.coders import CHUNK_CODERS
from metaq.errors import CodecError

CODER = CHUNK_CODERS["small"]
Symbols = NDArray[np.int32]
GOLDEN = Path(__file__).parents[1] / "golden" / "v1-small.metaq"

# The decoder. Nothing of metaq is used up to the tests, except what a StreamShape holds.

EXPONENTIALS = [1 << 40]
for _ in range(3072):
    EXPONENTIALS.append(4278222805 * EXPONENTIALS[-1] >> 32)
UPPER = [(1 << 68) // ((1 << 40) + each) for each in EXPONENTIALS]
CUMULATIVE = [(1 << 28) - UPPER[-x] if x < 0 else UPPER[x] for x in range(-3072, 3073)]
LOGISTIC = [(each + (1 << 11)) >> 12 for each in CUMULATIVE]

PARITY_CHECKS = {
    2: (0o5, 0o2),
    3: (0o13, 0o4),
    4: (0o23, 0o4),
    5: (0o45, 0o10),
    6: (0o103, 0o24),
    7: (0o235, 0o126),
    8: (0o515, 0o362),
}
FIRST_SCALES = (2, 2, 2, 2, 2, 4, 5, 8, 11, 16, 22, 32, 45, 64, 90, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048)
FIRST_WEIGHTS = (0, 1300, 1650, 2300, 2950, 3300, 3300, 2600)
EXPERT_WEIGHTS = (9000, 9000, 8500, 6000)


class RefusedError(Exception):
    pass


def clip(x: int, lowest: int, highest: int) -> int:
    return min(max(x, lowest), highest)


def logits() -> list[int]:
    found, x = [], -3072
    for p in range(65536):
        while LOGISTIC[x + 3072] < p:
            x += 1
        found.append(clip(x, -3071, 3071))
    return found


LOGIT = logits()


def digit(v: int, number: int) -> int:
    """The binary digit of `v` with this number, counted from the highest, which is 1; 0 if there is none."""
    place = v.bit_length() - number
    return v >> place & 1 if place >= 0 else 0


def level(v: int) -> int:
    v = min(v, 4095)
    return min(2 * v.bit_length() - 1 + digit(v, 2), 23) if v else 0


def fine(v: int) -> int:
    v = min(v, 4095)
    return clip(4 * v.bit_length() - 4 + 2 * digit(v, 2) + digit(v, 3), 1, 47) if v else 0


def rate(count: int) -> int:
    return (1 << 23) // (2 * count + 3)


def sign(v: int) -> int:
    return (v > 0) - (v < 0)


class Slot:
    def __init__(self, probability: int = 1 << 29) -> None:
        self.probability, self.count = probability, 0

    def learn(self, bit: int, limit: int) -> None:
        self.probability += ((bit * ((1 << 30) - 1) - self.probability) * rate(self.count)) >> 22
        self.count = min(self.count + 1, limit)


class RangeDecoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.taken = data, 4
        self.low, self.width = 0, 1 << 32
        self.code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def decide(self, p: int) -> int:
        bound = (self.width * clip(p, 2, 65534)) >> 16
        bit = int((self.code - self.low) % (1 << 32) < bound)
        if bit:
            self.width = bound
        else:
            self.low, self.width = self.low + bound, self.width - bound
        while self.width < 1 << 24:
            byte = self.data[self.taken] if self.taken < len(self.data) else 0
            self.taken += 1
            self.low, self.width = (self.low << 8) % (1 << 32), self.width << 8
            self.code = (self.code << 8) % (1 << 32) + byte
        self.low %= 1 << 32
        return bit

    def plain(self, width: int = 1) -> int:
        value = 0
        for _ in range(width):
            value = 2 * value + self.decide(32768)
        return value

    def number(self) -> int:
        further = 0
        while self.plain():
            further += 1
            if further > 40:
                raise RefusedError
        return (1 << further) + self.plain(further) - 1

    def integer(self) -> int:
        number = self.number()
        return -(number + 1) // 2 if number % 2 else number // 2

    def decide_slot(self, slot: Slot, limit: int) -> int:
        bit = self.decide(slot.probability >> 14)
        slot.learn(bit, limit)
        return bit

    def finish(self) -> None:
        for dropped in (4, 3, 2, 1, 0):
            unit = 256**dropped
            multiple = -(-self.low // unit) * unit
            if multiple < self.low + self.width:
                break
        if len(self.data) != self.taken - dropped or self.code != multiple % (1 << 32):
            raise RefusedError


def mix(inputs: list[int], weights: list[int]) -> int:
    total = sum(t * w for t, w in zip(inputs, weights, strict=True))
    return clip(LOGISTIC[clip(total >> 16, -3071, 3071) + 3072], 2, 65534)


def moved(state: int, symbol: int, shape: StreamShape) -> int:
    """State of the trellis after a symbol."""
    if not shape.trellis_bits:
        return 0
    feedback, forward = PARITY_CHECKS[shape.trellis_bits]
    register = state ^ feedback if state & 1 else state
    return (register ^ forward if (symbol - (shape.alphabet_size - 1) // 2) & 1 else register) >> 1


def rows_of(shape: StreamShape) -> int:
    """Row length, 0 if the stream has no rows."""
    return shape.row_length if 0 < shape.row_length < shape.count and shape.count % shape.row_length == 0 else 0


def decode(payload: bytes, shapes: list[StreamShape], facts: list[dict[str, Any]] | None = None) -> list[list[int]]:
    """The symbols of all streams; what the streams say of themselves is appended to `facts`."""
    code = RangeDecoder(payload)
    deep = DeepRecipe(code) if code.plain() else None
    offset, streams = 0, []
    for shape in shapes:
        central = (shape.alphabet_size - 1) // 2
        offset += code.integer()
        mode = central + offset
        if not 0 <= mode < shape.alphabet_size:
            raise RefusedError
        told = {"deep": deep is not None, "mode": mode}
        if deep is None:
            streams.append(WideStream(code, shape, mode).decode())
        else:
            streams.append(deep.decode(shape, mode, told))
        if facts is not None:
            facts.append(told)
    code.finish()
    return streams


class WideStream:
    def __init__(self, code: RangeDecoder, shape: StreamShape, mode: int) -> None:
        self.code, self.shape, self.mode = code, shape, mode
        self.slots: dict[tuple[Any, ...], Slot] = {}
        self.weights = [[17000] * 4 for _ in range(32)]

    def decode(self) -> list[int]:
        shape, mode, row = self.shape, self.mode, rows_of(self.shape)
        columns = [0] * row
        total, expected = 1 << 17, 1 << 17
        state = 0
        symbols: list[int] = []

        def before(distance: int) -> int:
            return abs(symbols[-distance] - mode) if distance <= len(symbols) else 0

        for i in range(shape.count):
            column = i % row if row else i
            above, beside = (before(row), before(max(row - 1, 1))) if row and i >= row else (0, 0)
            of_column = columns[column] if row else 4096
            near = level(4 * (2 * before(1) + before(2) + 2 * above + beside))
            scale = fine((min(of_column, 1 << 26) * min(256 * total // expected, 1 << 26)) >> 14)
            residual = self.residual(state & 1, near, scale)
            symbol = mode + residual
            if not 0 <= symbol < shape.alphabet_size:
                raise RefusedError
            symbols.append(symbol)
            y = 4096 * min(abs(residual), 1 << 30)
            total, expected = min(total + y, (1 << 55) - 1), min(expected + of_column, (1 << 55) - 1)
            state = moved(state, symbol, shape)
            if row:
                columns[column] += ((y - of_column) * rate(min(i // row + 1, 150))) >> 22
                if column == row - 1:
                    total = expected = 32 * max(expected // (row + 32), 1)
                    state = 0
            elif expected > 1 << 20:
                total, expected = total >> 1, expected >> 1
        return symbols

    def residual(self, quantizer: int, near: int, scale: int) -> int:
        contexts = (("first", quantizer), ("near", near, quantizer), ("scale", scale, quantizer))
        contexts += (("both", near, scale >> 1),)
        ones = 0
        while self.mixed(ones, [self.slot(*context, ones) for context in contexts]):
            ones += 1
            if ones == 32:
                raise RefusedError
        if ones == 0:
            return 0
        positive = self.code.decide_slot(self.slot("sign"), 4000)
        further, found = ones - 1, 1
        for number in range(further):
            slot = self.slot("digit", further, found)
            found = 2 * found + (self.code.decide_slot(slot, 4000) if number < 3 else self.code.plain())
        return found if positive else -found

    def slot(self, *key: Any) -> Slot:
        return self.slots.setdefault(key, Slot())

    def mixed(self, k: int, slots: list[Slot]) -> int:
        weights = self.weights[k]
        inputs = [LOGIT[slot.probability >> 14] for slot in slots]
        p = mix(inputs, weights)
        bit = self.code.decide(p)
        for j, t in enumerate(inputs):
            weights[j] += (t * (65536 * bit - p) * 3 + (1 << 19)) >> 20
        for slot in slots:
            slot.learn(bit, 4000)
        return bit


class DeepRecipe:
    """What is kept from stream to stream, and how decisions are mixed."""

    def __init__(self, code: RangeDecoder) -> None:
        self.code = code
        self.slots: dict[tuple[Any, ...], Slot] = {}
        self.row_slots = {hint: Slot() for hint in (0, 1, None)}
        factors = [3 if j in (9, 10) else 2 for j in range(13)]
        first = [[factor * each for each in FIRST_WEIGHTS] for factor in factors]
        first += [[each] * 8 for each in EXPERT_WEIGHTS]
        self.weights = [[list(each) for each in first] for _ in range(6)]
        self.ages = [0] * 6
        self.scales: dict[tuple[int, ...], list[int]] = {}
        self.of_vector: list[int] = []
        self.of_matrix: list[int] = []

    def decode(self, shape: StreamShape, mode: int, told: dict[str, Any]) -> list[int]:
        row = rows_of(shape)
        follows, period, coefficients = 0, 0, [0] * 6
        if row:
            follows, period = self.code.plain(), self.code.number()
            if period:
                if not 2 <= period <= 255:
                    raise RefusedError
                coefficients = [self.code.plain(7) - 64 for _ in range(6)]
        stream = DeepStream(self, shape, mode, follows=follows, period=period, coefficients=coefficients)
        if row:
            stream.row_hints = hints(shape.count // row, [self.of_vector, self.of_matrix])
            stream.column_hints = hints(row, [self.of_matrix, self.of_vector])
        told.update(follows=follows, period=period, rows=row)
        told.update(row_hints=stream.row_hints, column_hints=stream.column_hints)
        symbols = stream.decode()
        others = [int(symbol != mode) for symbol in symbols]
        if row:
            self.of_matrix = [max(others[start : start + row]) for start in range(0, len(others), row)]
        else:
            self.of_vector = others
        return symbols

    def slots_at(self, values: list[Any], node: tuple[Any, ...]) -> list[Slot]:
        ground = self.slots.setdefault((0, values[0], node), Slot())
        slots = [ground]
        for j in range(1, 12):
            key = (j, values[j], node)
            if key not in self.slots:
                self.slots[key] = Slot(ground.probability)
            slots.append(self.slots[key])
        key = (12, values[12], node)
        if node not in (("flag",), ("sign",), ("length", 0, -1), ("length", 1, -1)):
            slots.append(ground)
        else:
            slots.append(self.slots.setdefault(key, Slot(ground.probability)))
        return slots

    def scale(self, expert: int, class_: tuple[int, ...]) -> list[int]:
        """Scale and count."""
        return self.scales.setdefault((expert, *class_), [256 * FIRST_SCALES[class_[-1]], 3])

    def mixed(self, values: list[Any], node: tuple[Any, ...], experts: list[tuple[int, int]]) -> int:
        """Decide at `node` with the contexts' values, and input and count of every expert."""
        sets = {"flag": 0, "sign": 1, "length": 2, "digit": 5}
        chosen = sets[node[0]] + (min(node[1], 2) if node[0] == "length" else 0)
        slots = self.slots_at(values, node)
        inputs = [LOGIT[slot.probability >> 14] for slot in slots] + [each[0] for each in experts]
        counts = [slot.count for slot in slots] + [each[1] for each in experts]
        classes = [sum(edge <= count for edge in (1, 2, 4, 8, 16, 40, 120)) for count in counts]
        weights = self.weights[chosen]
        p = mix(inputs, [weights[j][class_] for j, class_ in enumerate(classes)])
        bit = self.code.decide(p)
        gain = 20 + 280000 // (700 + self.ages[chosen])
        self.ages[chosen] += 1
        for j, class_ in enumerate(classes):
            weights[j][class_] += (inputs[j] * (65536 * bit - p) * gain + (1 << 23)) >> 24
        for slot in slots if slots[12] is not slots[0] else slots[:12]:
            slot.learn(bit, 400)
        return bit


def hints(count: int, lists: list[list[int]]) -> list[int] | None:
    for each in lists:
        if each and count % len(each) == 0:
            return [bit for bit in each for _ in range(count // len(each))]
    return None


def density(hits: int, seen: int) -> int:
    if hits == 0:
        return min(seen.bit_length(), 7)
    k = 0
    while k < 7 and hits << k < seen:
        k += 1
    return 8 + 8 * (0 if hits == 1 else 1 if hits < 4 else 2) + k


class DeepStream:
    def __init__(
        self, recipe: DeepRecipe, shape: StreamShape, mode: int, *, follows: int, period: int, coefficients: list[int]
    ) -> None:
        self.recipe, self.shape, self.mode = recipe, shape, mode
        self.follows, self.period, self.coefficients = follows, period, coefficients
        self.row = rows_of(shape)
        self.row_hints: list[int] | None = None
        self.column_hints: list[int] | None = None
        self.symbols: list[int] = []
        self.residuals: list[int] = []
        self.errors: list[int] = []
        self.flags = 0
        self.column_hits = [0] * self.row
        self.begin_row()

    def begin_row(self) -> None:
        self.row_hits, self.base, self.votes, self.state = 0, self.mode, 1, 0

    def decode(self) -> list[int]:
        row = self.row
        while len(self.symbols) < self.shape.count:
            i = len(self.symbols)
            if row and i % row == 0:
                self.begin_row()
                hint = self.row_hints[i // row] if self.row_hints else None
                if row >= 4 and not self.recipe.code.decide_slot(self.recipe.row_slots[hint], 250):
                    self.symbols += [self.mode] * row
                    self.residuals += [0] * row
                    self.errors += [0] * row
                    continue
            self.decode_symbol(i)
        return self.symbols

    def residual_before(self, distance: int) -> int:
        return self.residuals[-distance] if distance <= len(self.residuals) else 0

    def error_before(self, distance: int) -> int:
        return self.errors[-distance] if distance <= len(self.errors) else 0

    def predicted(self, i: int) -> int:
        if not self.period:
            return 16 * self.mode
        lags = (1, self.period, self.period + 1, self.period - 1, 2, self.row)
        others = [self.symbols[i - lag] - self.mode if i >= lag else 0 for lag in lags]
        total = sum(a * x for a, x in zip(self.coefficients, others, strict=True))
        return 16 * self.mode + ((16 * total) >> 5)

    def decode_symbol(self, i: int) -> None:
        row, residual, error = self.row, self.residual_before, self.error_before
        left, column = residual(1), i % row if row else i
        above, above2, aboveleft, aboveright, across, columns = 0, 0, 0, 0, 0, 0
        if row:
            above, above2 = residual(row), residual(2 * row)
            aboveleft = residual(row + 1) if column > 0 else 0
            aboveright = residual(row - 1) if column < row - 1 else 0
            across = level(2 * error(row) + error(2 * row))
            columns = density(self.column_hits[column], i // row)
        m = self.predicted(i)
        lag = max(self.period, 1)
        near = level(4 * (2 * abs(left) + abs(residual(2)) + abs(above)))
        along = level(2 * error(1) + (error(lag) if i >= lag else error(1)) + error(2))
        rows = density(self.row_hits, column)
        offset = m - 16 * self.base
        values = [
            self.state & 1,
            self.flags & 63,
            (min(abs(left), 2), min(abs(above), 2), aboveleft == 0, aboveright == 0, above2 == 0),
            columns,
            rows,
            (columns, rows),
            (self.flags.bit_count(), left == 0),
            (sign(left), sign(above), min(abs(left), 2)),
            (min(near, 15), min(across, 15)),
            clip(offset >> 3, -32, 31),
            (
                self.row_hints[i // row] if self.row_hints else None,
                self.column_hints[column] if self.column_hints else None,
            ),
            (clip(left, -20, 20), sign(above)),
            column % (1 << 16) if row else 0,
        ]
        classes = [(along,), (across,), (along, across), (near, min(columns, 23))]
        scales = [self.recipe.scale(expert, class_) for expert, class_ in enumerate(classes)]
        found = ResidualDecoder(self, values, scales, [offset] * 3 + [0]).decode()
        symbol = self.base + found
        if not 0 <= symbol < self.shape.alphabet_size:
            raise RefusedError
        self.learn(column, symbol, found, abs(16 * symbol - m), scales)

    def learn(self, column: int, symbol: int, residual: int, error: int, scales: list[list[int]]) -> None:
        for expert, scale in enumerate(scales):
            distance = 16 * abs(residual) if expert == 3 else min(error, 1 << 35)
            scale[0] += ((256 * distance - scale[0]) * rate(scale[1])) >> 22
            scale[1] = min(scale[1] + 1, 60)
        self.symbols.append(symbol)
        self.residuals.append(residual)
        self.errors.append(min(error, 4095))
        self.flags = (2 * self.flags + (residual != 0)) % (1 << 32)
        self.row_hits += symbol != self.mode
        if self.row:
            self.column_hits[column] += symbol != self.mode
        if self.follows:
            if residual == 0:
                self.votes = min(self.votes + 1, 8)
            elif self.votes > 0:
                self.votes -= 1
            else:
                self.base = symbol
        self.state = moved(self.state, symbol, self.shape)


class ResidualDecoder:
    """The decisions of one residual."""

    def __init__(self, stream: DeepStream, values: list[Any], scales: list[list[int]], centres: list[int]) -> None:
        self.stream, self.values, self.centres = stream, values, centres
        self.inverses = [(1 << 28) // max((185 * scale) >> 8, 256) for scale, _ in scales]
        self.counts = [count for _, count in scales]

    def below(self, expert: int, x: int, mirror: int = 1) -> int:
        logit = ((16 * x - 8 - mirror * self.centres[expert]) * self.inverses[expert]) >> 12
        return CUMULATIVE[clip(logit, -3072, 3072) + 3072]

    def decide(self, node: tuple[Any, ...], masses: list[tuple[int, int]]) -> int:
        """Decide, given what every expert says for 1 and for 0."""
        inputs = [LOGIT[65536 * (one + 64) // (one + zero + 128)] for one, zero in masses]
        return self.stream.recipe.mixed(self.values, node, list(zip(inputs, self.counts, strict=True)))

    def decode(self) -> int:
        total, below, experts = 1 << 28, self.below, range(4)
        zeros = [below(expert, 1) - below(expert, 0) for expert in experts]
        if not self.decide(("flag",), [(total - zero, zero) for zero in zeros]):
            return 0
        base, highest = self.stream.base, self.stream.shape.alphabet_size - 1
        if base in (0, highest):
            positive = base == 0
        else:
            masses = [(total - below(expert, 1), below(expert, 0)) for expert in experts]
            positive = self.decide(("sign",), masses) == 1
        mirror = 1 if positive else -1
        return mirror * self.magnitude(mirror)

    def magnitude(self, mirror: int) -> int:
        experts, length = range(4), 0
        while True:
            edges = [[self.below(expert, x << length, mirror) for x in (1, 2)] for expert in experts]
            masses = [((1 << 28) - middle, middle - low) for low, middle in edges]
            if not self.decide(("length", length, mirror), masses):
                break
            length += 1
            if length == 31:
                raise RefusedError
        found = 1
        for place in range(length - 1, -1, -1):
            if length - place > 3:
                bit = self.stream.recipe.code.plain()
            else:
                inner = [2 * found, 2 * found + 1, 2 * found + 2]
                edges = [[self.below(expert, x << place, mirror) for x in inner] for expert in experts]
                masses = [(high - middle, middle - low) for low, middle, high in edges]
                bit = self.decide(("digit", min(length, 26), found), masses)
            found = 2 * found + bit
        return found


# The tests.


def force(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let the encoder use the deep or the wide recipe whatever the sizes."""
    patch.setattr(small, "DEEP_SYMBOLS", 1 << 26 if name == "deep" else -1)
    patch.setattr(small, "WORTHWHILE", 0.0)


def shape_of(stream: Symbols, alphabet_size: int, row_length: int = 0, trellis_bits: int = 0) -> StreamShape:
    return StreamShape(count=stream.size, alphabet_size=alphabet_size, row_length=row_length, trellis_bits=trellis_bits)


def check(streams: list[Symbols], shapes: list[StreamShape]) -> list[dict[str, Any]]:
    """Encode with metaq, decode from the description and compare; what the streams say of themselves."""
    payload = CODER.encode_chunk(streams, shapes)
    facts: list[dict[str, Any]] = []
    assert decode(payload, shapes, facts) == [stream.tolist() for stream in streams]
    return facts


def refuses(payload: bytes, shapes: list[StreamShape]) -> bool:
    try:
        CODER.decode_chunk(payload, shapes)
    except CodecError:
        return True
    return False


def laplacian(seed: int, count: int, scale: float, alphabet_size: int = 255) -> Symbols:
    drawn = np.random.default_rng(seed).laplace((alphabet_size - 1) // 2, scale, count)
    return np.clip(np.round(drawn), 0, alphabet_size - 1).astype(np.int32)


def with_dead_units(stream: Symbols, row_length: int, symbol: int, share: float = 0.4, seed: int = 5) -> Symbols:
    """`stream` with `symbol` throughout in some rows and columns."""
    rng = np.random.default_rng(seed)
    matrix = stream.reshape(-1, row_length).copy()
    matrix[rng.random(len(matrix)) < share] = symbol
    matrix[:, rng.random(row_length) < share] = symbol
    return matrix.reshape(-1)


@st.composite
def chunks(draw: st.DrawFn) -> tuple[list[Symbols], list[StreamShape]]:
    streams, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
        rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        alphabet_size = draw(st.sampled_from([2, 3, 255, 5000, 1 << 31]))
        spread = min(alphabet_size, 1 << int(rng.integers(1, 32)))
        lowest = draw(st.sampled_from([0, (alphabet_size - spread) // 2, alphabet_size - spread]))
        drawn = rng.integers(lowest, lowest + spread, rows * columns)
        symbol = int(rng.integers(lowest, lowest + spread))
        stream = np.where(rng.random(drawn.size) < draw(st.sampled_from([0.0, 0.8, 1.0])), symbol, drawn)
        stream = with_dead_units(stream.astype(np.int32), columns, symbol, draw(st.sampled_from([0.0, 0.5])))
        streams.append(stream)
        row_length = draw(st.sampled_from([0, columns, columns, columns + 1]))
        shapes.append(
            shape_of(stream, alphabet_size, row_length, draw(st.sampled_from([0, 0, 0, 0, 2, 3, 4, 5, 6, 7, 8])))
        )
    return streams, shapes


@settings(max_examples=120)
@given(chunk=chunks(), choice=st.none() | st.tuples(st.booleans(), st.sampled_from([0, 2, 3, 7, 255]), st.integers()))
def test_deep_chunks_agree(
    chunk: tuple[list[Symbols], list[StreamShape]], choice: tuple[bool, int, int] | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if choice is not None:
            # Options that the encoder would not choose for such streams.
            follows, period, seed = choice
            drawn = np.random.default_rng(abs(seed)).integers(-64, 64, 6)
            prediction = Prediction(period=period, coefficients=tuple(drawn.tolist())) if period else Prediction()
            options = small._Options(follows_rows=follows, prediction=prediction)
            patch.setattr(small, "_best_options", lambda _, shape: options if rows_of(shape) else small._Options())
        facts = check(*chunk)
    assert all(each["deep"] for each in facts)


@settings(max_examples=120)
@given(chunk=chunks())
def test_wide_chunks_agree(chunk: tuple[list[Symbols], list[StreamShape]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        force(patch, "wide")
        facts = check(*chunk)
    assert not any(each["deep"] for each in facts)


def test_a_large_chunk_is_wide_and_agrees() -> None:
    first = with_dead_units(laplacian(1, 1000 * 100, 0.15), 100, 127, share=0.1)
    second = laplacian(2, 40_000, 0.2)
    facts = check([first, second], [shape_of(first, 255, 100, 3), shape_of(second, 255)])
    assert not any(each["deep"] for each in facts)


@pytest.mark.parametrize("name", ["deep", "wide"])
def test_laplacian_weights_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, name)
    streams = [laplacian(seed, 1500, scale) for seed, scale in enumerate((0.6, 3.0, 20.0, 2.0))]
    streams[0] = with_dead_units(streams[0], 5, 127)
    shapes = [
        shape_of(stream, 255, row, bits) for stream, row, bits in zip(streams, (5, 50, 0, 1), (0, 3, 0, 2), strict=True)
    ]
    check(streams, shapes)


@pytest.mark.parametrize("name", ["deep", "wide"])
def test_the_largest_alphabet_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, name)
    rng = np.random.default_rng(3)
    stream = rng.choice(np.array([0, 1, (1 << 31) - 2, (1 << 31) - 1]), 96).astype(np.int32)
    other = laplacian(4, 96, 2.0**27, 1 << 31)
    check(
        [stream, other, stream], [shape_of(stream, 1 << 31, 8), shape_of(other, 1 << 31, 8), shape_of(stream, 1 << 31)]
    )


@pytest.mark.parametrize("name", ["deep", "wide"])
@pytest.mark.parametrize("row_length", [0, 3, 4, 60])
def test_constant_streams_agree(name: str, row_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, name)
    streams = [np.full(1200, symbol, dtype=np.int32) for symbol in (0, 6, 3)]
    check(streams, [shape_of(streams[0], 7, row_length)] * 3)


def test_predicted_streams_agree() -> None:
    rng = np.random.default_rng(9)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (40, 7, 7)), axis=1), axis=2)
    stream = np.clip(np.round(127 + 5 * smooth), 0, 254).astype(np.int32).reshape(-1)
    (facts,) = check([stream], [shape_of(stream, 255, 49)])
    assert facts["period"] == 7


def test_a_base_that_follows_the_symbols_agrees() -> None:
    rng = np.random.default_rng(10)
    runs = np.repeat(rng.integers(0, 5000, (20, 6)), 16, axis=1)
    stream = (runs + (rng.random(runs.shape) < 0.1)).clip(0, 4999).astype(np.int32).reshape(-1)
    (facts,) = check([stream], [shape_of(stream, 5000, 96)])
    assert facts["follows"] == 1


def test_hints_from_earlier_streams_agree() -> None:
    """Of a small network: a weight, a bias, the weight once more, and one whose columns are the first one's rows."""
    rng = np.random.default_rng(12)
    alive, biased = rng.random((2, 12)) < 0.5
    first = np.where(alive[:, None], laplacian(13, 120, 2.0).reshape(12, 10), 127).astype(np.int32).reshape(-1)
    bias = np.where(biased, np.arange(100, 112), 127).astype(np.int32)
    second = np.where(np.repeat(alive, 5), laplacian(14, 24 * 60, 2.0).reshape(24, 60), 127)
    second = second.astype(np.int32).reshape(-1)
    shapes = [shape_of(first, 255, 10), shape_of(bias, 255), shape_of(first, 255, 10), shape_of(second, 255, 60)]
    facts = check([first, bias, first, second], shapes)
    assert [each["mode"] for each in facts] == [127] * 4
    assert facts[0]["row_hints"] is facts[0]["column_hints"] is None
    assert facts[2]["row_hints"] == biased.tolist()
    assert facts[2]["column_hints"] is None
    assert facts[3]["row_hints"] == np.repeat(biased, 2).tolist()
    assert facts[3]["column_hints"] == np.repeat(alive, 5).tolist()


@pytest.mark.parametrize("name", ["deep", "wide"])
@pytest.mark.parametrize("row_length", [0, 1, 400])
def test_long_runs_agree(name: str, row_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until probabilities are as near to certainty as they may be, and then something else."""
    force(monkeypatch, name)
    stream = np.full(6000, 2, dtype=np.int32)
    stream[[30, 1200, 1201, 1603, 2009, 2100, 5900, 5990]] = [3, 4, 1, 0, 3, 3, 1, 4]
    check([stream], [shape_of(stream, 5, row_length)])


@pytest.mark.parametrize("usual", [[2, 2, 2, 2], [3, 2, 2, 2]])
def test_many_rows_alike_agree(usual: list[int]) -> None:
    stream = np.tile(np.array(usual, dtype=np.int32), 2000)
    stream[[7000, 7401]], stream[7600:7604] = [4, 1], 2
    check([stream], [shape_of(stream, 5, 4)])


def test_wide_rows_after_empty_ones_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, "wide")
    stream = laplacian(17, 4000, 1.0, 15)
    stream[: 40 * 40] = 7
    stream[40 * 60 :][np.random.default_rng(18).random(1600) < 0.9] = 7
    check([stream], [shape_of(stream, 15, 40)])


def test_wide_slots_at_their_limit_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, "wide")
    stream = np.random.default_rng(21).choice(np.array([4, 5, 7, 7, 9, 10], dtype=np.int32), 8000)
    check([stream], [shape_of(stream, 15)])


def test_predictions_far_outside_the_alphabet_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = Prediction(period=2, coefficients=(-64,) * 6)
    monkeypatch.setattr(small, "_best_options", lambda *_: small._Options(prediction=prediction))
    stream = np.random.default_rng(19).integers((1 << 31) - 100, (1 << 31) - 1, 60).astype(np.int32)
    stream[::3] = 0
    check([stream, stream], [shape_of(stream, 1 << 31, 10), shape_of(stream, 1 << 31, 6)])


@pytest.mark.parametrize("period", [1, 256])
def test_other_periods_are_refused(period: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = laplacian(20, 60, 1.0)
    shapes = [shape_of(stream, 255, 10)]
    with monkeypatch.context() as patch:
        patch.setattr(small, "MIN_PERIOD", 1)
        patch.setattr(small, "MAX_PERIOD", 256)
        options = small._Options(prediction=Prediction(period=period))
        patch.setattr(small, "_best_options", lambda *_: options)
        payload = CODER.encode_chunk([stream], shapes)
    assert refuses(payload, shapes)
    with pytest.raises(RefusedError):
        decode(payload, shapes)


@pytest.mark.slow
def test_rows_longer_than_there_are_column_contexts_agree() -> None:
    length = (1 << 16) + 10
    stream = np.full(2 * length, 1, dtype=np.int32)
    stream[length::9] = 2
    with pytest.MonkeyPatch.context() as patch:
        force(patch, "deep")
        patch.setattr(small, "_best_options", lambda *_: small._Options())
        check([stream], [shape_of(stream, 3, length)])


def test_a_chunk_without_streams_has_no_bytes() -> None:
    assert CODER.encode_chunk([], []) == b""
    assert decode(b"", []) == []


@pytest.mark.parametrize("name", ["deep", "wide"])
def test_damaged_chunks_are_refused_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, name)
    streams = [laplacian(15, 24, 1.0, 15), laplacian(16, 10, 1.0, 15)]
    shapes = [shape_of(streams[0], 15, 6, 2), shape_of(streams[1], 15)]
    payload = CODER.encode_chunk(streams, shapes)
    damaged = [payload[:length] for length in range(len(payload))] + [payload + b"\0"]
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for data in damaged:
        try:
            symbols = decode(data, shapes)
        except RefusedError:
            assert refuses(data, shapes)
        else:
            assert symbols == [stream.tolist() for stream in CODER.decode_chunk(data, shapes)]


def golden_chunks() -> Iterator[tuple[bytes, list[container.Piece]]]:
    data = GOLDEN.read_bytes()
    for chunk in container.read(GOLDEN).chunks:
        if chunk.coder == "small":
            yield data[chunk.offset_bytes : chunk.offset_bytes + chunk.size_bytes], list(chunk.pieces)


def test_the_golden_file_agrees() -> None:
    tensors = container.read(GOLDEN).tensors
    for payload, pieces in golden_chunks():
        decoded = decode(payload, [piece.shape for piece in pieces])
        for piece, symbols in zip(pieces, decoded, strict=True):
            tensor = tensors[piece.tensor]
            matrix = tensor.indices.reshape(tensor.indices.shape[0], -1)
            scanned = (matrix.T if tensor.scan == "columns" else matrix).reshape(-1)
            assert symbols == scanned[piece.start : piece.start + piece.shape.count].tolist()
