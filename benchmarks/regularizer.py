"""How long one regulariser call takes: O(n) pass, 15 dual evaluations, O(n) gather, against the dense n×C way.

    python benchmarks/regularizer.py [--json FILE] [--seed 0]

`spread` and `code_length` are one call on one array; `spread_step` and `code_length_step` are the whole of the
regulariser's work in an optimiser step of LeNet-5 with one group of all tensors and with ten groups.

Prints a table; ratios are between medians of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from metaq import BucketConfig, EntropyRegularizer, RegularizerConfig, nets
from metaq.cells import cell_positions, cell_statistics
from metaq.grid import BucketGrid
from metaq.hull import lower_hull
from metaq.objective import code_length, spread

N, C, ITERATIONS, ZETA_PER_WEIGHT = 44_426, 256, 15, 2.25
SPREAD = RegularizerConfig(
    objective="spread",
    grouping="global",
    buckets=BucketConfig(rule="fixed", count=C, radius=0.25),
    forward="float",
    warmup=0.0,
    refresh_every=1,
    fista_iterations=ITERATIONS,
)
CODE_LENGTH = RegularizerConfig(warmup=0.0, refresh_every=1)


def spread_call(weights: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Pass over the weights, FISTA on counts and sums, gather of slopes."""
    result = spread(
        cell_statistics([weights], grid), start=None, iterations=ITERATIONS, zeta_per_weight=ZETA_PER_WEIGHT
    )
    return torch.from_numpy(result.slopes)[cell_positions(weights, grid)[0]]


def code_length_call(weights: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """Pass over the weights, code lengths, gather of slopes."""
    result = code_length(cell_statistics([weights], grid))
    return torch.from_numpy(result.slopes)[cell_positions(weights, grid)[0]]


def dense_call(weights: torch.Tensor, grid: BucketGrid) -> torch.Tensor:
    """The same 15 dual evaluations with every weight's solution as a row of an n×C array."""
    v = torch.from_numpy(grid.reference_values())
    w = weights.double()
    n = len(w)
    xi = torch.full((grid.count,), float(np.log2(np.e * n / grid.count)), dtype=torch.float64)
    beta = torch.zeros(n, dtype=torch.float64)
    for _ in range(ITERATIONS):
        vertices = lower_hull(v.numpy(), xi.numpy())
        lower = torch.from_numpy(np.interp(v.numpy(), v.numpy()[vertices], xi.numpy()[vertices]))
        cell = torch.bucketize(w, v, right=True).sub(1).clamp(0, grid.count - 2)
        inside = ((w - v[cell]) / (v[cell + 1] - v[cell])).clamp(0, 1)
        x = torch.zeros(n, grid.count, dtype=torch.float64)
        x[torch.arange(n), cell] = 1 - inside
        x[torch.arange(n), cell + 1] += inside
        beta = (lower[cell + 1] - lower[cell]) / (v[cell + 1] - v[cell])
        xi = xi + (x.sum(dim=0) - torch.exp2(xi) / np.e) / (ZETA_PER_WEIGHT * n)
    return beta


def regularizer_step(config: RegularizerConfig) -> Callable[[], None]:
    """All the regulariser does in one optimiser step of LeNet-5, slopes refreshed."""
    model = nets.create("lenet5")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    regularizer = EntropyRegularizer(model, config, total_steps=10_000)

    def step() -> None:
        regularizer.before_step()
        regularizer.after_step()

    return step


def milliseconds(call: Callable[[], object], *, repeats: int) -> list[float]:
    """Times of `repeats` calls after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    return times


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = 0.05 * torch.randn(N, generator=torch.Generator().manual_seed(options.seed))
    grid = BucketGrid(center=0.0, radius=0.25, count=C)
    times = {
        "spread": milliseconds(lambda: spread_call(weights, grid), repeats=101),
        "code_length": milliseconds(lambda: code_length_call(weights, grid), repeats=101),
        "spread_step": milliseconds(regularizer_step(SPREAD), repeats=101),
        "code_length_step": milliseconds(regularizer_step(CODE_LENGTH), repeats=101),
        "dense": milliseconds(lambda: dense_call(weights, grid), repeats=3),
    }
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"one call, n = {N:,}, C = {C}, {ITERATIONS} dual evaluations, one thread")
    for name, values in times.items():
        ratio = medians["dense"] / medians[name]
        print(
            f"{name:16s} median {medians[name]:9.3f} ms  min {min(values):9.3f}  max {max(values):9.3f}  {ratio:8.0f} x"
        )
    if options.json:
        result = {"n": N, "C": C, "seed": options.seed, **{f"{name}_ms": value for name, value in medians.items()}}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
