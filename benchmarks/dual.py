"""The dual of the thesis's problem: how fast each solver comes to the optimum, and what the regulariser costs.

    python benchmarks/dual.py [--quick] [--seed 0] [--json FILE or -] [--plot FILE.png]

Ratios are between medians of interleaved rounds of one run, on the threads PyTorch is given (OMP_NUM_THREADS) unless a
row says one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from metaq import BucketConfig, EntropyRegularizer, RegularizerConfig
from metaq.entropy.cells import cell_statistics
from metaq.entropy.dual import (
    DualResult,
    SpreadDual,
    solve_dss,
    solve_exact,
    solve_fista,
    solve_projected_fista,
    solve_proximal_bundle,
)
from metaq.entropy.dual.primal import hinge_sums
from metaq.entropy.hull import lower_hull
from metaq.entropy.objective import magnitude_slopes, spread_slopes
from metaq.entropy.passes import compiled_passes, dispatch, torch_passes
from metaq.entropy.passes.grids import GridSet
from metaq.lab import nets
from metaq.tensors.grid import BucketGrid
from support.results import write_json

WEIGHTS, MANY_WEIGHTS = 44_000, 25_000_000
LENET_WEIGHTS, LENET_BUCKETS, FISTA_STEPS = 44_426, 256, 15
THESIS_ZETA_FISTA, THESIS_CALLS = 9e4, 20
COUNTS = (8, 16, 32, 64, 128, 256)
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "concentrated": lambda rng, n: rng.normal(0, 0.05, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.5, -0.7, 0.7) + rng.normal(0, 0.08, n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
}
Result = dict[str, Any]


def median_ms(calls: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median milliseconds of every call over interleaved rounds, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number > 0:
                times[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def on_one_thread(measure: Callable[[], Result]) -> Result:
    """Run `measure` with one PyTorch thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(before)


def spread_call(weights: torch.Tensor, grid: BucketGrid, *, steps: int = FISTA_STEPS) -> torch.Tensor:
    """One regulariser call: pass over the weights, FISTA on counts and sums, slopes added to a gradient."""
    grids = GridSet.of([grid])
    counts, fractions = dispatch.cell_sums([weights], [0], grids)
    starts = torch.full((1, grid.count), torch.nan, dtype=torch.float64)
    slopes, _ = spread_slopes(
        counts, fractions, starts=starts, step_sizes=grids.step_size, iterations=steps, zeta_per_weight=2.25
    )
    gradient = torch.zeros_like(weights)
    dispatch.add_slopes(dispatch.TensorPairs([weights], [gradient], [0]), grids, slopes.repeat_interleave(2, dim=1))
    return gradient


def dense_call(weights: torch.Tensor, grid: BucketGrid, *, steps: int = FISTA_STEPS) -> torch.Tensor:
    """The same steps with the shares of every weight as a row of an n×C array."""
    v = torch.from_numpy(grid.reference_values())
    w = weights.double().clamp(v[0], v[-1])
    n = len(w)
    xi = np.full(grid.count, np.log2(np.e * n / grid.count))
    previous, momentum, best, best_beta = xi, 1.0, -np.inf, torch.zeros(n, dtype=torch.float64)
    for _ in range(steps):
        counts = np.clip(2.0**xi / np.e, 0.01, n)
        vertices = torch.from_numpy(lower_hull(v.numpy(), xi))
        right = torch.searchsorted(v[vertices], w).clamp(min=1)
        left, right = vertices[right - 1], vertices[right]
        inside = (w - v[left]) / (v[right] - v[left])
        shares = torch.zeros(n, grid.count, dtype=torch.float64)
        shares.scatter_(1, left[:, None], (1 - inside)[:, None]).scatter_add_(1, right[:, None], inside[:, None])
        costs = torch.from_numpy(xi)
        value = float(np.sum(counts * np.log2(counts) - xi * counts)) + float((shares @ costs).sum())
        if value > best:
            best, best_beta = value, (costs[right] - costs[left]) / (v[right] - v[left])
        current = xi + (shares.sum(dim=0).numpy() - counts) / (2.25 * n)
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        xi = current + (momentum - 1) / next_momentum * (current - previous)
        previous, momentum = current, next_momentum
    return best_beta


