from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaq.onnx.integers import EXACT_WIDTHS, IntegerWeight, integer_weight, rounded_weight
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Basis, Dtype, QuantizedTensor
from metaq.tensors.scales import Scales

LEARNED_STEP = float(np.float16(0.0371))


def tensor(indices, grid, **options):
    indices = np.asarray(indices, dtype=np.int64)
    return QuantizedTensor(name="w", indices=indices, grid=grid, dtype=options.pop("dtype", Dtype.float32), **options)


def drawn(grid, *, shape=(40, 30), seed=0, lowest=0, highest=None, **options):
    highest = grid.count - 1 if highest is None else highest
    indices = np.random.default_rng(seed).integers(lowest, highest, shape, endpoint=True)
    return tensor(indices, grid, **options)


def restored(quantized):
    """As a model holds it."""
    values = quantized.restore()
    if quantized.dtype is Dtype.bfloat16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.asarray(values))


def learned(count, step=LEARNED_STEP, center=0.0):
    return BucketGrid(center=center, radius=step * count / 2, count=count)


def exact_weight(weight, quantized):
    return integer_weight(weight, quantized, widths=EXACT_WIDTHS)


def computed(weight: IntegerWeight) -> torch.Tensor:
    """What a runtime gives, written down independently: float64 but for the rounding of every step to float32."""
    parts = weight.integers
    values = ((parts.stored - parts.zero_point) * weight.scale.astype(np.float64)).astype(np.float32)
    if weight.basis is not None:
        basis = (weight.basis.stored - weight.basis.zero_point).astype(np.float64)
        values = (values.astype(np.float64) @ basis).astype(np.float32)
    for factor in weight.factors:
        values = (values.astype(np.float64) * factor).astype(np.float32)
    if weight.offset is not None:
        values = (values.astype(np.float64) + weight.offset).astype(np.float32)
    found = torch.from_numpy(np.asarray(values))
    for dtype in weight.casts:
        found = found.to(dtype)
    return found


@pytest.mark.parametrize(("reach", "width"), [(7, 4), (8, 4), (15, 8), (127, 8), (128, 8), (500, 16), (32767, 16)])
def test_the_range_in_use_decides_the_type_whatever_the_grid(reach, width):
    grid = learned(1 << 17 | 1)
    central = grid.count // 2
    quantized = drawn(grid, lowest=central - reach, highest=central + min(reach, (1 << width - 1) - 1))
    quantized.indices[0, :2] = central - reach, central + min(reach, (1 << width - 1) - 1)
    found = exact_weight(restored(quantized), quantized)
    assert found.integers.width == width
    assert found.integers.zero_point == 0
    assert torch.equal(computed(found), restored(quantized))
    assert found.difference == 0


@pytest.mark.parametrize(("lowest", "highest"), [(-3, 12), (0, 15), (-15, 0), (-10, 5)])
def test_a_range_beside_the_middle_moves_the_zero_point(lowest, highest):
    grid = learned(255)
    quantized = tensor(127 + np.arange(lowest, highest + 1), grid)
    found = exact_weight(restored(quantized), quantized)
    assert found.integers.width == 4
    assert found.offset is None
    assert -8 <= found.integers.zero_point <= 7
    assert found.integers.stored.min() == -8
    assert found.integers.stored.max() == 7
    assert torch.equal(computed(found), restored(quantized))


def test_what_all_levels_have_in_common_goes_into_the_scale():
    quantized = tensor(127 + 12 * np.arange(-8, 8), learned(255))
    found = exact_weight(restored(quantized), quantized)
    assert found.integers.width == 4
    assert found.scale == np.float32(12 * LEARNED_STEP)


def test_an_even_number_of_buckets_needs_an_offset_only_where_that_is_narrower():
    few, many = (drawn(learned(count)) for count in (4, 16))
    assert exact_weight(restored(few), few).offset is None
    found = exact_weight(restored(many), many)
    assert found.integers.width == 4
    assert found.offset is not None
    assert torch.equal(computed(found), restored(many))


def test_a_middle_of_whole_steps_needs_no_offset():
    quantized = drawn(learned(255, center=5 * LEARNED_STEP))
    found = exact_weight(restored(quantized), quantized)
    assert found.offset is None
    assert torch.equal(computed(found), restored(quantized))


@pytest.mark.parametrize("trellis_bits", [2, 8])
@pytest.mark.parametrize("scan", ["rows", "columns"])
def test_values_that_a_trellis_moved_are_integers_too(trellis_bits, scan):
    quantized = drawn(learned(51), trellis_bits=trellis_bits, scan=scan)
    found = exact_weight(restored(quantized), quantized)
    assert found.integers.width == 8
    assert found.offset is None
    assert torch.equal(computed(found), restored(quantized))


