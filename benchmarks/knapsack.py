"""How long the simil-knapsack takes: CVXPY, Kelley's cutting plane, hull; and how many breakpoints the hull has.

    python benchmarks/knapsack.py [--quick] [--seed 0] [--json FILE|-] [--plot FILE.png]

Five parts, after the thesis: 1,000 instances at C = 256 solved one at a time; 10,000 instances at C = 5; 44,000
weights at C = 256; the hull's time over n and over C; the number of breakpoints of random ξ and of those met when
LeNet-5 is trained with the thesis's own term. One thread. Ratios are between medians of one run; `--quick` takes
fewer instances and repeats, less than 40 s in all. Needs the extra `reference`.

Prints a table, on stderr where `--json -` takes stdout.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from scipy import stats

from metaq import BucketConfig, EntropyRegularizer, RegularizerConfig
from metaq.entropy.hull import lower_hull
from metaq.entropy.knapsack import solve_cutting_plane, solve_hull, solve_reference
from metaq.lab import data, nets
from support.results import write_json

C, SMALL_C, N = 256, 5, 44_000
CHUNK = 1_000_000
FISTA_STEPS, FISTA_ZETA = 15, 1e5
SPREAD = RegularizerConfig(
    objective="spread",
    strength=1e-6,
    grouping="global",
    buckets=BucketConfig(rule="fixed", count=C, radius=0.25),
    forward="float",
    warmup=0.0,
    refresh_every=1,
)
THESIS = {
    "instances": {"C": 256, "instances": 1000, "cvxpy_s": 3.19, "cutting_plane_s": 0.20},
    "small": {"C": 5, "instances": 10_000, "cvxpy_over_vectorised_cutting_plane": 2378},
    "large": {"C": 256, "weights": 44_000, "runs": 1000, "cutting_plane_s": 215.98, "hull_s": 18.66, "ratio": 11.58},
    "breakpoints": {"C": 256, "draws": 10_000, "maximum": 13},
}
BLUE, ORANGE, GREEN, GREY = "#0b5cad", "#c2570c", "#2f7d4f", "#6b7280"


def seconds(call: Callable[[], object], *, repeats: int) -> dict[str, float]:
    """Median, least and greatest time of `repeats` calls after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times), "repeats": repeats}


def per_instance(
    solver: Callable[..., object], w: torch.Tensor, v: torch.Tensor, xi: torch.Tensor, *, count: int
) -> dict[str, float]:
    """Time of one instance, solved alone: median, least and greatest over the first `count` rows of `w` and `xi`."""
    solver(w[:1], v, xi[0])
    times = []
    for i in range(count):
        begun = time.perf_counter()
        solver(w[i : i + 1], v, xi[i])
        times.append(time.perf_counter() - begun)
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times), "instances": count}


def measure_instances(rng: np.random.Generator, *, quick: bool) -> dict[str, Any]:
    """Part 1: instances of one weight and one ξ each at C = 256, one at a time; then 1,000 weights of one ξ at once."""
    count = 1000
    v = torch.linspace(-1, 1, C).double()
    w = torch.from_numpy(rng.uniform(-1, 1, count))
    xi = torch.from_numpy(rng.normal(size=(count, C)))
    alone = {
        "cvxpy": per_instance(solve_reference, w, v, xi, count=50 if quick else count),
        "cutting_plane": per_instance(solve_cutting_plane, w, v, xi, count=count),
        "hull": per_instance(solve_hull, w, v, xi, count=count),
    }
    together = {
        "cutting_plane": seconds(lambda: solve_cutting_plane(w, v, xi[0]), repeats=11 if quick else 51),
        "hull": seconds(lambda: solve_hull(w, v, xi[0]), repeats=11 if quick else 51),
    }
    each = {name: result["median_s"] for name, result in alone.items()}
    each |= {f"{name}_vectorised": result["median_s"] / count for name, result in together.items()}
    return {
        "C": C,
        "one_at_a_time": alone,
        "1000_at_once": together,
        "microseconds_per_instance": {name: 1e6 * value for name, value in each.items()},
        "cvxpy_over": {name: each["cvxpy"] / value for name, value in each.items()},
    }