def measure_call(seed: int, *, dense_rounds: int) -> Result:
    """One call for LeNet-5's 44,426 weights, C = 256, one thread, against the dense way."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.where(torch.rand(LENET_WEIGHTS, generator=generator) < 0.5, -0.6, 0.6)
    weights += 0.1 * torch.randn(LENET_WEIGHTS, generator=generator)
    grid = BucketGrid(center=0.0, radius=1.0, count=LENET_BUCKETS)
    if not torch.allclose(spread_call(weights, grid, steps=4).double(), dense_call(weights, grid, steps=4), atol=1e-3):
        raise RuntimeError("the two ways to take the same steps disagree")
    ours = median_ms({"regularizer_ms": lambda: spread_call(weights, grid)}, rounds=100)
    dense = median_ms({"dense_ms": lambda: dense_call(weights, grid)}, rounds=dense_rounds)
    return {**ours, **dense, "dense_over_regularizer": dense["dense_ms"] / ours["regularizer_ms"]}


def lenet_step(config: RegularizerConfig | None, seed: int) -> Callable[[], None]:
    """A training step of LeNet-5 on 256 images, with or without the regulariser attached."""
    torch.manual_seed(seed)
    model = nets.create("lenet5")
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.rand(256, 1, 28, 28), torch.randint(0, 10, (256,))
    if config is not None:
        EntropyRegularizer(model, config, total_steps=100_000).attach(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def measure_step_overhead(seed: int, *, rounds: int) -> Result:
    """LeNet-5 training steps with the regulariser, over the same step without it: median of paired ratios."""
    spread = {
        "strength": 1e-5,
        "objective": "spread",
        "grouping": "global",
        "forward": "float",
        "buckets": BucketConfig(rule="fixed", count=LENET_BUCKETS),
    }
    configs: dict[str, RegularizerConfig | None] = {
        "without": None,
        "default_every_step": RegularizerConfig(strength=1e-5, warmup=0.0, refresh_every=1),
        "default_every_fourth": RegularizerConfig(strength=1e-5, warmup=0.0, refresh_every=4),
        "default": RegularizerConfig(strength=1e-5, warmup=0.0),
        "spread_every_step": RegularizerConfig(warmup=0.0, refresh_every=1, **spread),  # type: ignore[arg-type]
        "spread_every_fourth": RegularizerConfig(warmup=0.0, refresh_every=4, **spread),  # type: ignore[arg-type]
    }
    steps = {name: lenet_step(config, seed) for name, config in configs.items()}
    for step in steps.values():
        for _ in range(5):
            step()
    ratios: dict[str, list[float]] = {name: [] for name in configs}
    plain_ms = []
    for _ in range(rounds):
        seconds = {}
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name] = time.perf_counter() - begun
        plain_ms.append(1000 * seconds["without"])
        for name in ratios:
            ratios[name].append(seconds[name] / seconds["without"])
    overhead = {name: statistics.median(values) for name, values in ratios.items() if name != "without"}
    return {"step_without_ms": statistics.median(plain_ms), **overhead}


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Shapes of ResNet-50's 161 parameters: 25,557,032 weights."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    incoming = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            for out, inner, kernel in ((width, incoming, 1), (width, width, 3), (4 * width, width, 1)):
                shapes += [(out, inner, kernel, kernel), (out,), (out,)]
            if block == 0:
                shapes += [(4 * width, incoming, 1, 1), (4 * width,), (4 * width,)]
            incoming = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def measure_many_weights(seed: int, *, device: str, rounds: int) -> Result:
    """A regulariser call of either objective on ResNet-50's tensors, C = 64, over a fused Adam step on them."""
    torch.manual_seed(seed)
    parameters = [torch.nn.Parameter(0.05 * torch.randn(shape, device=device)) for shape in resnet50_shapes()]
    for parameter in parameters:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    adam = torch.optim.Adam(parameters, lr=1e-6, fused=True)
    weights = [parameter.detach() for parameter in parameters]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    groups = list(range(len(weights)))
    grids = GridSet.of([BucketGrid(center=0.0, radius=0.25, count=64)] * len(weights))
    starts = torch.full((len(weights), 64), torch.nan, dtype=torch.float64)

    def spread() -> None:
        counts, fractions = dispatch.cell_sums(weights, groups, grids)
        slopes, _ = spread_slopes(
            counts,
            fractions,
            starts=starts,
            step_sizes=grids.step_size,
            iterations=FISTA_STEPS,
            zeta_per_weight=2.25,
        )
        dispatch.add_slopes(
            dispatch.TensorPairs(weights, gradients, groups), grids, 1e-9 * slopes.repeat_interleave(2, dim=1)
        )

    def code_length() -> None:
        counts = dispatch.bucket_counts(weights, groups, grids)
        slopes = magnitude_slopes(counts, attractor=32, step_size=grids.step_size)
        dispatch.add_slopes(
            dispatch.TensorPairs(weights, gradients, groups), grids, 1e-9 * slopes.repeat_interleave(2, dim=1)
        )

    medians = median_ms({"adam_ms": adam.step, "spread_ms": spread, "code_length_ms": code_length}, rounds=rounds)
    return {
        "device": device,
        "weights": sum(weight.numel() for weight in weights),
        **medians,
        "spread_over_adam": medians["spread_ms"] / medians["adam_ms"],
        "code_length_over_adam": medians["code_length_ms"] / medians["adam_ms"],
    }


