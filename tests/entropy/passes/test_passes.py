from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaq.entropy.cells import bucket_values, cell_statistics
from metaq.entropy.passes import compiled_passes, dispatch, torch_passes
from metaq.entropy.passes.grids import GridSet
from metaq.entropy.passes.watch import BucketWatch
from metaq.errors import ConfigError, NonFiniteError
from metaq.tensors.grid import BucketGrid

from ..plain import cell_positions

DTYPES = (torch.float32, torch.float64)
seeds = st.integers(0, 2**32 - 1)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def case(seed, dtype, *, count=None, sizes=None):
    """Tensors of several groups, some beyond the range of their grid, some on reference values, and the grids."""
    rng = np.random.default_rng(seed)
    count = count or int(rng.integers(2, 70))
    grids = [BucketGrid(center=rng.normal(), radius=float(rng.uniform(0.1, 3)), count=count) for _ in range(3)]
    sizes = sizes or [int(size) for size in rng.integers(0, 300, 5)]
    groups = [int(group) for group in rng.integers(0, 3, len(sizes))]
    tensors = []
    for size, group in zip(sizes, groups, strict=True):
        free = grids[group].center + 2 * rng.normal(size=size)
        on_values = rng.choice(grids[group].reference_values(), size)
        tensors.append(torch.from_numpy(np.where(rng.random(size) < 0.8, free, on_values)).to(dtype))
    return tensors, groups, grids


MODULES = {"compiled": compiled_passes, "torch": torch_passes}


def sums_of(backend, tensors, groups, grids):
    """Counts and sums of units by cell."""
    counts, units, strange = MODULES[backend].cell_totals(tensors, groups, grids)
    assert int(strange) == 0
    return counts.numpy(), units.numpy()


def counts_of(backend, tensors, groups, grids):
    counts, strange = MODULES[backend].bucket_totals(tensors, groups, grids)
    assert int(strange) == 0
    return counts.numpy()


@every_dtype
@given(seed=seeds)
@settings(max_examples=60, deadline=None)
def test_both_backends_count_and_sum_to_the_same_integers(dtype, seed):
    tensors, groups, grids = case(seed, dtype)
    grid_set = GridSet.of(grids)
    (counts, units), (others, other_units) = (sums_of(b, tensors, groups, grid_set) for b in MODULES)
    np.testing.assert_array_equal(counts, others)
    np.testing.assert_array_equal(units, other_units)
    np.testing.assert_array_equal(*(counts_of(b, tensors, groups, grid_set) for b in MODULES))


@every_dtype
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_sums_are_those_of_every_weight_by_itself(dtype, seed):
    tensors, groups, grids = case(seed, dtype)
    counts, fractions = (sums.numpy() for sums in dispatch.cell_sums(tensors, groups, GridSet.of(grids)))
    in_buckets = dispatch.bucket_counts(tensors, groups, GridSet.of(grids))
    for g, grid in enumerate(grids):
        mine = torch.cat(
            [t.double() for t, group in zip(tensors, groups, strict=True) if group == g] or [torch.zeros(0)]
        )
        cells, inside = cell_positions(mine, grid)
        shared = np.bincount(cells, 1 - inside, grid.count) + np.bincount(cells + 1, inside, grid.count)
        linear = np.zeros(grid.count)
        linear[:-1] += counts[g] - fractions[g]
        linear[1:] += fractions[g]
        np.testing.assert_allclose(linear, shared, atol=1e-6)
        expected = np.bincount(grid.assign(mine.numpy()), minlength=grid.count)
        np.testing.assert_array_equal(in_buckets[g], expected)