def measure_small(rng: np.random.Generator, *, quick: bool) -> dict[str, Any]:
    """Part 2: 10,000 weights at C = 5: CVXPY one at a time and as one program, the others at once."""
    count = 10_000
    v = torch.linspace(-1, 1, SMALL_C).double()
    w = torch.from_numpy(rng.uniform(-1, 1, count))
    xi = torch.from_numpy(rng.normal(size=SMALL_C))
    cvxpy = per_instance(solve_reference, w, v, xi.expand(count, -1), count=50 if quick else 1000)
    result = {
        "C": SMALL_C,
        "cvxpy_one_at_a_time": cvxpy,
        "cvxpy_one_program": seconds(lambda: solve_reference(w, v, xi), repeats=1 if quick else 3),
        "cutting_plane": seconds(lambda: solve_cutting_plane(w, v, xi), repeats=11 if quick else 51),
        "hull": seconds(lambda: solve_hull(w, v, xi), repeats=11 if quick else 51),
    }
    for name in ("cutting_plane", "hull"):
        result[f"cvxpy_one_at_a_time_over_{name}"] = count * cvxpy["median_s"] / result[name]["median_s"]
        result[f"cvxpy_one_program_over_{name}"] = result["cvxpy_one_program"]["median_s"] / result[name]["median_s"]
    return result


def measure_large(rng: np.random.Generator, *, quick: bool) -> dict[str, Any]:
    """Part 3: 44,000 float32 weights at C = 256, cutting plane against hull, both vectorised; one ξ a repeat."""
    repeats = 11 if quick else 51
    v = torch.linspace(-1, 1, C).double()
    w = torch.from_numpy(rng.uniform(-1, 1, N)).float()
    xi = torch.from_numpy(rng.normal(size=(repeats + 1, C)))
    for_cutting_plane, for_hull = iter(xi), iter(xi)
    cutting_plane = seconds(lambda: solve_cutting_plane(w, v, next(for_cutting_plane)), repeats=repeats)
    hull = seconds(lambda: solve_hull(w, v, next(for_hull)), repeats=repeats)
    return {
        "C": C,
        "n": N,
        "cutting_plane": cutting_plane,
        "hull": hull,
        "ratio": cutting_plane["median_s"] / hull["median_s"],
    }


def measure_over_n(rng: np.random.Generator, *, quick: bool) -> list[dict[str, float]]:
    """Part 4a: the hull's time at C = 256 for 10^4 to 10^8 float32 weights, a million at a time."""
    v = torch.linspace(-1, 1, C).double()
    xi = torch.from_numpy(rng.normal(size=C))
    w = torch.from_numpy(rng.uniform(-1, 1, CHUNK)).float()

    def solve(n: int) -> None:
        for start in range(0, n, CHUNK):
            solve_hull(w[: min(n - start, CHUNK)], v, xi)

    solve(CHUNK)
    sizes = [10**power for power in range(4, 7 if quick else 9)]
    return [{"n": n, **seconds(partial(solve, n), repeats=3 if n > CHUNK or quick else 21)} for n in sizes]


def measure_over_c(rng: np.random.Generator, *, quick: bool) -> list[dict[str, Any]]:
    """Part 4b: the time of 44,000 weights for 4 to 65,536 buckets; the cutting plane where it takes seconds at most."""
    w = torch.from_numpy(rng.uniform(-1, 1, N)).float()
    rows = []
    for count in (4**power for power in range(1, 9)):
        v = torch.linspace(-1, 1, count).double()
        xi = torch.from_numpy(rng.normal(size=count))
        row: dict[str, Any] = {"C": count, "hull": measured(solve_hull, w, v, xi, repeats=5 if quick else 21)}
        if count <= (256 if quick else 4096):
            row["cutting_plane"] = measured(solve_cutting_plane, w, v, xi, repeats=3)
        rows.append(row)
    return rows


def measured(solver: Callable[..., object], *arguments: torch.Tensor, repeats: int) -> dict[str, float]:
    """Time of one solver's call."""
    return seconds(lambda: solver(*arguments), repeats=repeats)


def measure_breakpoints(rng: np.random.Generator, *, quick: bool) -> dict[str, Any]:
    """Part 5a: vertices of the lower hull, both ends counted, for random ξ; Beta distribution fitted to their share."""
    draws = 1000 if quick else 10_000
    v = np.linspace(-1, 1, C)
    laws = {"uniform": lambda: rng.uniform(size=C), "normal": lambda: rng.normal(size=C)}
    return {
        law: describe_breakpoints(np.array([breakpoints(v, draw()) for _ in range(draws)]))
        for law, draw in laws.items()
    }