def measure_backends(seed: int, *, rounds: int) -> Result:
    """The passes by Numba and by PyTorch on the CPU: milliseconds for LeNet-5's tensors and for 4 million weights."""
    generator = torch.Generator().manual_seed(seed)
    lenet5 = [p.detach() for p in nets.create("lenet5").parameters()]
    four_million = [0.05 * torch.randn(4_000_000, generator=generator)]
    return {
        "lenet5": median_ms(pass_calls(lenet5), rounds=rounds),
        "four_million": median_ms(pass_calls(four_million), rounds=rounds),
    }


def pass_calls(tensors: list[torch.Tensor]) -> dict[str, Callable[[], object]]:
    """The two passes of a call over `tensors`, a group each, by both backends."""
    groups = list(range(len(tensors)))
    grids = GridSet.of([BucketGrid(center=0.0, radius=0.25, count=256)] * len(tensors))
    gradients = [torch.zeros_like(tensor) for tensor in tensors]
    slopes = torch.ones(len(tensors), 510, dtype=torch.float64)
    return {
        "cell_sums_numba": lambda: compiled_passes.cell_totals(tensors, groups, grids),
        "cell_sums_torch": lambda: torch_passes.cell_totals(tensors, groups, grids),
        "add_slopes_numba": lambda: compiled_passes.add_slopes(tensors, gradients, groups, grids, slopes),
        "add_slopes_torch": lambda: torch_passes.add_slopes(tensors, gradients, groups, grids, slopes),
    }


def make_problem(kind: str, count: int, seed: int) -> SpreadDual:
    """The dual for 44,000 weights of a kind on [-1, 1]."""
    weights = torch.from_numpy(DISTRIBUTIONS[kind](np.random.default_rng(seed), WEIGHTS))
    return SpreadDual(statistics=cell_statistics([weights], BucketGrid(center=0.0, radius=1.0, count=count)))


def calls_until(result: DualResult, optimum: float, relative: float) -> int | None:
    """Steps until a value within `relative` of the optimum; None if there is none."""
    threshold = optimum - relative * abs(optimum)
    return next((k + 1 for k, value in enumerate(result.values) if value >= threshold), None)


