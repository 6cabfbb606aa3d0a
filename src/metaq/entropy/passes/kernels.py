"""The loops of :mod:`metaq.entropy.passes.compiled_passes`.

A job is a row of group, number of weights and addresses. Weights go through in blocks that stay in the first-level
cache: one loop without branches turns them into table indices, which the compiler can vectorise, a second one uses the
tables.
"""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from metaq.compiled import Floats, Integers, compiled
from metaq.entropy.passes.grids import COUNT_SHIFT, SLOT_CAPACITY, UNIT_BITS

BLOCK = 256

LANES = 8
"""Slots a cell has, taken in turn: neighbouring weights of one cell need not wait for each other."""

ZERO, ONE = np.float32(0), np.float32(1)

EDGE = 1e-7
"""Distance from a bucket's edge, in steps, where rounding may decide the bucket: more than 2^24 buckets times 2^-51."""

UNITS_PER_STEP = float(1 << UNIT_BITS)
CELL_SHIFT = np.uint64(UNIT_BITS)
UNIT_MASK = np.uint64((1 << UNIT_BITS) - 1)
ONE_WEIGHT = np.uint64(1 << COUNT_SHIFT)
SUM_SHIFT = np.uint64(COUNT_SHIFT)
SUM_MASK = np.uint64((1 << COUNT_SHIFT) - 1)
WIDE = np.uint64(LANES)
WEIGHTS_PER_FLUSH = LANES * SLOT_CAPACITY // 2

untyped = cast(Any, numba)
carray = untyped.carray

Weights = NDArray[np.floating]
Grids = tuple[Floats, Floats, Floats, Floats]