def describe_breakpoints(counts: np.ndarray) -> dict[str, Any]:
    """Histogram and Beta fit; the distribution functions are compared half-way between whole numbers."""
    a, b, _, _ = stats.beta.fit(counts / C, floc=0, fscale=1)
    values = np.arange(1, counts.max() + 2)
    empirical = (counts[:, None] <= values).mean(axis=0)
    return {
        "draws": len(counts),
        "mean": float(counts.mean()),
        "maximum": int(counts.max()),
        "histogram": {int(value): int((counts == value).sum()) for value in np.unique(counts)},
        "beta_a": float(a),
        "beta_b": float(b),
        "kolmogorov_distance": float(np.abs(empirical - stats.beta.cdf((values + 0.5) / C, a, b)).max()),
    }


def breakpoints(v: np.ndarray, xi: np.ndarray) -> int:
    """Vertices of the lower hull at which its slope changes by more than rounding, and both ends."""
    vertices = lower_hull(v, xi)
    slopes = np.diff(xi[vertices]) / np.diff(v[vertices])
    rounding = 1e-9 * np.ptp(xi) / (v[1] - v[0])
    return 2 + int((np.diff(slopes) > rounding).sum())


def fista(w: torch.Tensor, v: torch.Tensor, xi: torch.Tensor) -> list[torch.Tensor]:
    """The thesis's FISTA on the dual, 15 steps of 1 / ζ with momentum from `xi`: ξ at every evaluation."""
    visited, previous, momentum = [], xi, 1.0
    for _ in range(FISTA_STEPS):
        visited.append(xi)
        solution = solve_hull(w, v, xi)
        held = torch.zeros_like(xi)
        held.index_add_(0, solution.left, solution.left_share).index_add_(0, solution.right, solution.right_share)
        current = xi + (held - (torch.exp2(xi) / np.e).clamp(0.01, len(w))) / FISTA_ZETA
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        xi, previous = current + (momentum - 1) / following * (current - previous), current
        momentum = following
    return visited


