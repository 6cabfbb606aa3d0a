"""Passes by Numba: contiguous float32 or float64 tensors of one dtype on a CPU, read where they lie.

Tensors are cut into jobs of at most :data:`JOB_SIZE` weights, which many weights share out among threads. Counts and
sums are integers, so that results do not depend on how.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaq.entropy.passes import kernels
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.entropy.passes.watch import MEMORY, BucketWatch

JOB_SIZE = 1 << 18

THREADS_FROM = 1 << 20
"""Weights from which threads are worth their start."""

Jobs = NDArray[np.int64]
Result = TypeVar("Result")


def cell_totals(tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> tuple[Tensor, ...]:
    """Weights and sums of units by cell, int64 of shape (G, C), and whether a weight is not finite, int64."""
    return _totals(kernels.cell_sums, 2, tensors, groups, grids, grids.first)


def bucket_totals(tensors: Sequence[Tensor], groups: Sequence[int], grids: GridSet) -> tuple[Tensor, ...]:
    """Weights by bucket, int64 of shape (G, C), and whether one is not finite, int64."""
    return _totals(kernels.bucket_counts, 1, tensors, groups, grids, grids.lower)


def inner_products(left: Sequence[Tensor], right: Sequence[Tensor], groups: Sequence[int], group_count: int) -> Tensor:
    """Σ left · right by group: float64 of shape (G,), added up job after job."""
    jobs = _jobs(groups, left, right)
    of_jobs = np.concatenate(_share_out(lambda rows: kernels.inner_products(_like(left), jobs[rows]), jobs))
    return torch.from_numpy(np.bincount(jobs[:, 0], of_jobs, group_count))


def add_slopes(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], groups: Sequence[int], grids: GridSet, slopes: Tensor
) -> None:
    """Add slopes of half cells, of shape (G, 2 (C - 1)), to `gradients`."""
    like = _like(weights)
    table = slopes.numpy().astype(like.dtype)
    jobs = _jobs(groups, weights, gradients)
    _share_out(
        lambda rows: kernels.add_slopes(like, jobs[rows], grids.first.numpy(), grids.step_size.numpy(), table), jobs
    )


def snap(watch: BucketWatch, parameters: Sequence[Tensor], grids: GridSet, freeze_above: float | None) -> None:
    """Latent weights, averages and snapped parameters in one pass."""
    latent, previous, average, flips, frozen = watch.arrays
    threshold = np.float32(np.inf if freeze_above is None else freeze_above)
    of_grids = (grids.lower.numpy(), grids.step_size.numpy(), grids.center.numpy(), grids.radius.numpy())
    jobs, starts = _flat_jobs(watch, parameters)

    def take_over(rows: slice) -> None:
        places, memory = (jobs[rows], starts[rows]), np.float32(MEMORY)
        kernels.snap(latent, previous, average, flips, frozen, *places, of_grids, grids.count, memory, threshold)

    _share_out(take_over, jobs)


def rescale(watch: BucketWatch, factors: Tensor, grids: GridSet) -> None:
    """Averages and buckets on grids with other step sizes, in one pass."""
    latent, previous, average, *_ = watch.arrays
    of_grids = (grids.lower.numpy(), grids.step_size.numpy(), factors.numpy().astype(np.float32))
    jobs, starts = _flat_jobs(watch, watch.tensors)
    _share_out(
        lambda rows: kernels.rescale(latent, previous, average, jobs[rows], starts[rows], *of_grids, grids.count), jobs
    )


def _totals(
    kernel: Callable[..., bool],
    table_count: int,
    tensors: Sequence[Tensor],
    groups: Sequence[int],
    grids: GridSet,
    origins: Tensor,
) -> tuple[Tensor, ...]:
    """Tables that a kernel adds to, from the `origins` of grids on, and whether a weight is not finite."""
    jobs = _jobs(groups, tensors)

    def count(rows: slice) -> tuple[list[NDArray[np.int64]], bool]:
        tables = [np.zeros((len(grids), grids.count), np.int64) for _ in range(table_count)]
        return tables, kernel(_like(tensors), jobs[rows], origins.numpy(), grids.step_size.numpy(), *tables)

    parts, finite = zip(*_share_out(count, jobs), strict=True)
    sums = (torch.from_numpy(sum(of_parts[1:], start=of_parts[0])) for of_parts in zip(*parts, strict=True))
    return *sums, torch.tensor(int(not all(finite)), device=CPU)


def _like(tensors: Sequence[Tensor]) -> NDArray[np.floating]:
    """An empty array that tells a kernel the dtype behind the addresses."""
    return np.empty(0, np.float32 if tensors[0].dtype == torch.float32 else np.float64)


def _jobs(groups: Sequence[int], *lists: Sequence[Tensor]) -> Jobs:
    """Rows of group, number of weights and one address for each list: int64 of shape (jobs, 2 + lists)."""
    sizes = [tensor.numel() for tensor in lists[0]]
    addresses = [[tensor.data_ptr() for tensor in tensors] for tensors in lists]
    whole = np.array([groups, sizes, *addresses], dtype=np.int64).T
    if max(sizes) <= JOB_SIZE:
        return np.ascontiguousarray(whole)
    item = lists[0][0].element_size()
    rows = [
        [group, min(JOB_SIZE, size - start), *(address + start * item for address in places)]
        for group, size, *places in whole.tolist()
        for start in range(0, size, JOB_SIZE)
    ]
    return np.array(rows, dtype=np.int64)


def _flat_jobs(watch: BucketWatch, tensors: Sequence[Tensor]) -> tuple[Jobs, NDArray[np.int64]]:
    """Jobs of the tensors that are watched, and where the weights of every job begin among the weights of all."""
    jobs = _jobs(watch.groups, tensors)
    return jobs, np.cumsum(jobs[:, 1]) - jobs[:, 1]


def _share_out(work: Callable[[slice], Result], jobs: Jobs) -> list[Result]:
    """Run `work` on all rows of `jobs`: where there is much to do, in parts of about equal size, one a thread."""
    threads = torch.get_num_threads()
    if threads == 1 or jobs[:, 1].sum() < THREADS_FROM:
        return [work(slice(None))]
    ends = np.cumsum(jobs[:, 1])
    cuts = [0, *np.searchsorted(ends, ends[-1] * np.arange(1, threads) / threads), len(jobs)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, itertools.starmap(slice, itertools.pairwise(cuts))))
