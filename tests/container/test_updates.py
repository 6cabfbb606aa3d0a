"""Updates as files: every relation to the base, refused bases, damage."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from metaq import container
from metaq.container.contents import UpdateFacts
from metaq.container.updates import Against, added, differences, identity, with_differences
from metaq.errors import FormatError
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype, ExactTensor, QuantizedTensor, stored
from metaq.tensors.scales import Scales

QUANTIZABLE = [dtype for dtype in Dtype if dtype.is_quantizable]
EXACT = [dtype for dtype in Dtype if dtype.kind not in ("boolean", "complex")]


def random_elements(generator: np.random.Generator, dtype: Dtype, shape: tuple[int, ...]) -> np.ndarray:
    if dtype.is_quantizable:
        return stored(generator.normal(0, 0.05, shape), dtype)
    raw = generator.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return raw.view(dtype.storage).reshape(shape)


def quantized(
    generator: np.random.Generator, dtype: Dtype, shape: tuple[int, ...], *, scan="rows", trellis_bits=0, scaled=False
) -> QuantizedTensor:
    grid = BucketGrid(center=0.0, radius=0.2, count=31)
    scales = None
    if scaled:
        rows, columns = (generator.integers(-4, 5, size) for size in shape[:2])
        scales = Scales(rows=rows.astype(np.int8), columns=columns.astype(np.int8))
    indices = np.clip(np.rint(generator.normal(15, 2, shape)), 0, 30).astype(np.int64)
    return QuantizedTensor(
        name="w", indices=indices, grid=grid, dtype=dtype, scan=scan, trellis_bits=trellis_bits, scales=scales
    )


def written(tensors, base, against, coder="small", **options) -> bytes:
    facts = UpdateFacts(base=identity(base.values()), result=bytes(4))
    return container.encode(tensors, coder=coder, update=facts, against=against, **options)


@pytest.mark.parametrize("coder", ["small", "fast"])
@pytest.mark.parametrize("dtype", QUANTIZABLE)
@pytest.mark.parametrize("is_sum", [False, True])
@pytest.mark.parametrize("scan", ["rows", "columns"])
def test_tensors_told_by_a_base_come_back(coder, dtype, is_sum, scan):
    generator = np.random.default_rng(1)
    for shape, trellis_bits, scaled in (
        ((40, 30), 0, False),
        ((20, 64), 3, True),
        ((8, 3, 5), 0, True),
        ((70,), 0, False),
    ):
        tensor = quantized(generator, dtype, shape, scan=scan, trellis_bits=trellis_bits, scaled=scaled)
        base = {"w": ExactTensor(name="w", values=random_elements(generator, dtype, shape), dtype=dtype)}
        data = written([tensor], base, {"w": Against(elements=base["w"].values, is_sum=is_sum)}, coder)
        (found,) = container.decode(data, base=base).tensors
        wide = added(tensor, base["w"].values) if is_sum else tensor
        assert found.restore().tobytes() == wide.restore().tobytes()


@pytest.mark.parametrize("chunk_bits", [4, 8])
def test_pieces_of_large_tensors_are_told_by_pieces_of_the_base(chunk_bits):
    generator = np.random.default_rng(2)
    for scan in ("rows", "columns"):
        tensor = quantized(generator, Dtype.float32, (30, 17), scan=scan)
        elements = stored(tensor.values() + generator.normal(0, 0.01, (30, 17)), Dtype.float32)
        base = {"w": ExactTensor(name="w", values=elements, dtype=Dtype.float32)}
        data = written([tensor], base, {"w": Against(elements=elements)}, chunk_bits=chunk_bits)
        (found,) = container.decode(data, base=base).tensors
        assert np.array_equal(found.indices, tensor.indices)


def test_what_the_base_leads_to_expect_costs_little():
    generator = np.random.default_rng(3)
    tensor = quantized(generator, Dtype.float32, (100, 100))
    old = tensor.indices.copy()
    old[generator.random(old.shape) < 0.01] += 1
    elements = stored(tensor.grid.values_of(np.clip(old, 0, 30)), Dtype.float32)
    base = {"w": ExactTensor(name="w", values=elements, dtype=Dtype.float32)}
    beside = written([tensor], base, {"w": Against(elements=elements)})
    assert len(beside) < 0.1 * len(written([tensor], base, {}))


def test_the_base_may_hold_anything():
    generator = np.random.default_rng(4)
    tensor = quantized(generator, Dtype.float32, (10, 10))
    elements = np.full((10, 10), np.nan, dtype="<f4")
    elements[::2], elements[::3, 0], elements[1] = np.inf, -np.inf, 0.5
    for is_sum in (False, True):
        base = {"w": ExactTensor(name="w", values=elements, dtype=Dtype.float32)}
        data = written([tensor], base, {"w": Against(elements=elements, is_sum=is_sum)})
        (found,) = container.decode(data, base=base).tensors
        is_finite = np.isfinite(elements)
        expected = tensor.restore() + np.where(is_finite & is_sum, elements, 0)
        assert np.array_equal(found.restore()[is_finite], expected[is_finite])
        if is_sum:
            assert np.array_equal(found.restore()[~is_finite], elements[~is_finite], equal_nan=True)
        else:
            assert np.array_equal(found.restore(), tensor.restore())


@pytest.mark.parametrize("dtype", EXACT)
def test_differences_of_exact_tensors_come_back(dtype):
    generator = np.random.default_rng(5)
    old, new = (random_elements(generator, dtype, (12, 34)) for _ in range(2))
    assert with_differences(differences(new, old), old).tobytes() == new.tobytes()
    base = {"w": ExactTensor(name="w", values=old, dtype=dtype)}
    tensor = ExactTensor(name="w", values=new, dtype=dtype)
    (found,) = container.decode(written([tensor], base, {"w": Against(elements=old)}), base=base).tensors
    assert found.values.tobytes() == new.tobytes()


def test_near_exact_tensors_have_small_differences():
    old = np.float32([1.0, -1.0, 0.5])
    new = np.nextafter(old, np.float32(2.0))
    assert differences(new, old).max() <= 2


def test_an_update_without_its_base_is_refused():
    data, base = damaged_one()
    with pytest.raises(FormatError, match="is an update of the model"):
        container.decode(data)
    with pytest.raises(FormatError, match="is an update of the model"):
        list(container.stream(data))
    other = {"w": ExactTensor(name="w", values=base["w"].values[:3], dtype=Dtype.float32)}
    with pytest.raises(FormatError, match="has no tensor 'w'"):
        container.decode(data, base=other)
    plain = container.encode([quantized(np.random.default_rng(1), Dtype.float32, (4, 4))])
    with pytest.raises(FormatError, match="is no update"):
        container.decode(plain, base=base)


def test_a_header_tells_what_the_file_is_an_update_of():
    data, base = damaged_one()
    update = container.describe(data).update
    assert update == UpdateFacts(base=identity(base.values()), result=bytes(4), removed=(0, 2, 5))


def test_every_flipped_bit_and_every_cut_is_refused():
    data, base = damaged_one()
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(FormatError):
            container.decode(bytes(flipped), base=base)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            container.decode(data[:length], base=base)


def test_a_model_is_known_by_names_types_shapes_and_bits():
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    same = ExactTensor(name="w", values=values, dtype=Dtype.float32)
    others = [
        ExactTensor(name="v", values=values, dtype=Dtype.float32),
        ExactTensor(name="w", values=values.reshape(3, 2), dtype=Dtype.float32),
        ExactTensor(name="w", values=values.view("<i4"), dtype=Dtype.int32),
        ExactTensor(name="w", values=-values, dtype=Dtype.float32),
    ]
    assert len({identity([each]) for each in (same, *others)}) == 5
    assert identity([same, others[0]]) == identity([others[0], same])
    told = b"\x01w" + bytes([0, 2, 2, 3]) + values.tobytes()
    assert identity([same]) == sha256(told).digest()[:8]


def damaged_one():
    generator = np.random.default_rng(6)
    tensor = quantized(generator, Dtype.float32, (6, 8))
    base = {"w": ExactTensor(name="w", values=random_elements(generator, Dtype.float32, (6, 8)), dtype=Dtype.float32)}
    facts = UpdateFacts(base=identity(base.values()), result=bytes(4), removed=(0, 2, 5))
    return container.encode([tensor], update=facts, against={"w": Against(elements=base["w"].values)}), base
