"""Letting weights that are still free make up for what the quantised ones cost the loss.

What quantising one layer does to the loss, the layers not quantised yet can undo in part: a step of Newton's method in
the curvature of :mod:`metaq.quantize.curvature`, shortened until the loss on calibration data falls. This is the error
feedback between the columns of a layer (Frantar et al., "Optimal brain compression", 2022) taken from layer to layer,
where the gradient of the loss itself takes the place of a model of it. Statistics of batch normalisation are measured
anew, as those of the original weights do not fit the quantised ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from metaq.config import require
from metaq.model.checkpoint import StateDict
from metaq.model.random_state import RandomState, random_state_kept
from metaq.model.weights import QUANTIZABLE
from metaq.quantize.curvature import Batch, call, copied
from metaq.quantize.rdo import COUPLED_DAMPING, Floats, Importance, damped
from metaq.tensors.quantized import matrix_shape

OutputLoss = Callable[[object, int], torch.Tensor]
"""From the model's output for a batch, and the number of the batch, to the mean loss of its samples."""

LONGEST = 0.5
HALVINGS = 3
"""Newton steps of a half, a quarter, … are tried: curvatures of layers add up where layers move together."""

SEARCH_STRIDE = 4
"""The length of a step is chosen on every so-manieth batch."""


class Recovery:
    """The loss of a model on calibration data, and steps that lower it.

    The model is copied, and evaluated in evaluation mode; batches are on its device. Raises :class:`ConfigError` if
    there is none, or the model cannot be copied.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], loss: OutputLoss) -> None:
        require(len(batches) > 0, "training_loss: there is no calibration data; give at least one batch.")
        self._model = copied(model)
        for parameter in self._model.parameters():
            if parameter.dtype in QUANTIZABLE:
                parameter.requires_grad_(True)
        self._batches = batches
        self._loss = loss
        self._noise = RandomState(self._model)

    def loss(self, weights: StateDict) -> float:
        """Mean over the batches by which the length of a step is chosen, with the same random numbers every time."""
        self._model.load_state_dict(weights)
        some = range(0, len(self._batches), SEARCH_STRIDE)
        with torch.no_grad(), random_state_kept(self._model):
            self._noise.restore()
            return sum(float(self._of(number)) for number in some) / len(some)

    def improved(self, weights: StateDict, free: Mapping[str, Importance]) -> StateDict:
        """The state dict, moved where it is `free`, by name, so that the loss is lower, or as it is."""
        best, gradients = self.loss(weights), self._gradients(weights, list(free))
        # Pruned weights stay so.
        steps = {
            name: direction(gradients[name], importance) * (weights[name] != 0).cpu().numpy()
            for name, importance in free.items()
        }
        chosen, length = weights, LONGEST
        for _ in range(1 + HALVINGS):
            moved = {
                name: weights[name] - length * torch.from_numpy(step).to(weights[name]) for name, step in steps.items()
            }
            tried = {**weights, **moved}
            loss = self.loss(tried)
            if loss < best:
                best, chosen = loss, tried
            elif chosen is not weights:
                break
            length /= 2
        return chosen

    def _of(self, number: int) -> torch.Tensor:
        return self._loss(call(self._model, self._batches[number]), number)

    def _gradients(self, weights: StateDict, names: list[str]) -> dict[str, Floats]:
        """Gradients of the mean loss over all batches by name, float64."""
        self._model.load_state_dict(weights)
        parameters = dict(self._model.named_parameters())
        sums = {name: torch.zeros_like(parameters[name], dtype=torch.float64) for name in names}
        for number in range(len(self._batches)):
            with torch.enable_grad():
                loss = self._of(number)
            found = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient
        return {name: (total / len(self._batches)).cpu().numpy() for name, total in sums.items()}


def direction(gradient: Floats, importance: Importance) -> Floats:
    """Step of Newton's method, to be subtracted, float64 of the shape of `gradient`, in the damped curvature."""
    matrix = gradient.reshape(matrix_shape(gradient.shape))
    if importance.inputs is None or importance.outputs is None:
        curvature = importance.elements + COUPLED_DAMPING * max(importance.mean, 1e-30)
        return (matrix / curvature).reshape(gradient.shape)
    by_column = np.linalg.solve(damped(importance.inputs.astype(np.float64), COUPLED_DAMPING), matrix.T).T
    if importance.outputs.ndim == 2:
        return np.linalg.solve(damped(importance.outputs, COUPLED_DAMPING), by_column).reshape(gradient.shape)
    outputs = importance.outputs + COUPLED_DAMPING * max(float(importance.outputs.mean()), 1e-30)
    return (by_column / outputs[:, None]).reshape(gradient.shape)


def recalibrated(model: nn.Module, batches: Iterable[Batch], weights: StateDict) -> StateDict:
    """Running means and variances over `batches` under `weights`, by their names in the state dict.

    Everything but batch normalisation is in evaluation mode; normalisations without running statistics, and those that
    no batch reaches, are left out. `model` is not changed.
    """
    measured = copied(model)
    measured.load_state_dict(weights)
    norms = {name: module for name, module in measured.named_modules() if isinstance(module, _BatchNorm)}
    tracking = {name: norm for name, norm in norms.items() if norm.track_running_stats}
    for norm in tracking.values():
        norm.reset_running_stats()
        # A cumulative average: every batch counts the same.
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches:
            call(measured, batch)
    return {
        f"{name}.{kind}" if name else kind: getattr(norm, kind).detach().clone()
        for name, norm in tracking.items()
        for kind in ("running_mean", "running_var")
        if norm.num_batches_tracked
    }