def optimality(problem: SpreadDual, result: DualResult) -> float:
    """Greatest violation of the optimality conditions of the exact solution, each over its natural scale."""
    s, n = problem.statistics.linear_binning(), problem.statistics.total
    counts = np.clip(2.0**result.xi / np.e, *problem.count_bounds)
    excess = (hinge_sums(counts) - hinge_sums(s))[1:-1]
    kinks = np.diff(result.xi, 2)
    return max(
        abs(counts.sum() - n) / n,
        abs(np.arange(s.size) @ (counts - s)) / (n * s.size),
        float(np.max(-excess, initial=0)) / (n * s.size),
        float(np.max(-kinks, initial=0)),
        float(np.max(np.abs(kinks * excess), initial=0)) / n,
    )


def compare_solvers(kind: str, count: int, seed: int, *, calls: int) -> Result:
    """All solvers from the thesis's random start, ξ uniform on [0, 1): values, evaluations and seconds."""
    problem = make_problem(kind, count, seed)
    start = np.random.default_rng(seed).random(count)
    solve_exact(problem, start=start)
    begun = time.perf_counter()
    exact = solve_exact(problem, start=start)
    row: Result = {
        "kind": kind,
        "C": count,
        "exact": exact.value,
        "exact_ms": 1000 * (time.perf_counter() - begun),
        "exact_steps": exact.iterations,
        "exact_optimality": optimality(problem, exact),
    }
    thesis = {
        "thesis_dss": lambda: solve_dss(problem, start=start, max_iterations=THESIS_CALLS, fixed_step=1.0),
        "thesis_dss_1000": lambda: solve_dss(problem, start=start, max_iterations=1000, fixed_step=1.0),
        "thesis_fista": lambda: solve_fista(problem, start=start, max_iterations=THESIS_CALLS, zeta=THESIS_ZETA_FISTA),
        "bundle_20": lambda: solve_proximal_bundle(problem, start=start, max_iterations=THESIS_CALLS),
    }
    for name, solve in thesis.items():
        result = solve()
        row[name] = result.value
        row[f"{name}_last"] = result.values[-1]
    solvers: dict[str, Callable[[], DualResult]] = {
        "dss": lambda: solve_dss(problem, start=start, max_iterations=calls),
        "fista": lambda: solve_fista(problem, start=start, max_iterations=calls),
        "projected_fista": lambda: solve_projected_fista(problem, start=start, max_iterations=calls // 3),
        "proximal_bundle": lambda: solve_proximal_bundle(problem, start=start, max_iterations=calls, tolerance=3e-5),
        "exact_trace": lambda: solve_exact(problem, start=start),
    }
    for name, solve in solvers.items():
        begun = time.perf_counter()
        result = solve()
        seconds = time.perf_counter() - begun
        best = np.maximum.accumulate(np.array(result.values))
        row[name] = {
            "relative_error": (exact.value - result.value) / abs(exact.value),
            "evaluations": result.evaluations,
            "steps_to_1e-4": calls_until(result, exact.value, 1e-4),
            "steps_to_1e-6": calls_until(result, exact.value, 1e-6),
            "seconds": seconds,
            "errors": ((exact.value - best) / abs(exact.value)).tolist(),
        }
    return row


def measure_scaling(seed: int, *, largest: int, most_buckets: int) -> Result:
    """Milliseconds of pass, 15 FISTA steps and exact solution over n, by chunks of 10^6, and over C."""
    generator = torch.Generator().manual_seed(seed)
    chunk = 0.25 * torch.randn(1_000_000, generator=generator)
    grid = BucketGrid(center=0.0, radius=1.0, count=256)
    by_weights = []
    for exponent in range(4, len(str(largest))):
        n = 10**exponent
        parts = [chunk[:n]] if n <= len(chunk) else [chunk] * (n // len(chunk))
        ms = median_ms({"pass": lambda p=parts: cell_statistics(p, grid)}, rounds=5)["pass"]
        by_weights.append({"n": n, "pass_ms": ms})
    by_buckets = []
    count = 4
    while count <= most_buckets:
        problem = SpreadDual(
            statistics=cell_statistics([chunk[:WEIGHTS]], BucketGrid(center=0.0, radius=1.0, count=count))
        )
        calls: dict[str, Callable[[], object]] = {
            "fista_15_ms": lambda p=problem: solve_fista(p, max_iterations=FISTA_STEPS),
            "exact_ms": lambda p=problem: solve_exact(p),
        }
        by_buckets.append({"C": count, **median_ms(calls, rounds=3)})
        count *= 4
    return {"by_weights": by_weights, "by_buckets": by_buckets}


def print_summary(result: Result, out: TextIO) -> None:
    """Tables in words a reader can check against the thesis."""
    call = result["call"]
    print(f"one call, n = {LENET_WEIGHTS:,}, C = {LENET_BUCKETS}, {FISTA_STEPS} FISTA steps, one thread", file=out)
    print(
        f"  {call['regularizer_ms']:.3f} ms; dense n×C {call['dense_ms']:.0f} ms; "
        f"{call['dense_over_regularizer']:,.0f} times",
        file=out,
    )
    print("LeNet-5 training step, batch 256, over the step without the regulariser", file=out)
    for threads, overhead in result["step"].items():
        print(f"  {threads}: without {overhead['step_without_ms']:.1f} ms", file=out)
        for name, ratio in overhead.items():
            if name != "step_without_ms":
                print(f"    {name:26s} {ratio:.3f}", file=out)
    for many in result.get("many_weights", []):
        print(
            f"{many['weights']:,} weights in {len(resnet50_shapes())} tensors, C = 64, {many['device']}, "
            f"{many['threads']} threads, over a fused Adam step of {many['adam_ms']:.1f} ms: "
            f"spread {many['spread_over_adam']:.2f}, code length {many['code_length_over_adam']:.2f}",
            file=out,
        )
    for name, backends in result.get("backends", {}).items():
        times = ", ".join(f"{key} {value:.2f} ms" for key, value in backends.items())
        print(f"passes, {name}: {times}", file=out)
    if "solvers" in result:
        _print_solvers(result["solvers"], out)
    for row in result.get("scaling", {}).get("by_weights", []):
        print(f"pass over n = {row['n']:>11,}: {row['pass_ms']:10.3f} ms", file=out)
    for row in result.get("scaling", {}).get("by_buckets", []):
        print(
            f"C = {row['C']:>6,}: 15 FISTA steps {row['fista_15_ms']:8.3f} ms, exact {row['exact_ms']:9.3f} ms",
            file=out,
        )


def _print_solvers(rows: list[Result], out: TextIO) -> None:
    print(f"best dual value from a random start, n = {WEIGHTS:,}; the thesis's fixed steps", file=out)
    print("kind          C    exact       DSS 1000    DSS 20      FISTA 20    bundle 20", file=out)
    for row in rows:
        names = ("exact", "thesis_dss_1000", "thesis_dss", "thesis_fista", "bundle_20")
        print(f"{row['kind']:12s} {row['C']:4d} " + " ".join(f"{row[name]:11.4e}" for name in names), file=out)
    print(
        "this library's steps: evaluations and relative error; last, evaluations of the bundle to 1e-4 and steps of "
        "projected FISTA to 1e-6",
        file=out,
    )
    for row in rows:
        cells = [f"exact {row['exact_steps']:2d} steps {row['exact_ms']:5.2f} ms {row['exact_optimality']:.0e}"]
        for name in ("dss", "fista", "projected_fista", "proximal_bundle"):
            solver = row[name]
            cells.append(f"{name} {solver['evaluations']} {solver['relative_error']:.0e}")
        cells.append(f"{row['proximal_bundle']['steps_to_1e-4']}, {row['projected_fista']['steps_to_1e-6']}")
        print(f"{row['kind']:12s} {row['C']:4d} " + "; ".join(cells), file=out)


def plot(result: Result, path: Path) -> None:
    """Error over iterations and over seconds at C = 256, time over n and over C."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {
        "dss": "DSS",
        "fista": "FISTA",
        "projected_fista": "projected FISTA (3')",
        "proximal_bundle": "proximal bundle",
        "exact_trace": "exact (Newton)",
    }
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    row = next(row for row in result["solvers"] if row["kind"] == "bimodal" and row["C"] == max(COUNTS))
    for name, label in names.items():
        errors = np.maximum(row[name]["errors"], 1e-15)
        steps = np.arange(1, len(errors) + 1)
        axes[0, 0].loglog(steps, errors, label=label)
        axes[0, 1].loglog(row[name]["seconds"] * steps / len(errors), errors, label=label)
    axes[0, 0].set(title="two clusters, C = 256, n = 44,000", xlabel="step", ylabel="relative error of best value")
    axes[0, 1].set(title="the same over time", xlabel="seconds", ylabel="relative error of best value")
    axes[0, 1].legend(*axes[0, 0].get_legend_handles_labels(), loc="lower right")
    by_weights, by_buckets = result["scaling"]["by_weights"], result["scaling"]["by_buckets"]
    axes[1, 0].loglog([r["n"] for r in by_weights], [r["pass_ms"] for r in by_weights], "o-")
    axes[1, 0].set(title="pass over the weights, C = 256, one thread", xlabel="number of weights n", ylabel="ms")
    for key, label in (("fista_15_ms", "15 FISTA steps"), ("exact_ms", "exact solution")):
        axes[1, 1].loglog([r["C"] for r in by_buckets], [r[key] for r in by_buckets], "o-", label=label)
    axes[1, 1].set(title="dual after the pass, n = 44,000", xlabel="number of buckets C", ylabel="ms")
    axes[1, 1].legend()
    figure.savefig(path, dpi=120)


def run(options: argparse.Namespace) -> Result:
    """Everything, or with ``--quick`` the three figures at the top and little else."""
    quick, seed = options.quick, options.seed
    call = on_one_thread(lambda: measure_call(seed, dense_rounds=2 if quick else 5))
    rounds = 40 if quick else 200
    step = {"one thread": on_one_thread(lambda: measure_step_overhead(seed, rounds=rounds))}
    result: Result = {
        "seed": seed,
        "torch": torch.__version__,
        "regularizer_ms": call["regularizer_ms"],
        "dense_ms": call["dense_ms"],
        "step_overhead": step["one thread"]["default_every_step"],
        "step_overhead_every_fourth": step["one thread"]["default_every_fourth"],
        "call": call,
        "step": step,
    }
    if quick:
        return result
    threads = torch.get_num_threads()
    if threads > 1:
        step[f"{threads} threads"] = measure_step_overhead(seed, rounds=rounds)
    many = [on_one_thread(lambda: {"threads": 1, **measure_many_weights(seed, device="cpu", rounds=15)})]
    if threads > 1:
        many.append({"threads": threads, **measure_many_weights(seed, device="cpu", rounds=15)})
    if torch.cuda.is_available():
        many.append({"threads": threads, **measure_many_weights(seed, device="cuda", rounds=50)})
    return {
        **result,
        "many_weights": many,
        "backends": on_one_thread(lambda: measure_backends(seed, rounds=20)),
        "solvers": [compare_solvers(kind, count, seed, calls=500) for kind in DISTRIBUTIONS for count in COUNTS],
        "scaling": on_one_thread(lambda: measure_scaling(seed, largest=10**8, most_buckets=65_536)),
    }


def main() -> None:
    """Measure, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only one call and the training step, within 40 seconds")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    parser.add_argument("--plot", type=Path, help="PNG file for the pictures; not with --quick")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = run(options)
    print_summary(result, sys.stderr if options.json == "-" else sys.stdout)
    write_json(result, options.json)
    if options.plot and not options.quick:
        plot(result, options.plot)


if __name__ == "__main__":
    main()