def measure_training(*, seed: int, quick: bool) -> dict[str, Any]:
    """Part 5b: LeNet-5 learns the digits under the thesis's term; breakpoints of the ξ met at every step.

    `kept` is the ξ that the regulariser keeps, the best its solver saw; `visited` are all those at which the thesis's
    FISTA evaluates the dual on the same weights, started where it ended at the step before.
    """
    steps = 60 if quick else 300
    torch.manual_seed(seed)
    images, model = data.load("digits").train, nets.create("lenet5")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=7e-4)
    regularizer = EntropyRegularizer(model, SPREAD, total_steps=steps).attach(optimizer)
    v = next(iter(regularizer.grids().values())).reference_values()
    n = sum(parameter.numel() for parameter in model.parameters())
    xi = torch.full((C,), float(np.log2(np.e * n / C)), dtype=torch.float64)
    kept, visited = [], []
    for _ in range(steps):
        batch = images.take(torch.randint(len(images), (64,), generator=generator))
        loss = torch.nn.functional.cross_entropy(model(data.to_float(batch.images)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        (kept_xi,) = regularizer.state_dict()["xi"].numpy()
        kept.append(breakpoints(v, kept_xi))
        path = fista(torch.nn.utils.parameters_to_vector(model.parameters()), torch.from_numpy(v), xi)
        visited += [breakpoints(v, point.numpy()) for point in path]
        xi = path[-1]
    return {
        "C": C,
        "steps": steps,
        "last_loss": loss.item(),
        "kept": {"median": statistics.median(kept), "maximum": max(kept), "counts": kept},
        "visited": {"median": statistics.median(visited), "maximum": max(visited), "counts": visited},
    }


def table(result: dict[str, Any]) -> str:
    """The figures as text, the thesis's beside them."""
    instances, small, large = result["instances"], result["small"], result["large"]
    each, over = instances["microseconds_per_instance"], instances["cvxpy_over"]
    lines = [f"1. one instance at C = {C} (thesis: CVXPY 3,190 µs, cutting plane 200 µs, ratio 16)"]
    lines += [f"   {name:26s} {each[name]:12.2f} µs  CVXPY over it {over[name]:12,.1f} x" for name in each]
    lines += [f"2. 10,000 instances at C = {SMALL_C} (thesis: CVXPY over vectorised cutting plane 2,378 x)"]
    for name in ("cutting_plane", "hull"):
        alone, program = small[f"cvxpy_one_at_a_time_over_{name}"], small[f"cvxpy_one_program_over_{name}"]
        lines += [f"   {name:26s} {spread(small[name])}  CVXPY alone {alone:,.0f} x, as one program {program:,.0f} x"]
    lines += [f"3. {N:,} weights at C = {C} (thesis: 216 ms against 18.7 ms, ratio 11.58)"]
    lines += [f"   {name:26s} {spread(large[name])}" for name in ("cutting_plane", "hull")]
    lines += [f"   {'ratio':26s} {large['ratio']:12.2f} x"]
    hull_each = 1e6 * large["hull"]["median_s"] / N
    lines += [f"   {'CVXPY alone over hull':26s} {each['cvxpy'] / hull_each:12,.0f} x for each of {N:,} weights"]
    lines += [f"4. hull over n at C = {C}, over C at n = {N:,}"]
    lines += [f"   n = {row['n']:<22,} {spread(row)}" for row in result["over_n"]]
    lines += [f"   C = {row['C']:<22,} {spread(row['hull'])}" for row in result["over_c"]]
    lines += [f"5. breakpoints at C = {C}, ends counted (thesis: at most 13 in 10,000)"]
    for law, drawn in result["breakpoints"].items():
        fit = f"Beta({drawn['beta_a']:.2f}, {drawn['beta_b']:.1f}), distance {drawn['kolmogorov_distance']:.3f}"
        lines += [f"   {law:26s} mean {drawn['mean']:.2f}  maximum {drawn['maximum']} of {drawn['draws']:,}  {fit}"]
    training = result["training"]
    for name, what in (("visited", "training, FISTA visits"), ("kept", "training, kept")):
        lines += [f"   {what:26s} median {training[name]['median']:g}  maximum {training[name]['maximum']}"]
    return "\n".join(lines)


def spread(times: dict[str, float]) -> str:
    """Median, least and greatest time in milliseconds."""
    return f"{1e3 * times['median_s']:12.3f} ms (min {1e3 * times['min_s']:.3f}, max {1e3 * times['max_s']:.3f})"


def plot(path: Path, result: dict[str, Any]) -> None:
    """Four panels: one instance, time over n, time over C, breakpoints."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    plot_instances(axes[0, 0], result["instances"]["microseconds_per_instance"])
    plot_over_n(axes[0, 1], result["over_n"])
    plot_over_c(axes[1, 0], result["over_c"])
    plot_breakpoints(axes[1, 1], result)
    figure.savefig(path, dpi=120)


def plot_instances(axes: Any, each: dict[str, float]) -> None:
    """Bars of the time of one instance."""
    names = {
        "cvxpy": "CVXPY, alone",
        "cutting_plane": "cutting plane, alone",
        "hull": "hull, alone",
        "cutting_plane_vectorised": "cutting plane,\n1,000 at once",
        "hull_vectorised": "hull,\n1,000 at once",
    }
    colors = [GREY, ORANGE, BLUE, ORANGE, BLUE]
    bars = axes.barh([names[name] for name in names], [each[name] for name in names], color=colors)
    axes.bar_label(
        bars, [f"{each[name]:,.0f} µs" if each[name] >= 10 else f"{each[name]:.2f} µs" for name in names], padding=4
    )
    for position, value in ((0, 3190.0), (1, 200.0)):
        label = "thesis (its machine)" if position == 0 else None
        axes.plot([value, value], [position - 0.4, position + 0.4], color="black", linestyle=":", label=label)
    axes.set_xscale("log")
    axes.set_xlim(left=0.1, right=20 * max(each.values()))
    axes.invert_yaxis()
    axes.set_xlabel("median time of one instance, µs")
    axes.set_title(f"One instance at C = {C}")
    axes.legend(frameon=False, loc="lower right")


def plot_over_n(axes: Any, rows: list[dict[str, float]]) -> None:
    """The hull's time over the number of weights."""
    n, times = np.array([row["n"] for row in rows]), np.array([row["median_s"] for row in rows])
    axes.loglog(n, times, "o-", color=BLUE, label="hull")
    axes.loglog(n, times[-1] * n / n[-1], linestyle=":", color=GREY, label="proportional to n")
    for size, duration in zip(n, times, strict=True):
        axes.annotate(
            f"{duration:.3g} s" if duration >= 1 else f"{1e3 * duration:.3g} ms",
            (size, duration),
            textcoords="offset points",
            xytext=(-6, 7),
            ha="right",
        )
    axes.set_xlim(n[0] / 20, n[-1] * 3)
    axes.set_ylim(times[0] / 3, times[-1] * 4)
    axes.set_xlabel("weights n")
    axes.set_ylabel("time, s")
    axes.set_title(f"Hull over n at C = {C}, a million weights at a time")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)


def plot_over_c(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Hull and cutting plane over the number of buckets."""
    for name, label, color in (("cutting_plane", "cutting plane", ORANGE), ("hull", "hull", BLUE)):
        measured_rows = [row for row in rows if name in row]
        times = [1e3 * row[name]["median_s"] for row in measured_rows]
        axes.annotate(
            f"{times[-1]:,.0f} ms" if times[-1] >= 10 else f"{times[-1]:.1f} ms",
            (measured_rows[-1]["C"], times[-1]),
            textcoords="offset points",
            xytext=(-4, 8),
            ha="right",
        )
        axes.loglog([row["C"] for row in measured_rows], times, "o-", color=color, label=label)
    counts = [row["C"] for row in rows]
    axes.set_xscale("log", base=4)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("buckets C")
    axes.set_ylabel("time, ms")
    axes.set_title(f"Over C at n = {N:,}")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, loc="upper left")


def plot_breakpoints(axes: Any, result: dict[str, Any]) -> None:
    """Shares of the numbers of breakpoints, with the Beta distributions fitted."""
    for law, color, shift in (("uniform", BLUE, -0.2), ("normal", GREEN, 0.2)):
        drawn = result["breakpoints"][law]
        values = np.array([int(value) for value in drawn["histogram"]])
        shares = np.array(list(drawn["histogram"].values())) / drawn["draws"]
        axes.bar(values + shift, shares, width=0.4, color=color, alpha=0.75, label=f"ξ {law}, {drawn['draws']:,} draws")
        grid = np.linspace(1, values.max() + 2, 300)
        density = stats.beta.pdf(grid / C, drawn["beta_a"], drawn["beta_b"]) / C
        fit = f"Beta({drawn['beta_a']:.1f}, {drawn['beta_b']:.0f})"
        axes.plot(grid, density, color=color, label=fit)
    axes.axvline(13, ymax=0.7, color="black", linestyle=":", label="thesis: greatest, 13")
    visited = np.array(result["training"]["visited"]["counts"])
    values, times = np.unique(visited, return_counts=True)
    axes.plot(values, times / len(visited), "D", color=ORANGE, label="ξ visited in training")
    axes.set_title(f"Breakpoints of the hull at C = {C}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(top=1.45 * axes.get_ylim()[1])
    axes.set_xlabel("breakpoints, both ends counted")
    axes.set_ylabel("share of draws")
    axes.legend(frameon=False, loc="upper left", ncols=2)


def environment() -> dict[str, Any]:
    """What the figures were measured with."""
    packages = ("torch", "numpy", "numba", "cvxpy", "clarabel")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def main() -> None:
    """Measure, print, write JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write, or - for stdout")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer instances and repeats")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    result = {
        "seed": options.seed,
        "quick": options.quick,
        "environment": environment(),
        "thesis": THESIS,
        "instances": measure_instances(rng, quick=options.quick),
        "small": measure_small(rng, quick=options.quick),
        "large": measure_large(rng, quick=options.quick),
        "over_n": measure_over_n(rng, quick=options.quick),
        "over_c": measure_over_c(rng, quick=options.quick),
        "breakpoints": measure_breakpoints(rng, quick=options.quick),
        "training": measure_training(seed=options.seed, quick=options.quick),
    }
    print(table(result), file=sys.stderr if options.json == "-" else sys.stdout)
    write_json(result, options.json)
    if options.plot:
        plot(options.plot, result)


if __name__ == "__main__":
    main()