@every_dtype
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_both_backends_add_the_same_slopes(dtype, seed):
    tensors, groups, grids = case(seed, dtype)
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(3, 2 * (grids[0].count - 1)))
    before = [torch.from_numpy(rng.normal(size=tensor.shape)).to(dtype) for tensor in tensors]
    added = []
    for backend in MODULES:
        gradients = [gradient.clone() for gradient in before]
        MODULES[backend].add_slopes(tensors, gradients, groups, GridSet.of(grids), torch.from_numpy(slopes))
        added.append(gradients)
    for one, other, start, tensor, group in zip(*added, before, tensors, groups, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        cells, inside = cell_positions(tensor, grids[group])
        clear = (inside % 0.5 > 1e-6) & (inside % 0.5 < 0.5 - 1e-6)
        expected = torch.from_numpy(slopes[group])[2 * cells + (inside >= 0.5)]
        torch.testing.assert_close((one - start).double()[clear], expected[clear], rtol=1e-4, atol=1e-5)


@every_dtype
def test_both_backends_snap_rescale_and_freeze_alike(dtype):
    tensors, groups, grids = case(5, dtype, count=9, sizes=[300, 7, 41])
    grid_set = GridSet.of(grids)
    factors = torch.tensor([1.3, 0.8, 1.0], dtype=torch.float64)
    outcomes = []
    for backend in MODULES:
        watch = BucketWatch(tensors, groups)
        parameters = [tensor.clone() for tensor in tensors]
        generator = torch.Generator().manual_seed(0)
        for step in range(60):
            for parameter in parameters:
                parameter += 0.2 * torch.randn(parameter.shape, dtype=dtype, generator=generator)
            MODULES[backend].snap(watch, parameters, grid_set, 0.15 if step % 20 == 19 else None)
            if step in (10, 30):
                there = factors if step == 10 else 1 / factors
                MODULES[backend].rescale(watch, there, grid_set.rescaled(factors) if step == 10 else grid_set)
        outcomes.append((watch, parameters))
    (one, parameters), (other, other_parameters) = outcomes
    for name in BucketWatch.STATE:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert 0 < int(one.frozen.sum()) < one.frozen.numel()
    for parameter, same, group in zip(parameters, other_parameters, groups, strict=True):
        assert torch.equal(parameter, same)
        values = torch.from_numpy(grids[group].reference_values()).to(dtype)
        assert bool(torch.isin(parameter, values).all())


@every_dtype
def test_restoring_scales_the_latent_weights(dtype):
    tensors, groups, _ = case(8, dtype, count=9, sizes=[300, 0, 41])
    factors = torch.tensor([1.5, 0.99, 1.0], dtype=torch.float64)
    watch = BucketWatch(tensors, groups)
    parameters = [torch.zeros_like(tensor) for tensor in tensors]
    dispatch.restore(watch, parameters, factors)
    for parameter, latent, tensor, group in zip(parameters, watch.tensors, tensors, groups, strict=True):
        assert torch.equal(parameter, tensor * float(factors[group]))
        assert torch.equal(latent, parameter)


def test_snapping_takes_the_bucket_of_the_grid_and_keeps_the_latent_weights():
    tensors, groups, grids = case(7, torch.float32, count=17, sizes=[200, 30])
    watch = BucketWatch([torch.zeros_like(tensor) for tensor in tensors], groups)
    parameters = [tensor.clone() for tensor in tensors]
    dispatch.snap(watch, parameters, GridSet.of(grids), freeze_above=None)
    for parameter, latent, tensor, group in zip(parameters, watch.tensors, tensors, groups, strict=True):
        assert torch.equal(latent, tensor)
        indices = torch.from_numpy(grids[group].assign(tensor.numpy()))
        assert torch.equal(parameter, bucket_values(indices, grids[group]).float())


@pytest.mark.parametrize("backend", MODULES)
def test_inner_products_are_summed_by_group(backend):
    tensors, groups, _ = case(3, torch.float32, sizes=[300_000, 5, 70])
    others = [torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for t in tensors]
    products = MODULES[backend].inner_products(tensors, others, groups, 3)
    expected = np.zeros(3)
    for a, b, g in zip(tensors, others, groups, strict=True):
        expected[g] += float(a.double() @ b.double())
    np.testing.assert_allclose(products, expected, rtol=1e-10)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_counts_and_sums_do_not_depend_on_threads(threads):
    tensors, groups, grids = case(1, torch.float32, count=33, sizes=[1_500_000, 3, 40_000])
    reference = sums_of("torch", tensors, groups, GridSet.of(grids))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        counts, units = sums_of("compiled", tensors, groups, GridSet.of(grids))
        in_buckets = counts_of("compiled", tensors, groups, GridSet.of(grids))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(counts, reference[0])
    np.testing.assert_array_equal(units, reference[1])
    assert in_buckets.sum() == 1_540_003


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_like_the_same_numbers_in_full(dtype):
    tensors, groups, grids = case(2, dtype)
    full = [tensor.float() for tensor in tensors]
    for half, same in zip(
        dispatch.cell_sums(tensors, groups, GridSet.of(grids)),
        dispatch.cell_sums(full, groups, GridSet.of(grids)),
        strict=True,
    ):
        np.testing.assert_array_equal(half, same)
    gradients = [torch.zeros_like(tensor) for tensor in tensors]
    pairs = dispatch.TensorPairs(tensors, gradients, groups)
    dispatch.add_slopes(pairs, GridSet.of(grids), torch.ones(3, 2 * (grids[0].count - 1), dtype=torch.float64))
    assert all(bool((gradient == 1).all()) for gradient in gradients)


def test_non_contiguous_and_mixed_tensors_go_together():
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(40, 30, generator=generator).t(),
        torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        torch.randn(50, generator=generator, dtype=torch.float64),
        torch.randn(60, generator=generator).half(),
    ]
    grid = GridSet.of([BucketGrid(center=0.0, radius=2.0, count=21)])
    whole = torch.cat([part.double().reshape(-1) for part in parts])
    counts, fractions = dispatch.cell_sums(parts, [0] * 4, grid)
    expected, expected_fractions = dispatch.cell_sums([whole], [0], grid)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(fractions, expected_fractions)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(bad, dtype):
    weights = torch.zeros(5000, dtype=dtype)
    weights[4321] = bad
    grid = BucketGrid(center=0.0, radius=2.0, count=21)
    with pytest.raises(NonFiniteError, match="weights"):
        cell_statistics([weights], grid)
    grids = GridSet.of([grid])
    assert all(bool(part.isnan().all()) for part in dispatch.cell_sums([weights], [0], grids))
    assert bool(dispatch.bucket_counts([weights], [0], grids).isnan().all())


