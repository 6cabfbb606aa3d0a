"""GPTQ with groups of columns, from its paper: rounding column by column, the columns still to come make up for it.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate post-training quantization for generative pre-trained
transformers" (2023), algorithm 1, with what the authors' code adds: damping by a hundredth of the mean of the diagonal,
columns that no input reaches set to 0, grids searched for the least error to the power 2.4, blocks of the model one
after the other, each with the inputs that the quantised ones before it give. With `by_size`, columns with the largest
second moment come first and grids are found before anything is rounded, so that no order is stored.

All layers of type ``nn.Linear`` are quantised so; all other matrices as q4_K of support/peers.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from metaq.quantize.curvature import call
from support import peers
from support.case import Case

DAMPING = 0.01
BLOCK_COLUMNS = 128
ERROR_POWER = 2.4
SHRINKS = 1 - np.arange(80) / 100
"""Ranges of a grid that are tried, over the range of the weights."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How to quantise."""

    bits: int
    group: int
    by_size: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return f"GPTQ at {self.bits} bits in groups of {self.group}{' by size' if self.by_size else ''}"


SETTINGS = tuple(
    Setting(bits=bits, group=group, by_size=by_size)
    for bits, group in ((4, 128), (4, 32), (3, 128), (3, 32), (2, 128), (2, 32))
    for by_size in (False, True)
)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Steps and integers of zero of every row, each of shape (rows, 1); steps are what float16 holds."""

    steps: torch.Tensor
    zeros: torch.Tensor
    most: int

    def integers(self, weights: torch.Tensor) -> torch.Tensor:
        """The nearest integers."""
        return ((weights / self.steps).round() + self.zeros).clamp(0, self.most)

    def restored(self, integers: torch.Tensor) -> torch.Tensor:
        """Weights."""
        return self.steps * (integers - self.zeros)


def searched_grid(weights: torch.Tensor, bits: int) -> Grid:
    """The grid of each row of a group of columns, shape (rows, columns)."""
    most = (1 << bits) - 1
    lowest = weights.amin(dim=1, keepdim=True).clamp(max=0)
    highest = weights.amax(dim=1, keepdim=True).clamp(min=0)
    best_error = torch.full_like(lowest, torch.inf)
    best_steps, best_zeros = torch.ones_like(lowest), torch.zeros_like(lowest)
    for shrink in SHRINKS:
        steps = (shrink * (highest - lowest) / most).half().float()
        steps = torch.where(steps > 0, steps, torch.ones_like(steps))
        grid = Grid(steps=steps, zeros=(-shrink * lowest / steps).round().clamp(0, most), most=most)
        error = (grid.restored(grid.integers(weights)) - weights).abs().pow(ERROR_POWER).sum(dim=1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_steps = torch.where(is_better, steps, best_steps)
        best_zeros = torch.where(is_better, grid.zeros, best_zeros)
    return Grid(steps=best_steps, zeros=best_zeros, most=most)


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A matrix: integers and what they restore, both (rows, columns), and the grid of every group."""

    integers: torch.Tensor
    restored: torch.Tensor
    grids: Sequence[Grid]


