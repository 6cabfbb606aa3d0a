"""What the regulariser costs on a GPU: per training step, per call against the memory's bandwidth, and in memory.

    python benchmarks/gpu.py [--quick] [--device cuda] [--rounds 30] [--json FILE or -] [--plot FILE.png]

Steps are those of a ResNet-50 (batch 64, 224 × 224) and of a GPT-2 of 124 million weights (batch 8, 512 tokens),
autocast to bfloat16, with fused optimisers. A round runs four steps without the regulariser, four with slopes refreshed
once, and four with slopes refreshed in each; medians of the rounds are compared. The same model and optimiser serve all
three. Without a GPU, or with --quick, small networks on the CPU stand in, to see that everything runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional

from metaq import ConfigError, EntropyRegularizer, RegularizerConfig
from metaq.lab.train import device_named
from support.large_models import LanguageModel, resnet
from support.results import write_json

Result = dict[str, Any]
STEPS = 1 << 20
WAYS = {"none": None, "every fourth step": 4, "every step": 1}
LIMITS = {"every fourth step": 3.0, "every step": 10.0}
"""Percent of a ResNet-50's step that are allowed."""

STRENGTH = 1e-9
"""Small, so that the networks learn nothing that would change how long a step takes."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its optimiser, and one forward and backward pass."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    backward: Callable[[], None]


def image_case(device: torch.device, *, is_small: bool) -> Case:
    """ResNet-50 and SGD with momentum."""
    model = (resnet(width=8, blocks=(1, 1), classes=10) if is_small else resnet()).to(device)
    model = model.to(memory_format=torch.channels_last)
    batch, side, classes = (4, 32, 10) if is_small else (64, 224, 1000)
    images = torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)
    return Case(
        name="ResNet-50, batch 64" if not is_small else "small ResNet",
        model=model,
        optimizer=optimizer,
        backward=lambda: backward(device, lambda: functional.cross_entropy(model(images), labels)),
    )


def language_case(device: torch.device, *, is_small: bool) -> Case:
    """GPT-2 and AdamW."""
    small = {"width": 32, "depth": 2, "heads": 2, "vocabulary": 100, "context": 32}
    model = (LanguageModel(**small) if is_small else LanguageModel()).to(device)
    batch, length, vocabulary = (2, 16, 100) if is_small else (8, 512, 50257)
    tokens = torch.randint(vocabulary, (batch, length + 1), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def loss() -> torch.Tensor:
        return functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    return Case(
        name="GPT-2, 124 M" if not is_small else "small GPT-2",
        model=model,
        optimizer=optimizer,
        backward=lambda: backward(device, loss),
    )


def backward(device: torch.device, loss: Callable[[], torch.Tensor]) -> None:
    """Gradients of the loss, computed in bfloat16."""
    with torch.autocast(device.type, dtype=torch.bfloat16):
        value = loss()
    torch.autograd.backward(value)


def wait(device: torch.device) -> None:
    """Until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, with the device idle before and after."""
    wait(device)
    begun = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begun


def step_overhead(case: Case, device: torch.device, *, rounds: int) -> Result:
    """Median milliseconds of four steps, over four, without the regulariser and with it."""

    def steps() -> None:
        for _ in range(4):
            case.optimizer.zero_grad()
            case.backward()
            case.optimizer.step()

    times: dict[str, list[float]] = {way: [] for way in WAYS}
    regularizers = {
        way: EntropyRegularizer(
            case.model, RegularizerConfig(strength=STRENGTH, warmup=0.0, refresh_every=every), total_steps=STEPS
        )
        for way, every in WAYS.items()
        if every is not None
    }
    for number in range(rounds + 3):
        for way in WAYS:
            if way in regularizers:
                regularizers[way].attach(case.optimizer)
            seconds = seconds_of(steps, device)
            if way in regularizers:
                regularizers[way].detach()
            if number >= 3:
                times[way].append(1000 * seconds / 4)
    medians = {way: statistics.median(values) for way, values in times.items()}
    return {
        "case": case.name,
        "weights": sum(parameter.numel() for parameter in case.model.parameters()),
        "step_ms": medians,
        "overhead_percent": {way: 100 * (medians[way] / medians["none"] - 1) for way in LIMITS},
    }


def call_throughput(device: torch.device, *, weights: int, rounds: int) -> Result:
    """Bytes of weights a second in a call that refreshes, beside those of a plain copy."""
    parameter = nn.Parameter(torch.randn(weights, device=device) * 0.02)
    parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    model = nn.ParameterList([parameter])
    config = RegularizerConfig(strength=STRENGTH, warmup=0.0, refresh_every=1)
    regularizer = EntropyRegularizer(model, config, total_steps=STEPS).attach(optimizer)
    other = torch.empty_like(parameter)
    calls: dict[str, Callable[[], object]] = {
        "before_step": regularizer.before_step,
        "after_step": regularizer.after_step,
        "copy": lambda: other.copy_(parameter.detach()),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            seconds = seconds_of(call, device)
            if number >= 2:
                times[name].append(seconds)
    gigabytes = parameter.numel() * parameter.element_size() / 1e9
    rates = {name: gigabytes / statistics.median(values) for name, values in times.items()}
    return {"weights": weights, "weight_gigabytes_per_second": rates}


def call_memory(device: torch.device, *, weights: int) -> Result:
    """Bytes a weight that the regulariser keeps, and that a call takes beside."""
    parameter = nn.Parameter(torch.randn(weights, device=device) * 0.02)
    parameter.grad = torch.zeros_like(parameter)
    config = RegularizerConfig(strength=STRENGTH, warmup=0.0, refresh_every=1)
    before = torch.cuda.memory_allocated(device)
    regularizer = EntropyRegularizer(nn.ParameterList([parameter]), config, total_steps=STEPS)
    regularizer.before_step()
    regularizer.after_step()
    kept = torch.cuda.memory_allocated(device) - before
    torch.cuda.reset_peak_memory_stats(device)
    regularizer.before_step()
    regularizer.after_step()
    peak = torch.cuda.max_memory_allocated(device) - before - kept
    return {"weights": weights, "kept_bytes_per_weight": kept / weights, "call_bytes_per_weight": peak / weights}


def largest_that_fits(device: torch.device) -> Result:
    """Weights of the largest float32 tensor, to a power of two, that can be trained with its gradient."""
    weights = 1 << 24
    while True:
        torch.cuda.empty_cache()
        try:
            call_memory(device, weights=2 * weights)
        except torch.cuda.OutOfMemoryError:
            return {"largest_weights": weights}
        weights *= 2


def measure(device: torch.device, *, is_small: bool, rounds: int, log: TextIO) -> Result:
    """All figures."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"On {name}:", file=log, flush=True)
    result: Result = {"device": name, "is_small": is_small, "steps": []}
    for make in (image_case, language_case):
        row = step_overhead(make(device, is_small=is_small), device, rounds=rounds)
        result["steps"].append(row)
        print(describe(row), file=log, flush=True)
    result["throughput"] = call_throughput(device, weights=1 << (14 if is_small else 27), rounds=rounds)
    print(f"Throughput: {result['throughput']}", file=log, flush=True)
    if device.type == "cuda":
        result["memory"] = call_memory(device, weights=1 << 27)
        print(f"Memory: {result['memory']}", file=log, flush=True)
        result["largest"] = largest_that_fits(device)
        print(f"Largest tensor: {result['largest']}", file=log, flush=True)
    result["meets_limits"] = meets_limits(result["steps"][0])
    return result