def test_the_thesis_grid_is_equal_to_rounding():
    quantized = drawn(BucketGrid(center=-0.11, radius=1.114, count=140))
    weight = restored(quantized)
    found = exact_weight(weight, quantized)
    assert found.integers.width == 8
    assert 0 < found.difference <= 2**-22 * float(weight.abs().max())
    torch.testing.assert_close(computed(found), weight, rtol=0, atol=found.difference)


@given(
    center=st.sampled_from([0.0, -0.11, 0.5]),
    radius=st.floats(1e-6, 1e4),
    count=st.integers(2, 5000),
    trellis_bits=st.sampled_from([0, 4]),
    dtype=st.sampled_from([Dtype.float32, Dtype.float16, Dtype.bfloat16, Dtype.float64]),
    seed=st.integers(0, 1000),
)
def test_whatever_is_found_is_equal(center, radius, count, trellis_bits, dtype, seed):
    grid = BucketGrid(center=center, radius=radius, count=count | 1 if trellis_bits else count)
    quantized = drawn(grid, shape=(5, 7), seed=seed, trellis_bits=trellis_bits, dtype=dtype)
    weight = restored(quantized)
    found = exact_weight(weight, quantized)
    assert found is not None or dtype is not Dtype.float32 or radius > 1e3 or abs(center) > 1e3 * radius
    if found is not None:
        tolerance = 2 * torch.finfo(weight.dtype).eps * float(weight.double().abs().max())
        assert found.difference <= tolerance
        differences = (computed(found).double() - weight.double()).abs()
        assert float(differences.max()) == pytest.approx(found.difference, abs=1e-7 * tolerance)
        assert computed(found).dtype == weight.dtype


@pytest.mark.parametrize("dtype", [Dtype.float16, Dtype.bfloat16])
def test_half_precision_is_rounded_to_on_the_way(dtype):
    quantized = drawn(BucketGrid(center=0.0, radius=0.9, count=31), dtype=dtype)
    weight = restored(quantized)
    found = exact_weight(weight, quantized)
    assert found.casts == (weight.dtype,)
    assert torch.equal(computed(found), weight)
    upcast = exact_weight(weight.float(), quantized)
    assert upcast.casts == (weight.dtype, torch.float32)
    assert torch.equal(computed(upcast), weight.float())


def test_double_precision_stays_unless_float32_holds_the_products():
    exact = drawn(learned(255), dtype=Dtype.float64)
    found = exact_weight(restored(exact), exact)
    assert found.casts == (torch.float64,)
    assert torch.equal(computed(found), restored(exact))
    inexact = drawn(BucketGrid(center=0.0, radius=0.9, count=31), dtype=Dtype.float64)
    assert exact_weight(restored(inexact), inexact) is None


def test_what_folding_leaves_is_still_on_the_grid():
    quantized = drawn(learned(15))
    weight = restored(quantized)[5:20, ::2]
    found = exact_weight(weight, quantized)
    assert torch.equal(computed(found), weight)


@pytest.mark.parametrize("change", [1e-4, float("nan"), float("inf"), 1e30])
def test_other_values_are_not_integers(change):
    quantized = drawn(learned(15))
    weight = restored(quantized)
    weight[3, 4] += change
    assert exact_weight(weight, quantized) is None


def test_too_many_levels_for_sixteen_bits_are_left_alone():
    quantized = drawn(learned(1 << 18 | 1))
    assert exact_weight(restored(quantized), quantized) is None


def test_empty_constant_and_scalar_tensors():
    grid = learned(15)
    empty = tensor(np.zeros((0, 3)), grid)
    assert exact_weight(restored(empty), empty) is None
    for shape in ((), (6,)):
        for index in (7, 3):
            constant = tensor(np.full(shape, index), grid)
            found = exact_weight(restored(constant), constant)
            assert found.integers.width == 4
            assert torch.equal(computed(found), restored(constant))