def test_weights_that_are_not_finite_do_no_harm_to_other_gradients():
    weights, gradients = torch.tensor([0.3, float("nan"), float("inf"), -float("inf")]), torch.zeros(4)
    grid = GridSet.of([BucketGrid(center=0.0, radius=2.0, count=5)])
    dispatch.add_slopes(
        dispatch.TensorPairs([weights], [gradients], [0]), grid, torch.arange(8.0, dtype=torch.float64)[None]
    )
    assert gradients.tolist() == [4.0, 0.0, 7.0, 0.0]


@pytest.mark.parametrize("count", [2, 3, 65_536])
def test_few_and_many_buckets(count):
    tensors, groups, grids = case(4, torch.float32, count=count, sizes=[1000, 1, 0])
    grid_set = GridSet.of(grids)
    counts, units = sums_of("compiled", tensors, groups, grid_set)
    others = sums_of("torch", tensors, groups, grid_set)
    np.testing.assert_array_equal(counts, others[0])
    np.testing.assert_array_equal(units, others[1])


def test_grids_of_different_sizes_are_refused():
    with pytest.raises(ConfigError, match="same number"):
        GridSet.of([BucketGrid(center=0.0, radius=1.0, count=4), BucketGrid(center=0.0, radius=1.0, count=5)])


def test_rescaled_grids_have_radii_that_float32_holds():
    grids = GridSet.of([BucketGrid(center=0.0, radius=1.5, count=5), BucketGrid(center=0.0, radius=0.3, count=5)])
    rescaled = grids.rescaled(torch.tensor([0.1, 2.0], dtype=torch.float64))
    assert [grid.radius for grid in rescaled] == [float(np.float32(1.5 * 0.1)), float(np.float32(0.6))]
    for group, grid in enumerate(rescaled):
        assert rescaled.step_size[group] == grid.step_size
        assert rescaled.lower[group] == grid.lower
        assert rescaled.first[group] == grid.reference_values()[0]


@pytest.mark.parametrize("factor", [0.0, 1e-60, 1e60, float("nan")])
def test_radii_beyond_float32_are_refused(factor):
    grids = GridSet.of([BucketGrid(center=0.0, radius=1.0, count=5)] * 2)
    with pytest.raises(NonFiniteError, match="step size"):
        grids.rescaled(torch.tensor([1.0, factor], dtype=torch.float64))


def test_a_process_that_holds_no_part_of_any_tensor_counts_nothing():
    grids = GridSet.of([BucketGrid(center=0.0, radius=1.0, count=5)] * 2)
    for tensors, groups in (([], []), ([torch.zeros(0, 4), torch.zeros(0)], [0, 1])):
        assert all(not part.any() for part in dispatch.cell_sums(tensors, groups, grids))
        assert not dispatch.bucket_counts(tensors, groups, grids).any()
        assert not dispatch.inner_products(dispatch.TensorPairs(tensors, tensors, groups), 2, torch.device("cpu")).any()


def test_large_tensors_are_cut_along_their_rows_and_keep_their_layout():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(700, 4, 16, 16, generator=generator).to(memory_format=torch.channels_last),
        torch.randn(3, 300_000, generator=generator).double().t(),
    ]
    grids = GridSet.of([BucketGrid(center=0.0, radius=2.0, count=9)] * 2)
    slopes = torch.arange(32.0, dtype=torch.float64).reshape(2, 16)
    for group, tensor in enumerate(tensors):
        gradient, plain = torch.zeros_like(tensor), torch.zeros(tensor.shape, dtype=tensor.dtype)
        assert gradient.stride() == tensor.stride()
        torch_passes.add_slopes([tensor], [gradient], [group], grids, slopes)
        compiled_passes.add_slopes([tensor.contiguous()], [plain], [group], grids, slopes)
        assert torch.equal(gradient, plain)
        watch, held = BucketWatch([tensor], [group]), tensor.clone(memory_format=torch.preserve_format)
        torch_passes.snap(watch, [held], grids, None)
        indices = torch.from_numpy(grids[group].assign(tensor.numpy()))
        assert torch.equal(held, bucket_values(indices, grids[group]).to(tensor.dtype))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16])
def test_cuda_counts_like_the_cpu(dtype):
    tensors, groups, grids = case(6, dtype, sizes=[100_000, 7, 300])
    grid_set = GridSet.of(grids)
    on_device = [tensor.cuda() for tensor in tensors]
    for mine, other in zip(
        dispatch.cell_sums(on_device, groups, grid_set), dispatch.cell_sums(tensors, groups, grid_set), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    counts = dispatch.bucket_counts(on_device, groups, grid_set)
    np.testing.assert_array_equal(counts, dispatch.bucket_counts(tensors, groups, grid_set))
