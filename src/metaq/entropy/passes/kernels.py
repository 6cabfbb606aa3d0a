"""The loops of :mod:`metaq.entropy.passes.compiled_passes`.

A job is a row of group, number of weights and addresses. Weights go through in blocks that stay in the first-level
cache: one loop without branches turns them into table indices, which the compiler can vectorise, a second one uses the
tables. While a block is at work, later ones are fetched: without this, waiting for memory takes several times as long
as the work on weights that are in no cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from metaq.compiled import compiled
from metaq.entropy.passes.fixed_point import COUNT_SHIFT, SLOT_CAPACITY, UNIT_BITS

BLOCK = 256

FETCHED_AHEAD, CACHE_LINE = 2048, 64
"""Bytes between an item and the one fetched when its block begins, and between fetches."""

LANES = 8
"""Slots a cell has, taken in turn: neighbouring weights of one cell need not wait for each other."""

ZERO, ONE = np.float32(0), np.float32(1)

EDGE = 1e-7
"""Distance from a bucket's edge, in steps, where rounding may decide the bucket: more than 2^24 buckets times 2^-51."""

UNITS_A_STEP = float(1 << UNIT_BITS)
CELL_SHIFT = np.uint64(UNIT_BITS)
UNIT_MASK = np.uint64((1 << UNIT_BITS) - 1)
ONE_WEIGHT = np.uint64(1 << COUNT_SHIFT)
SUM_SHIFT = np.uint64(COUNT_SHIFT)
SUM_MASK = np.uint64((1 << COUNT_SHIFT) - 1)
WIDE = np.uint64(LANES)
WEIGHTS_A_FLUSH = LANES * SLOT_CAPACITY // 2

untyped = cast(Any, numba)
carray = untyped.carray

Floats = NDArray[np.floating]
Grids = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _pointer(_context: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return untyped.types.CPointer(like.dtype)(address, like), generate


pointer = cast("Callable[[Any, Any], Any]", intrinsic(_pointer))
"""An address as a pointer to items of the dtype of an array."""


def _fetch(_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte_pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [byte_pointer, integer, integer, integer])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte_pointer], signature)
        to_read, to_all_caches, data = integer(0), integer(3), integer(1)
        place = builder.inttoptr(arguments[0], byte_pointer)
        builder.call(prefetch, [place, to_read, to_all_caches, data])
        return context.get_dummy_value()

    return untyped.types.void(address), generate


fetch = cast("Callable[[int], None]", intrinsic(_fetch))
"""Bring the cache line at an address near; does nothing where no memory is."""


@compiled
def _fetch_ahead(array: NDArray[Any], start: int) -> None:
    """Bring a block of `array` near that comes after the one from `start`."""
    begin = array.ctypes.data + start * array.itemsize + FETCHED_AHEAD
    for address in range(begin, begin + BLOCK * array.itemsize, CACHE_LINE):
        fetch(address)


@compiled
def _cells_and_units(
    weights: Floats, first: float, units_a_weight: float, last: float, positions: NDArray[np.uint64]
) -> bool:
    """Distance of every weight from the first reference value, in units; whether all weights are finite."""
    not_finite = 0
    for i in range(weights.size):
        distance = weights[i] - first
        not_finite += not abs(distance) < np.inf
        position = distance * units_a_weight
        position = position if position > 0.0 else 0.0
        positions[i] = np.uint64(np.int64((position if position < last else last) + 0.5))
    return not_finite == 0


@compiled
def _flush(slots: NDArray[np.uint64], counts: NDArray[np.int64], units: NDArray[np.int64]) -> None:
    for cell in range(counts.size):
        for lane in range(LANES):
            slot = slots[cell * LANES + lane]
            counts[cell] += np.int64(slot >> SUM_SHIFT)
            units[cell] += np.int64(slot & SUM_MASK)
            slots[cell * LANES + lane] = np.uint64(0)