def with_basis(size=16, rows=300, seed=0, step=LEARNED_STEP, **options):
    generator = np.random.default_rng(seed)
    levels = np.round(np.linalg.qr(generator.normal(size=(size, size)))[0] * 128).astype(np.int64)
    count = 2 * int(np.abs(levels).max()) + 1
    basis = Basis(indices=levels + count // 2, grid=learned(count, step=1 / 128))
    grid = learned(61, step=step)
    return tensor(generator.integers(0, 61, (rows, size)), grid, basis=basis, **options)


@pytest.mark.parametrize("trellis_bits", [0, 8])
@pytest.mark.parametrize("step", [LEARNED_STEP, 0.0371])
def test_combinations_of_a_basis_are_a_product_of_integers(trellis_bits, step):
    quantized = with_basis(step=step, trellis_bits=trellis_bits)
    weight = restored(quantized)
    found = exact_weight(weight, quantized)
    assert found.basis.width == 16
    assert found.integers.width == 8
    torch.testing.assert_close(computed(found), weight, rtol=0, atol=2**-22 * float(weight.abs().max()))
    assert exact_weight(weight[:100], quantized) is None
    assert exact_weight(weight + 0.01, quantized) is None


def test_more_levels_than_eight_bits_hold_need_more_only_where_values_must_be_kept():
    quantized = drawn(learned(1001))
    weight = restored(quantized)
    assert integer_weight(weight, quantized) is None
    assert exact_weight(weight, quantized).integers.width == 16
    quantized = with_basis()
    assert integer_weight(restored(quantized), quantized) is None


def scales_of(rows, columns, *, vary):
    exponents = [
        (5 * np.arange(size) % 17 - 8).astype(np.int8) * (name in vary)
        for name, size in (("rows", rows), ("columns", columns))
    ]
    return Scales(rows=exponents[0], columns=exponents[1])


@pytest.mark.parametrize("trellis_bits", [0, 8])
@pytest.mark.parametrize("vary", [(), ("rows",), ("columns",), ("rows", "columns")])
@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 2)])
def test_scales_of_rows_and_columns_are_kept(shape, vary, trellis_bits):
    quantized = drawn(learned(31), shape=shape, trellis_bits=trellis_bits, scales=scales_of(40, 30, vary=vary))
    weight = restored(quantized)
    found = integer_weight(weight, quantized)
    assert found.integers.width == 8
    rest = (1,) * (len(shape) - 2)
    assert found.scale.shape == ((40, 1, *rest) if "rows" in vary else (1, 30, *rest) if vary else ())
    assert [factor.shape for factor in found.factors] == ([(1, 30, *rest)] if len(vary) > 1 else [])
    torch.testing.assert_close(computed(found), weight, rtol=0, atol=2**-22 * float(weight.abs().max()))
    assert torch.equal(found.computed(), computed(found))
    apart = found.with_scale_apart()
    assert apart.scale.shape == ()
    assert apart.factors
    torch.testing.assert_close(computed(apart), weight, rtol=0, atol=2**-22 * float(weight.abs().max()))
    if vary:
        # Which of the scales belong to what folding left is not known.
        assert integer_weight(weight[:30], quantized) is None


def test_a_basis_may_have_scales_too():
    for vary in (("rows",), ("columns",), ("rows", "columns")):
        quantized = with_basis(scales=scales_of(300, 16, vary=vary))
        weight = restored(quantized)
        found = exact_weight(weight, quantized)
        torch.testing.assert_close(computed(found), weight, rtol=0, atol=2**-22 * float(weight.abs().max()))


def test_rounded_weights_have_a_scale_where_their_sizes_differ():
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(40, 30, generator=generator)
    sizes = torch.logspace(-3, 2, 40)[:, None]
    for weight, shape in (
        (plain * sizes, (40, 1)),
        ((plain * sizes).T, (1, 40)),
        ((plain * sizes)[..., None], (40, 1, 1)),
    ):
        found = rounded_weight(weight)
        assert found.scale.shape == shape
        assert (found.integers.width, found.integers.zero_point) == (8, 0)
        assert torch.equal(computed(found), found.computed())
        step = torch.from_numpy(found.scale)
        assert ((computed(found) - weight).abs() <= step * 0.5001).all()
        assert found.difference == pytest.approx(float((computed(found) - weight).abs().max()))
    assert rounded_weight(plain.half()).computed().dtype == torch.float16


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (1, 1, 4)])
def test_rounded_weights_of_one_row_or_column(shape):
    weight = torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    found = rounded_weight(weight)
    assert found.scale.ndim == 0 or found.scale.size == max(shape)
    torch.testing.assert_close(found.computed(), weight, rtol=0.01, atol=0)


def test_zeros_and_the_smallest_numbers_are_rounded():
    weight = torch.zeros(3, 4)
    weight[1] = 1e-42
    weight[2] = 1e38
    found = rounded_weight(weight)
    assert torch.isfinite(found.computed()).all()
    assert not found.computed()[:2].any()
