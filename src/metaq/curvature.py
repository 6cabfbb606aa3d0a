"""How much the loss minds an error in every weight, measured on calibration data.

The second-order term of the loss around trained weights is ``0.5 * e F e`` with the Fisher information F. For linear
and convolution layers F is taken as a Kronecker product: second moment of the inputs times mean squared gradient of
every output (Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", 2015,
with a diagonal second factor). For all other parameters it is the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from metaq.config import require

Batch = torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]
Loss = Callable[[object, torch.Generator], tuple[torch.Tensor, int]]
"""From the model's output to a sum of independent terms with mean zero gradient, and how many samples they are of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curvature:
    """Curvature of the loss for one parameter.

    Attributes
    ----------
    diagonal
        Fisher information of every element, float64, shape of the parameter.
    inputs
        Second moment of what the rows of the matrix (first dimension, all others) are multiplied with, float64
        (columns, columns); None where only the diagonal is known.
    outputs
        Mean squared gradient of every output, float64 (rows,), if `inputs` are given.
    mean_inputs
        Mean of what the rows are multiplied with, float64 (columns,), if `inputs` are given.
    """

    diagonal: NDArray[np.float64]
    inputs: NDArray[np.float64] | None = None
    outputs: NDArray[np.float64] | None = None
    mean_inputs: NDArray[np.float64] | None = None


def sampled_label_loss(output: object, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """Cross-entropy of logits, shape (samples, classes), with labels drawn from the model's own probabilities."""
    require(
        isinstance(output, torch.Tensor) and output.ndim == 2,
        "curvature: the model's output is no matrix of logits; pass a loss of your own.",
    )
    logits = output if isinstance(output, torch.Tensor) else torch.empty(0)
    probabilities = logits.detach().softmax(dim=1).cpu()
    labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
    return functional.cross_entropy(logits, labels, reduction="sum"), len(logits)


def random_projection_loss(output: object, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """Product of a tensor, shape (samples, …), with standard normal numbers: its curvature is that of squared error."""
    require(isinstance(output, torch.Tensor), "curvature: the model's output is no tensor; pass a loss of your own.")
    tensor = output if isinstance(output, torch.Tensor) else torch.empty(0)
    directions = torch.randn(tensor.shape, generator=generator).to(tensor)
    return (tensor * directions).sum(), len(tensor)


def measure(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Loss = sampled_label_loss,
    seed: int = 0,
) -> dict[str, Curvature]:
    """Curvature of every trainable parameter by name; the model's weights, gradients and mode are as before.

    Parameters
    ----------
    model
        In evaluation mode during the call.
    batches
        Inputs: tensors, tuples of positional or mappings of keyword arguments, on the model's device.
    loss
        See :data:`Loss`.
    seed
        Of the random numbers that `loss` draws.

    Raises
    ------
    ConfigError
        If there is no batch or the output does not suit the loss.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in parameters.items()}
    taps = {name: _Tap(module) for name, module in _layers(model).items()}
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    try:
        for batch in batches:
            value, count = loss(_call(model, batch), generator)
            names = list(parameters)
            gradients = torch.autograd.grad(value, [parameters[name] for name in names], allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient.detach().double().cpu() ** 2
            samples += count
    finally:
        for tap in taps.values():
            tap.remove()
        model.train(was_training)
    require(samples > 0, "curvature: there is no calibration data; give at least one batch.")
    found = {name: Curvature(diagonal=(total / samples).numpy()) for name, total in sums.items()}
    for name, tap in taps.items():
        if name in found and tap.positions:
            found[name] = Curvature(
                diagonal=found[name].diagonal,
                inputs=(tap.inputs / tap.positions).numpy(),
                outputs=(tap.outputs / samples).numpy(),
                mean_inputs=(tap.totals / tap.positions).numpy(),
            )
    return found


class _Tap:
    """Second moments of what goes into a layer and of the gradients of what comes out."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        rows = layer.weight.shape[0]
        columns = layer.weight.numel() // rows
        self.inputs = torch.zeros(columns, columns, dtype=torch.float64)
        self.totals = torch.zeros(columns, dtype=torch.float64)
        self.outputs = torch.zeros(rows, dtype=torch.float64)
        self.positions = 0
        self._layer = layer
        self._handle = layer.register_forward_hook(self._see)

    def remove(self) -> None:
        """Stop looking."""
        self._handle.remove()

    def _see(self, _: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        patches = _patches(self._layer, arguments[0].detach())
        self.inputs += (patches.T @ patches).double().cpu()
        self.totals += patches.sum(dim=0).double().cpu()
        self.positions += len(patches)
        if output.requires_grad:
            output.register_hook(self._see_gradient)  # type: ignore[no-untyped-call]

    def _see_gradient(self, gradient: torch.Tensor) -> None:
        channels = -1 if isinstance(self._layer, nn.Linear) else 1
        by_output = gradient.detach().movedim(channels, 0).flatten(1)
        self.outputs += (by_output.double() ** 2).sum(dim=1).cpu()


def _patches(layer: nn.Linear | nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """What the rows of the layer's matrix are multiplied with, shape (positions, columns)."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    columns = functional.unfold(
        inputs,
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        padding=cast(tuple[int, ...], layer.padding),
        stride=layer.stride,
    )
    return columns.movedim(1, 2).flatten(0, 1)


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers whose weight is a matrix that inputs are multiplied with, by the name of the weight."""
    found = {}
    for name, module in model.named_modules():
        is_plain = isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.groups == 1 and isinstance(module.padding, tuple)
        )
        if is_plain and module.weight.requires_grad:
            found[f"{name}.weight" if name else "weight"] = module
    return found


def _call(model: nn.Module, batch: Batch) -> object:
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple):
        return model(*batch)
    return model(batch)
