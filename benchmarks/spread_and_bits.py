"""What minimising Σ c log2 c does to the bits of a code: the thesis's problem solved exactly, against the code length.

    python benchmarks/spread_and_bits.py [--seed 0] [--json FILE or -] [--plot FILE.png]

44,000 weights on 64 buckets over [-1, 1]. Bits are those of an ideal code for the linearly binned weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import SpreadDual, solve_exact
from metaq.entropy.objective import code_length
from metaq.tensors.grid import BucketGrid
from support.results import write_json

WEIGHTS, BUCKETS, MOVES = 44_000, 64, 50
GRID = BucketGrid(center=0.0, radius=1.0, count=BUCKETS)
KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "one cluster": lambda rng: rng.normal(0, 0.05, WEIGHTS),
    "two clusters": lambda rng: np.where(rng.random(WEIGHTS) < 0.5, -0.7, 0.7) + rng.normal(0, 0.08, WEIGHTS),
    "uniform": lambda rng: rng.uniform(-1, 1, WEIGHTS),
}


def bits(counts: NDArray[np.float64]) -> float:
    """Bits per weight of an ideal zero-order code for the given counts."""
    held = counts[counts > 0]
    return float(held @ np.log2(held.sum() / held) / held.sum())


def spread_slopes(weights: torch.Tensor) -> NDArray[np.float64]:
    """β of the thesis's problem on every cell, exact."""
    return solve_exact(SpreadDual(statistics=cell_statistics([weights], GRID))).slopes


def code_length_slopes(weights: torch.Tensor) -> NDArray[np.float64]:
    """β of the entropy of the linearly binned weights on every cell."""
    return code_length(cell_statistics([weights], GRID))[1]


def after_moves(weights: torch.Tensor, slopes_of: Callable[[torch.Tensor], NDArray[np.float64]]) -> torch.Tensor:
    """Weights after 50 steps against β, each of which moves no weight further than a tenth of a bucket."""
    moved, inner_values = weights, torch.from_numpy(GRID.reference_values()[1:-1])
    for _ in range(MOVES):
        beta = torch.from_numpy(slopes_of(moved))[torch.bucketize(moved, inner_values, right=True)]
        longest = float(beta.abs().max())
        moved = moved - 0.1 * GRID.step_size * beta / longest if longest > 0 else moved
    return moved


def measure(kind: str, seed: int) -> dict[str, Any]:
    """Bits per weight before, of the exact optimum, and after moving against each β."""
    weights = torch.from_numpy(KINDS[kind](np.random.default_rng(seed)))
    optimum = solve_exact(SpreadDual(statistics=cell_statistics([weights], GRID)))
    if optimum.counts is None:
        raise RuntimeError("the exact solution gave no counts")
    used = cell_statistics([weights], GRID).counts > 0
    slopes = optimum.slopes[used]
    return {
        "kind": kind,
        "before": bits(cell_statistics([weights], GRID).linear_binning()),
        "optimum_of_spread": bits(optimum.counts),
        "least_beta": float(slopes.min()),
        "greatest_beta": float(slopes.max()),
        "after_spread": bits(cell_statistics([after_moves(weights, spread_slopes)], GRID).linear_binning()),
        "after_code_length": bits(cell_statistics([after_moves(weights, code_length_slopes)], GRID).linear_binning()),
        "binned_counts": cell_statistics([weights], GRID).linear_binning().tolist(),
        "optimal_counts": optimum.counts.tolist(),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Counts of the weights as they are and at the optimum of Σ c log2 c."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(rows), figsize=(11, 3.4), layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        axis.step(GRID.reference_values(), row["binned_counts"], where="mid", label="weights, binned")
        axis.step(GRID.reference_values(), row["optimal_counts"], where="mid", label="optimum of Σ c log c")
        axis.set(title=f"{row['kind']}: {row['before']:.2f} → {row['optimum_of_spread']:.2f} bits", xlabel="weight")
    axes[0].set_ylabel("weights in a bucket")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the figures, - for standard output")
    parser.add_argument("--plot", type=Path, help="PNG file for the counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(kind, options.seed) for kind in KINDS]
    out = sys.stderr if options.json == "-" else sys.stdout
    print("bits a weight  before  optimum of Σ c log c  β on the weights     after spread  after code length", file=out)
    for row in rows:
        slopes = f"{row['least_beta']:8.3f} to {row['greatest_beta']:6.3f}"
        print(
            f"{row['kind']:13s} {row['before']:7.3f} {row['optimum_of_spread']:21.3f}  {slopes}"
            f" {row['after_spread']:13.3f} {row['after_code_length']:18.3f}",
            file=out,
        )
    write_json({"seed": options.seed, "rows": rows}, options.json)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