def rounded(weights: torch.Tensor, moment: torch.Tensor, setting: Setting) -> Rounded:
    """Round `weights`, (rows, columns), so that the error under the inputs' `moment`, (columns, columns), is small."""
    weights, moment = weights.clone(), moment.double().clone()
    is_dead = moment.diagonal() == 0
    moment.diagonal()[is_dead] = 1
    weights[:, is_dead] = 0
    columns = weights.shape[1]
    starts = range(0, columns, setting.group)
    grids: list[Grid] = []
    order = torch.arange(columns)
    if setting.by_size:
        order = moment.diagonal().argsort(descending=True)
        grids = [searched_grid(weights[:, start : start + setting.group], setting.bits) for start in starts]
    weights, moment = weights[:, order], moment[order][:, order]
    moment.diagonal().add_(DAMPING * moment.diagonal().mean())
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moment)), upper=True).float()
    integers, restored = torch.empty_like(weights), torch.empty_like(weights)
    for first in range(0, columns, BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, columns)
        errors = torch.zeros(len(weights), last - first)
        for column in range(first, last):
            if not setting.by_size and column % setting.group == 0:
                grids.append(searched_grid(weights[:, column : column + setting.group], setting.bits))
            grid = grids[int(order[column]) // setting.group]
            values = weights[:, column : column + 1]
            integers[:, column : column + 1] = grid.integers(values)
            restored[:, column : column + 1] = grid.restored(integers[:, column : column + 1])
            error = (values - restored[:, column : column + 1]) / factor[column, column]
            weights[:, column:last] -= error * factor[column, column:last]
            errors[:, column - first] = error[:, 0]
        weights[:, last:] -= errors @ factor[first:last, last:]
    back = order.argsort()
    return Rounded(integers=integers[:, back], restored=restored[:, back], grids=grids)


def layers_of(case: Case) -> dict[str, nn.Linear]:
    """Linear layers whose weight the other ways quantise, by the name of the weight."""
    return {
        f"{name}.weight": module
        for name, module in case.model.named_modules()
        if type(module) is nn.Linear and peers.is_quantized(case.state[f"{name}.weight"])
    }


def stage_of(name: str) -> str:
    """Layers of one block of the model are quantised together: what precedes a number in the name, and that."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else name


class SeenEnoughError(Exception):
    """What is left of the model has no part in this stage."""


def moments(case: Case, layers: dict[str, nn.Linear], later: Sequence[nn.Linear]) -> dict[str, torch.Tensor]:
    """Second moments of the inputs of `layers`, 1 where none is seen; the model stops where one of `later` begins."""
    found = {name: torch.zeros(layer.in_features, layer.in_features) for name, layer in layers.items()}
    seen = dict.fromkeys(layers, 0)

    def see(name: str, inputs: torch.Tensor) -> None:
        flat = inputs.detach().reshape(-1, inputs.shape[-1])
        found[name] += flat.T @ flat
        seen[name] += len(flat)

    def stop(*_: object) -> None:
        raise SeenEnoughError

    handles = [
        layer.register_forward_pre_hook(lambda _, arguments, name=name: see(name, arguments[0]))
        for name, layer in layers.items()
    ]
    handles += [layer.register_forward_pre_hook(stop) for layer in later]
    try:
        with torch.no_grad():
            for batch in case.calibration:
                try:
                    call(case.model, batch)
                except SeenEnoughError:
                    continue
    finally:
        for handle in handles:
            handle.remove()
    return {name: moment / seen[name] if seen[name] else torch.eye(len(moment)) for name, moment in found.items()}


def applied(case: Case, setting: Setting) -> tuple[dict[str, torch.Tensor], int]:
    """The weights that GPTQ restores, and its bytes; the model is as before afterwards."""
    layers = layers_of(case)
    others = {name: tensor for name, tensor in case.state.items() if name not in layers}
    restored, size = peers.applied(peers.named("q4_K"), others)
    streams = peers.Streams(bits=setting.bits)
    stages: dict[str, list[str]] = {}
    for name in layers:
        stages.setdefault(stage_of(name), []).append(name)
    names = list(stages.values())
    try:
        case.model.load_state_dict(restored, strict=False)
        for number, stage in enumerate(names):
            later = [layers[name] for following in names[number + 1 : number + 2] for name in following]
            found = moments(case, {name: layers[name] for name in stage}, later)
            for name in stage:
                done = rounded(layers[name].weight.detach(), found[name], setting)
                layers[name].weight.data.copy_(done.restored)
                restored[name] = done.restored
                streams.integers.append(done.integers.byte().numpy())
                for values in ([grid.steps.half() for grid in done.grids], [grid.zeros.byte() for grid in done.grids]):
                    streams.scales.append(torch.cat(values, dim=1).numpy().tobytes())
    finally:
        case.model.load_state_dict(case.state)
    return {name: restored[name] for name in case.state}, size + streams.size_bytes()


def settings(case: Case) -> Iterator[Setting]:
    """Those to try: none where there is no linear layer."""
    return iter(SETTINGS if layers_of(case) else ())