@compiled
def cell_sums(
    like: Floats,
    jobs: NDArray[np.int64],
    first: NDArray[np.float64],
    step_size: NDArray[np.float64],
    counts: NDArray[np.int64],
    units: NDArray[np.int64],
) -> bool:
    """Add weights and units to the cells of (G, C) tables; stops at the first block that is not finite."""
    count = counts.shape[1]
    positions = np.empty(BLOCK, np.uint64)
    slots = np.zeros(count * LANES, np.uint64)
    last = (count - 1) * UNITS_A_STEP
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        weights = carray(pointer(jobs[job, 2], like), (size,))
        units_a_weight = UNITS_A_STEP / step_size[group]
        for start in range(0, size, BLOCK):
            _fetch_ahead(weights, start)
            block = weights[start : start + BLOCK]
            if not _cells_and_units(block, first[group], units_a_weight, last, positions):
                return False
            whole = block.size - block.size % LANES
            for i in range(0, whole, LANES):
                for lane in range(LANES):
                    position = positions[i + lane]
                    slots[(position >> CELL_SHIFT) * WIDE + np.uint64(lane)] += (position & UNIT_MASK) + ONE_WEIGHT
            for i in range(whole, block.size):
                slots[(positions[i] >> CELL_SHIFT) * WIDE] += (positions[i] & UNIT_MASK) + ONE_WEIGHT
            if (start + BLOCK) % WEIGHTS_A_FLUSH == 0:
                _flush(slots, counts[group], units[group])
        _flush(slots, counts[group], units[group])
    return True


@compiled
def _bucket_indices(weights: Floats, lower: float, step_size: float, count: int, indices: NDArray[np.uint32]) -> bool:
    """Bucket of every weight by the rule of `BucketGrid.assign`; whether all weights are finite.

    NaN takes the first bucket. A division takes several times as long as a multiplication, and only near an edge may
    the two differ.
    """
    buckets_a_weight = 1.0 / step_size
    last = count - 1.0
    near_edges, not_finite = 0, 0
    for i in range(weights.size):
        distance = weights[i] - lower
        not_finite += not abs(distance) < np.inf
        position = distance * buckets_a_weight
        position = position if position > 0.0 else 0.0
        position = position if position < last else last
        near_edges += abs(position - np.rint(position)) < EDGE
        indices[i] = np.uint32(np.int32(position))
    if near_edges > 0:
        for i in range(weights.size):
            position = (weights[i] - lower) / step_size
            position = position if position > 0.0 else 0.0
            indices[i] = np.uint32(np.int32(position if position < last else last))
    return not_finite == 0