def _pointer(_context: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return untyped.types.CPointer(like.dtype)(address, like), generate


pointer = cast("Callable[[Any, Any], Any]", intrinsic(_pointer))
"""An address as a pointer to items of the dtype of an array."""


@compiled
def _cells_and_units(
    weights: Weights, first: float, units_per_weight: float, last: float, positions: NDArray[np.uint64]
) -> bool:
    """Distance of every weight from the first reference value, in units; whether all weights are finite."""
    not_finite = 0
    for i in range(weights.size):
        distance = weights[i] - first
        not_finite += not abs(distance) < np.inf
        position = distance * units_per_weight
        position = position if position > 0.0 else 0.0
        positions[i] = np.uint64(np.int64((position if position < last else last) + 0.5))
    return not_finite == 0


@compiled
def _flush(slots: NDArray[np.uint64], counts: Integers, units: Integers) -> None:
    for cell in range(counts.size):
        for lane in range(LANES):
            slot = slots[cell * LANES + lane]
            counts[cell] += np.int64(slot >> SUM_SHIFT)
            units[cell] += np.int64(slot & SUM_MASK)
            slots[cell * LANES + lane] = np.uint64(0)


@compiled
def cell_sums(
    like: Weights, jobs: Integers, first: Floats, step_size: Floats, counts: Integers, units: Integers
) -> bool:
    """Add weights and units to the cells of (G, C) tables; stops at the first block that is not finite."""
    count = counts.shape[1]
    positions = np.empty(BLOCK, np.uint64)
    slots = np.zeros(count * LANES, np.uint64)
    last = (count - 1) * UNITS_PER_STEP
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        weights = carray(pointer(jobs[job, 2], like), (size,))
        units_per_weight = UNITS_PER_STEP / step_size[group]
        for start in range(0, size, BLOCK):
            block = weights[start : start + BLOCK]
            if not _cells_and_units(block, first[group], units_per_weight, last, positions):
                return False
            whole = block.size - block.size % LANES
            for i in range(0, whole, LANES):
                for lane in range(LANES):
                    position = positions[i + lane]
                    slots[(position >> CELL_SHIFT) * WIDE + np.uint64(lane)] += (position & UNIT_MASK) + ONE_WEIGHT
            for i in range(whole, block.size):
                slots[(positions[i] >> CELL_SHIFT) * WIDE] += (positions[i] & UNIT_MASK) + ONE_WEIGHT
            if (start + BLOCK) % WEIGHTS_PER_FLUSH == 0:
                _flush(slots, counts[group], units[group])
        _flush(slots, counts[group], units[group])
    return True


@compiled
def _bucket_indices(weights: Weights, lower: float, step_size: float, count: int, indices: NDArray[np.uint32]) -> bool:
    """Bucket of every weight by the rule of `BucketGrid.assign`; whether all weights are finite.

    NaN takes the first bucket. A division takes several times as long as a multiplication, and only near an edge may
    the two differ.
    """
    buckets_per_weight = 1.0 / step_size
    last = count - 1.0
    near_edges, not_finite = 0, 0
    for i in range(weights.size):
        distance = weights[i] - lower
        not_finite += not abs(distance) < np.inf
        position = distance * buckets_per_weight
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
def bucket_counts(like: Weights, jobs: Integers, lower: Floats, step_size: Floats, counts: Integers) -> bool:
    """Add weights to the buckets of a (G, C) table; stops at the first block that is not finite."""
    count = counts.shape[1]
    indices = np.empty(BLOCK, np.uint32)
    slots = np.zeros(count * LANES, np.int64)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        weights = carray(pointer(jobs[job, 2], like), (size,))
        for start in range(0, size, BLOCK):
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
def inner_products(like: Weights, jobs: Integers) -> Floats:
    """Inner product of the two arrays of every job: float64 of shape (jobs,)."""
    products = np.empty(jobs.shape[0])
    for job in range(jobs.shape[0]):
        left = carray(pointer(jobs[job, 2], like), (jobs[job, 1],))
        right = carray(pointer(jobs[job, 3], like), (jobs[job, 1],))
        lanes = np.zeros(LANES)
        whole = left.size - left.size % LANES
        for i in range(0, whole, LANES):
            for lane in range(LANES):
                lanes[lane] += np.float64(left[i + lane]) * np.float64(right[i + lane])
        for i in range(whole, left.size):
            lanes[0] += np.float64(left[i]) * np.float64(right[i])
        products[job] = lanes.sum()
    return products


@compiled
def add_slopes(like: Weights, jobs: Integers, first: Floats, step_size: Floats, table: Weights) -> None:
    """Add to the second array of every job the entry of the half cell that the first array's weight lies in."""
    indices = np.empty(BLOCK, np.uint32)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        weights = carray(pointer(jobs[job, 2], like), (size,))
        gradients = carray(pointer(jobs[job, 3], like), (size,))
        slopes = table[group]
        last = slopes.size - 1.0
        halves_per_weight = 2.0 / step_size[group]
        for start in range(0, size, BLOCK):
            block, gradient = weights[start : start + BLOCK], gradients[start : start + BLOCK]
            for i in range(block.size):
                position = (np.float64(block[i]) - first[group]) * halves_per_weight
                position = position if position > 0.0 else 0.0
                position = position if position < last else last
                indices[i] = np.uint32(np.int32(position))
            for i in range(block.size):
                gradient[i] += slopes[indices[i]]


@compiled
def snap(
    latent: Weights,
    previous: NDArray[np.int32],
    average: NDArray[np.float32],
    flips: NDArray[np.float32],
    frozen: NDArray[np.bool_],
    jobs: Integers,
    starts: Integers,
    grids: Grids,
    count: int,
    memory: np.float32,
    threshold: np.float32,
) -> None:
    """What `dispatch.snap` does; `starts` holds where the weights of every job begin in the flat arrays."""
    lower, step_size, center, radius = grids
    indices = np.empty(BLOCK, np.uint32)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        parameter = carray(pointer(jobs[job, 2], latent), (size,))
        for start in range(0, size, BLOCK):
            at = starts[job] + start
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
                    usual = np.int32(np.rint(mean[i]))
                    if rate[i] > threshold and not stays[i] and abs(usual - before[i]) <= 1:
                        stays[i] = True
                        before[i] = usual
                        held[i] = center[group] + radius[group] * np.float64(2 * before[i] + (1 - count)) / count
                        weights[i] = held[i]


@compiled
def rescale(
    latent: Weights,
    previous: NDArray[np.int32],
    average: NDArray[np.float32],
    jobs: Integers,
    starts: Integers,
    lower: Floats,
    step_size: Floats,
    factors: NDArray[np.float32],
    count: int,
) -> None:
    """What `dispatch.rescale` does; `starts` as for :func:`snap`."""
    indices = np.empty(BLOCK, np.uint32)
    middle = np.float32((count - 1) / 2)
    for job in range(jobs.shape[0]):
        group, size = jobs[job, 0], jobs[job, 1]
        for start in range(starts[job], starts[job] + size, BLOCK):
            end = min(start + BLOCK, starts[job] + size)
            before, mean = previous[start:end], average[start:end]
            _bucket_indices(latent[start:end], lower[group], step_size[group], count, indices)
            for i in range(before.size):
                before[i] = np.int32(indices[i])
                mean[i] = (mean[i] - middle) / factors[group] + middle
