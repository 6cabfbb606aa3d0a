"""Exact tensors in planes: round trips, sizes, forms, damage, and a decoder from the format description alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaq.coding import zstd
from metaq.coding.chunks import StreamShape
from metaq.coding.planes import chunk, packing
from metaq.coding.planes.choosing import coded
from metaq.coding.planes.elements import Elements, ElementShape, Turn, element_shape, turned, turned_back
from metaq.coding.planes.form import Field, Form, Kind, Way, read_form
from metaq.container.coders import CODERS, name_of
from metaq.errors import CodecError
from metaq.tensors.narrow_floats import bfloat16_bits
from metaq.tensors.quantized import Dtype

Piece = tuple[Elements, ElementShape]


def piece_of(values: NDArray[np.generic], dtype: Dtype, *, row_length: int | None = None) -> Piece:
    """A whole tensor as a piece."""
    rows = math.prod(values.shape[1:]) if values.ndim > 1 else 0
    shape = element_shape(dtype, values.shape, values.size, rows if row_length is None else row_length)
    return np.ascontiguousarray(values).reshape(-1).view(shape.storage), shape


def check(pieces: Sequence[Piece], *, is_small: bool = False) -> tuple[bytes, list[Form]]:
    """Payload of pieces that come back, and their forms."""
    shapes = [shape for _, shape in pieces]
    chosen = [coded(*piece) for piece in pieces]
    payload = chunk.encode_chunk(chosen, shapes, is_small=is_small)
    for found, (elements, _) in zip(chunk.decode_chunk(payload, shapes), pieces, strict=True):
        assert found.dtype == elements.dtype
        np.testing.assert_array_equal(found, elements)
    return payload, [each.form for each in chosen]


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype("<f4")


def as_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return bfloat16_bits(values.reshape(-1)).reshape(values.shape)


def saved(values: NDArray[np.generic], dtype: Dtype) -> float:
    return 1 - len(check([piece_of(values, dtype)])[0]) / values.nbytes


# A decoder from the description, in plain integers.


def reference(payload: bytes, shapes: Sequence[ElementShape]) -> list[list[int]]:
    position = 1
    forms = []

    def varint() -> int:
        nonlocal position
        value, shift = 0, 0
        while True:
            byte = payload[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def take(count: int) -> bytes:
        nonlocal position
        position += count
        return payload[position - count : position]

    for shape in shapes:
        first = take(1)[0]
        way, turn, by_columns = first % 4, first // 4 % 4, first // 16
        size = varint() if way in (1, 3) else 0
        row_length = (varint() or shape.row_length + 1) - 1 if way >= 2 else 0
        fields: list[tuple[int, int]] = []
        while way == 2 and sum(width for _, width in fields) < shape.bits:
            fields.append(divmod(take(1)[0], 64))
        forms.append((way, turn, by_columns, size, row_length, fields))
    bodies, streams = [], []
    for (way, _, by_columns, size, row_length, fields), shape in zip(forms, shapes, strict=True):
        raw_bits = sum(width for kind, width in fields if kind == 1)
        sizes = [shape.count * shape.itemsize, size, (shape.count * raw_bits + 7) // 8, size * shape.itemsize]
        bodies.append(take(sizes[way]))
        alphabets = [size] if way == 3 else [2**width for kind, width in fields if kind == 2]
        told = shape.count // row_length if by_columns else row_length
        streams += [StreamShape(count=shape.count, alphabet_size=each, row_length=told) for each in alphabets]
    symbols = iter([])
    if streams:
        name = name_of(payload[0])
        assert name in ("small", "fast")
        symbols = iter(CODERS[name].decode_chunk(payload[position:], streams))
    else:
        assert (payload[0], position) == (0, len(payload))
    return [
        reference_piece(form, shape, body, symbols) for form, shape, body in zip(forms, shapes, bodies, strict=True)
    ]


def reference_piece(form, shape, body, symbols):
    way, turn, by_columns, _, row_length, fields = form
    if way == 1:
        body = zstd.decompress(body, shape.count * shape.itemsize)
    listed = [int.from_bytes(body[at : at + shape.itemsize], "little") for at in range(0, len(body), shape.itemsize)]
    if way in (0, 1):
        return listed
    if way == 3:
        found = [listed[symbol] for symbol in next(symbols)]
    else:
        own = [next(symbols) for kind, _ in fields if kind == 2]
        bits, position = int.from_bytes(body, "little"), 0
        found = []
        for number in range(shape.count):
            element, shift, coded_fields = 0, 0, iter(reversed(own))
            for kind, width in reversed(fields):
                if kind == 1:
                    element |= (bits >> position & (1 << width) - 1) << shift
                    position += width
                elif kind == 2:
                    element |= int(next(coded_fields)[number]) << shift
                shift += width
            top = shape.bits - 1
            found.append([element, element >> 1 | (element & 1) << top, element ^ 1 << top][turn])
        assert bits >> position == 0
    if not by_columns:
        return found
    rows = shape.count // row_length
    return [found[column * rows + row] for row in range(rows) for column in range(row_length)]


def varied(seed: int, scale: int = 1) -> list[Piece]:
    """Pieces of every form and every size of elements."""
    generator = np.random.default_rng(seed)
    weights = normal(seed, 30 * scale, 20)
    columns = (generator.integers(0, 3, (600 * scale, 20)) + 40 * (np.arange(20) % 3)).astype("u1")
    halves = generator.binomial(15, 0.5, (8, 600)).astype("<u4")
    packed = (halves << (4 * np.arange(8, dtype="<u4"))[:, None]).sum(axis=0, dtype="<u4")
    return [
        piece_of(weights, Dtype.float32),
        piece_of(as_bfloat16(weights), Dtype.bfloat16),
        piece_of(weights.astype("<f2"), Dtype.float16),
        piece_of((weights.view("<u4") & 0xFFFF0000).view("<f4"), Dtype.float32),
        piece_of(weights.astype("<f8") / 3, Dtype.float64),
        piece_of((weights[::2] + 1j * weights[1::2]).astype("<c8"), Dtype.complex64),
        piece_of((weights[::2] + 1j * weights[1::2]).astype("<c16"), Dtype.complex128),
        piece_of(np.round(weights * 300).astype("i1"), Dtype.int8),
        piece_of(np.round(weights * 300).astype("<i8"), Dtype.int64),
        piece_of(columns, Dtype.uint8),
        piece_of(packed.view("<i4").reshape(20, 30), Dtype.int32),
        piece_of(generator.choice(weights[0, :5], (300, 9)), Dtype.float32),
        piece_of(np.tile(generator.integers(0, 1 << 16, 200), 9).astype("<u2"), Dtype.uint16),
        piece_of(generator.integers(0, 1 << 16, 77).astype("<u2"), Dtype.uint16),
        piece_of(np.full((5, 3), -0.0, dtype="<f4"), Dtype.float32),
        piece_of(np.zeros((5, 3), dtype="<u8"), Dtype.uint64),
        piece_of(generator.random(90) < 0.1, Dtype.bool),
        piece_of(np.array([np.nan, -np.inf, np.inf, 0.0, -0.0, 1e-45], dtype="<f4"), Dtype.float32),
        piece_of(np.array([7], dtype="u1"), Dtype.uint8),
    ]


@pytest.mark.parametrize("is_small", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_pieces_of_every_kind_come_back_together_as_described(seed: int, is_small: bool) -> None:
    pieces = varied(seed)
    payload, forms = check(pieces, is_small=is_small)
    assert {form.way for form in forms} == set(Way)
    assert {field.kind for form in forms for field in form.fields} == set(Kind)
    assert any(form.by_columns for form in forms)
    found = reference(payload, [shape for _, shape in pieces])
    assert found == [elements.tolist() for elements, _ in pieces]


@pytest.mark.parametrize("number", range(19))
def test_each_comes_back_alone_as_described(number: int) -> None:
    elements, shape = varied(3)[number]
    payload, _ = check([(elements, shape)])
    assert reference(payload, [shape]) == [elements.tolist()]


def test_plain_python_decodes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ElementShape(count=40, itemsize=8)
    generator = np.random.default_rng(0)
    values = {width: generator.integers(0, 1 << width, 40, dtype="<u8") for width in (1, 7, 8, 20, 55, 56)}
    data = {width: packing.pack(each, width) for width, each in values.items()}
    for attribute, function in list(vars(packing).items()):
        if hasattr(function, "py_func"):
            monkeypatch.setattr(packing, attribute, function.py_func)
    for width, expected in values.items():
        assert packing.pack(expected, width) == data[width]
        np.testing.assert_array_equal(packing.unpack(data[width], 40, width, shape.storage), expected)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize("turn", Turn)
def test_turns_are_undone(itemsize: int, turn: Turn) -> None:
    top = 8 * itemsize - 1
    elements = np.array([0, 1, 2, (1 << top) - 1, 1 << top, (2 << top) - 1], dtype=f"<u{itemsize}")
    found = turned(elements, turn)
    assert found.dtype == elements.dtype
    np.testing.assert_array_equal(turned_back(found, turn), elements)
    assert int(found[4]) == {Turn.none: 1 << top, Turn.sign_last: 1, Turn.sign_flipped: 0}[turn]


# Sizes: what is known of normal numbers.


def normal_entropy_bits(scale: float, mantissa_bits: int) -> float:
    """Bits of a normal number as a floating one with `mantissa_bits` that are coded and a sign: by counting."""
    bits = np.abs(np.random.default_rng(9).normal(0, scale, 1 << 20)).astype("<f4").view("<u4") >> (23 - mantissa_bits)
    counts = np.unique(bits, return_counts=True)[1]
    return 1 + float(counts @ np.log2(counts.sum() / counts)) / counts.sum()


@pytest.mark.parametrize("scale", [0.05, 0.037])
def test_normal_weights_take_little_more_than_their_entropy(scale: float) -> None:
    weights = np.random.default_rng(1).normal(0, scale, (500, 400)).astype("<f4")
    entropy_bits = normal_entropy_bits(scale, 4)
    for values, dtype, raw_bits in (
        (as_bfloat16(weights), Dtype.bfloat16, 3),
        (weights, Dtype.float32, 19),
        ((weights.view("<u4") & 0xFFFF0000).view("<f4"), Dtype.float32, 3),
    ):
        taken_bits = 8 * len(check([piece_of(values, dtype)])[0]) / values.size
        assert entropy_bits + raw_bits < taken_bits < entropy_bits + raw_bits + 0.06


def test_weights_of_other_types_inside_save_what_the_types_do() -> None:
    weights = normal(2, 300, 400)
    assert saved(as_bfloat16(weights), Dtype.bfloat16) > 0.33
    assert saved((weights.view("<u4") & 0xFFFF0000).view("<f4"), Dtype.float32) > 0.66
    assert saved(weights.astype("<f2").astype("<f4"), Dtype.float32) > 0.57
    assert saved(weights.astype("<f8"), Dtype.float64) > 0.58
    assert saved(weights.astype("<f2"), Dtype.float16) > 0.14


@pytest.mark.parametrize("axis", [0, 1])
def test_scales_of_rows_or_columns_are_found(axis: int) -> None:
    scales = np.exp2(np.random.default_rng(3).normal(0, 1.5, 200))
    weights = as_bfloat16((normal(3, 200, 200) * (scales[:, None] if axis == 0 else scales)).astype("<f4"))
    payload, (form,) = check([piece_of(weights, Dtype.bfloat16)])
    assert form.by_columns == (axis == 1)
    even = check([piece_of(as_bfloat16(normal(3, 200, 200)), Dtype.bfloat16)])[0]
    assert len(payload) < len(even) + 0.15 * weights.size / 8 + 200


def test_scales_of_kernels_are_found() -> None:
    scales = np.exp2(np.random.default_rng(4).normal(0, 2, (40, 30, 1)))
    weights = as_bfloat16((normal(4, 40, 30, 49) * scales).astype("<f4"))
    _, (form,) = check([piece_of(weights, Dtype.bfloat16)])
    assert (form.row_length, form.by_columns) == (49, False)


def test_rows_that_are_narrower_than_others_are_found() -> None:
    weights = normal(5, 200, 200)
    weights[::10] = weights[::10].astype("<f2")
    payload, (form,) = check([piece_of(weights, Dtype.float32)])
    assert len(payload) < len(check([piece_of(normal(5, 200, 200), Dtype.float32)])[0]) - 20 * 200 * 13 / 8 * 0.8
    assert [field.kind for field in form.fields].count(Kind.coded) > 1


def test_packed_integers_of_four_bits_are_taken_apart() -> None:
    halves = np.random.default_rng(6).binomial(15, 0.5, (16, 100, 64)).astype("<u4")
    for width, dtype in ((2, Dtype.uint8), (8, Dtype.int32)):
        shifts = (4 * np.arange(width, dtype="<u4"))[:, None, None]
        packed = (halves[:width] << shifts).sum(axis=0, dtype="<u4").astype(f"<u{width // 2}").view(dtype.storage)
        payload, (form,) = check([piece_of(packed, dtype)])
        assert form.fields == (Field(Kind.coded, 4),) * width
        counts = np.bincount(halves[:width].reshape(-1))
        entropy_bits = float(counts[counts > 0] @ np.log2(counts.sum() / counts[counts > 0]))
        assert 8 * len(payload) < 1.01 * entropy_bits + 8 * 40 * width


def test_a_grid_in_a_floating_type_is_a_palette() -> None:
    levels = np.clip(np.round(np.random.default_rng(7).normal(0, 30, (200, 100))), -127, 127).astype("<f4") + 0.0
    payload, (form,) = check([piece_of(levels * np.float32(0.0123), Dtype.float32)])
    assert (form.way, form.size) == (Way.palette, np.unique(levels).size)
    assert len(payload) < 0.25 * 4 * levels.size


def test_noise_costs_a_few_bytes() -> None:
    for dtype in (Dtype.uint8, Dtype.float32, Dtype.int64, Dtype.complex128):
        noise = np.random.default_rng(8).integers(0, 256, 800, dtype="u1").view(dtype.storage)
        payload, (form,) = check([piece_of(noise, dtype)])
        assert len(payload) <= 802
        assert form.way is Way.raw


# Forms that no encoder chooses, and damage.


def test_any_form_is_read() -> None:
    elements = np.random.default_rng(0).integers(0, 1 << 12, 60).astype("<u2")
    shape = ElementShape(count=60, itemsize=2, row_length=6)
    forms = [
        Form(way=Way.planes, turn=turn, row_length=row_length, by_columns=by_columns, fields=fields)
        for turn in (Turn.none, Turn.sign_flipped)
        for row_length, by_columns in ((None, False), (None, True), (10, True), (7, False), (0, False), (60, True))
        for fields in (
            (Field(Kind.coded, 16),),
            (Field(Kind.coded, 1), Field(Kind.raw, 3), Field(Kind.coded, 5), Field(Kind.raw, 7)),
            (Field(Kind.raw, 16),),
        )
    ]
    forms.append(Form(way=Way.planes, fields=(Field(Kind.zero, 3), Field(Kind.zero, 1), Field(Kind.raw, 12))))
    for form in forms:
        payload = chunk.encode_chunk([chunk.in_form(elements, shape, form)], [shape], is_small=False)
        assert reference(payload, [shape]) == [elements.tolist()]
        np.testing.assert_array_equal(chunk.decode_chunk(payload, [shape])[0], elements)
        assert read_form(payload, 1, shape)[0] == form


def test_truncations_and_further_bytes_are_refused() -> None:
    for elements, shape in varied(1):
        payload, _ = check([(elements, shape)])
        cuts = range(len(payload)) if len(payload) < 300 else [*range(40), *range(40, len(payload), 97), -1]
        for damaged in [*(payload[:length] for length in cuts), payload + b"\0", payload + b"more"]:
            with pytest.raises(CodecError):
                chunk.decode_chunk(damaged, [shape])
            with pytest.raises(CodecError):
                chunk.code_lengths(damaged, [shape])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_never_crash(data: st.DataObject) -> None:
    elements, shape = varied(2)[data.draw(st.integers(0, 18))]
    payload = bytearray(chunk.encode_chunk([coded(elements, shape)], [shape], is_small=data.draw(st.booleans())))
    # Most of it stands at the beginning.
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.integers(0, min(20, len(payload) - 1)), st.integers(0, len(payload) - 1)))
        payload[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        (found,) = chunk.decode_chunk(bytes(payload), [shape])
    except CodecError:
        return
    assert (found.size, found.dtype) == (shape.count, shape.storage)


@pytest.mark.parametrize("is_small", [False, True])
def test_code_lengths_add_up_to_the_payload(is_small: bool) -> None:
    pieces = varied(0)
    shapes = [shape for _, shape in pieces]
    payload, _ = check(pieces, is_small=is_small)
    lengths = chunk.code_lengths(payload, shapes)
    assert len(lengths) == len(pieces)
    assert min(lengths) >= 16
    assert 0 <= 8 * len(payload) - math.fsum(lengths) <= 600
    alone = [8 * len(check([piece], is_small=is_small)[0]) for piece in pieces[:4]]
    assert lengths[:4] == pytest.approx(alone, rel=0.05)


def test_little_is_coded_by_the_better_coder() -> None:
    piece = piece_of(normal(0, 40, 8), Dtype.float32)
    by_small, by_fast = check([piece], is_small=True)[0], check([piece])[0]
    assert (by_small[0], by_fast[0]) == (1, 2)
    assert len(by_small) < len(by_fast)
    # On much it is not worth its time.
    assert check([piece_of(normal(0, 500, 300), Dtype.float32)], is_small=True)[0][0] == 2