@compiled
def bucket_counts(
    like: Floats,
    jobs: NDArray[np.int64],
    lower: NDArray[np.float64],
    step_size: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> bool:
    """Add weights to the buckets of a (G, C) table; stops at the first block that is not finite."""
    count = counts.shape[1]
    indices = np.empty(BLOCK, np.uint32)
    slots = np.zeros(count * LANES, np.int64)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        weights = carray(pointer(jobs[job, 2], like), (size,))
        for start in range(0, size, BLOCK):
            _fetch_ahead(weights, start)
            block = weights[start : start + BLOCK]
            if not _bucket_indices(block, lower[group], step_size[group], count, indices):
                return False
            whole = block.size - block.size % LANES
            for i in range(0, whole, LANES):
                for lane in range(LANES):
                    slots[np.uint64(indices[i + lane]) * WIDE + np.uint64(lane)] += 1
            for i in range(whole, block.size):
                slots[np.uint64(indices[i]) * WIDE] += 1
        for bucket in range(count):
            for lane in range(LANES):
                counts[group, bucket] += slots[bucket * LANES + lane]
                slots[bucket * LANES + lane] = 0
    return True


@compiled
def inner_products(like: Floats, jobs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Inner product of the two arrays of every job: float64 of shape (jobs,)."""
    products = np.empty(jobs.shape[0])
    for job in range(jobs.shape[0]):
        left = carray(pointer(jobs[job, 2], like), (jobs[job, 1],))
        right = carray(pointer(jobs[job, 3], like), (jobs[job, 1],))
        lanes = np.zeros(LANES)
        whole = left.size - left.size % LANES
        for i in range(0, whole, LANES):
            if i % BLOCK == 0:
                _fetch_ahead(left, i)
                _fetch_ahead(right, i)
            for lane in range(LANES):
                lanes[lane] += np.float64(left[i + lane]) * np.float64(right[i + lane])
        for i in range(whole, left.size):
            lanes[0] += np.float64(left[i]) * np.float64(right[i])
        products[job] = lanes.sum()
    return products


@compiled
def add_slopes(
    like: Floats,
    jobs: NDArray[np.int64],
    first: NDArray[np.float64],
    step_size: NDArray[np.float64],
    table: Floats,
) -> None:
    """Add to the second array of every job the entry of the half cell that the first array's weight lies in."""
    indices = np.empty(BLOCK, np.uint32)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        weights = carray(pointer(jobs[job, 2], like), (size,))
        gradients = carray(pointer(jobs[job, 3], like), (size,))
        slopes = table[group]
        last = slopes.size - 1.0
        halves_a_weight = 2.0 / step_size[group]
        for start in range(0, size, BLOCK):
            _fetch_ahead(weights, start)
            _fetch_ahead(gradients, start)
            block, gradient = weights[start : start + BLOCK], gradients[start : start + BLOCK]
            for i in range(block.size):
                position = (np.float64(block[i]) - first[group]) * halves_a_weight
                position = position if position > 0.0 else 0.0
                position = position if position < last else last
                indices[i] = np.uint32(np.int32(position))
            for i in range(block.size):
                gradient[i] += slopes[indices[i]]


@compiled
def restore(latent: Floats, jobs: NDArray[np.int64], starts: NDArray[np.int64], factors: Floats) -> None:
    """Multiply by the factor of the group, in place, and copy to the array of the job."""
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        parameter = carray(pointer(jobs[job, 2], latent), (size,))
        weights = latent[starts[job] : starts[job] + size]
        factor = factors[group]
        for start in range(0, size, BLOCK):
            _fetch_ahead(weights, start)
            _fetch_ahead(parameter, start)
            block, held = weights[start : start + BLOCK], parameter[start : start + BLOCK]
            for i in range(block.size):
                block[i] *= factor
                held[i] = block[i]


@compiled
def snap(
    latent: Floats,
    previous: NDArray[np.int32],
    average: NDArray[np.float32],
    flips: NDArray[np.float32],
    frozen: NDArray[np.bool_],
    jobs: NDArray[np.int64],
    starts: NDArray[np.int64],
    grids: Grids,
    count: int,
    memory: np.float32,
    threshold: np.float32,
) -> None:
    """See :func:`metaq.entropy.passes.snap`; `starts` holds where the weights of every job begin in the flat arrays."""
    lower, step_size, center, radius = grids
    indices = np.empty(BLOCK, np.uint32)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        parameter = carray(pointer(jobs[job, 2], latent), (size,))
        for start in range(0, size, BLOCK):
            at = starts[job] + start
            _fetch_ahead(parameter, start)
            _fetch_ahead(latent, at)
            _fetch_ahead(previous, at)
            _fetch_ahead(average, at)
            _fetch_ahead(flips, at)
            _fetch_ahead(frozen, at)
            end = min(at + BLOCK, starts[job] + size)
            weights, held = latent[at:end], parameter[start : start + BLOCK]
            before, mean, rate, stays = previous[at:end], average[at:end], flips[at:end], frozen[at:end]
            for i in range(weights.size):
                weights[i] = weights[i] if stays[i] else held[i]
            _bucket_indices(weights, lower[group], step_size[group], count, indices)
            for i in range(weights.size):
                index = np.int32(indices[i])
                rate[i] += memory * ((ONE if index != before[i] else ZERO) - rate[i])
                mean[i] += memory * (np.float32(index) - mean[i])
                before[i] = index
                held[i] = center[group] + radius[group] * np.float64(2 * index + (1 - count)) / count
            if threshold < np.inf:
                for i in range(weights.size):
                    if rate[i] > threshold and not stays[i]:
                        stays[i] = True
                        before[i] = np.int32(np.rint(mean[i]))
                        held[i] = center[group] + radius[group] * np.float64(2 * before[i] + (1 - count)) / count
                        weights[i] = held[i]