def meets_limits(row: Result) -> bool:
    """Whether the overhead of a ResNet-50's step is within ``LIMITS``."""
    return all(row["overhead_percent"][way] <= limit for way, limit in LIMITS.items())


def describe(row: Result) -> str:
    """One line."""
    steps = ", ".join(f"{way} {milliseconds:.2f} ms" for way, milliseconds in row["step_ms"].items())
    overheads = ", ".join(f"{way} {percent:.1f} %" for way, percent in row["overhead_percent"].items())
    return f"{row['case']} ({row['weights']:,} weights): {steps}; overhead {overheads}"


def plot(result: Result, path: Path) -> None:
    """Overheads as bars."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for number, row in enumerate(result["steps"]):
        places = [number + 0.4 * way for way in range(len(LIMITS))]
        bars = axes.bar(places, list(row["overhead_percent"].values()), width=0.38, color=["C0", "C1"])
        axes.bar_label(bars, fmt="%.1f %%")
    axes.set_xticks([number + 0.2 for number in range(len(result["steps"]))], [row["case"] for row in result["steps"]])
    axes.set_ylabel("longer step, percent")
    axes.set_title(f"Slopes refreshed every fourth (blue) and every step (orange), {result['device']}")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Measure, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    parser.add_argument("--rounds", type=int, default=30, help="rounds whose median is taken")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    torch.manual_seed(options.seed)
    try:
        device = device_named(options.device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    is_small = options.quick or device.type != "cuda"
    result = measure(device, is_small=is_small, rounds=2 if is_small else options.rounds, log=log)
    write_json(result, options.json)
    if options.plot:
        plot(result, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
