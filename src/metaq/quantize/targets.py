"""What of a model is quantised: its weights, with what calibration tells of how much each of them counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from metaq.config import require
from metaq.model import checkpoint
from metaq.quantize.allocation import Target
from metaq.quantize.curvature import Curvature
from metaq.quantize.rdo import Importance, central_value, matrix_shape

SHRINKAGE = 0.3
"""Share of the mean in every element's curvature: what calibration hardly touched keeps some worth."""

OUTPUT_SHRINKAGE = 1e-3
"""As ``SHRINKAGE``, for outputs of layers."""


def target_of(name: str, tensor: torch.Tensor, curvature: Mapping[str, Curvature]) -> Target:
    """The tensor and its importance; :class:`ConfigError` if it is not finite, or `curvature` does not know it."""
    values = values_of(tensor)
    require(bool(np.isfinite(values).all()), f"{name}: holds NaN or infinity, which cannot be quantised.")
    require(name in curvature, f"{name}: there is no curvature for it; exclude it or calibrate the module it is in.")
    return Target(
        name=name,
        values=values,
        dtype=checkpoint.dtype_of(name, tensor),
        importance=_importance(curvature[name], values.shape),
        center=central_value(values.reshape(matrix_shape(values.shape))),
    )


def values_of(tensor: torch.Tensor) -> NDArray[np.float64]:
    """The elements in float64."""
    values: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return values


def _importance(curvature: Curvature, shape: tuple[int, ...]) -> Importance:
    elements = curvature.diagonal.reshape(matrix_shape(shape))
    mean = max(float(elements.mean()), 1e-30)
    if elements.shape[0] > 1:
        # Single elements are too noisy to be trusted; rows and columns are not.
        elements = np.outer(elements.mean(axis=1), elements.mean(axis=0)) / mean
    smoothed = (1 - SHRINKAGE) * elements + SHRINKAGE * mean
    outputs = curvature.outputs
    if curvature.inputs is None or outputs is None:
        return Importance(elements=smoothed)
    if outputs.ndim == 1:
        outputs = outputs + OUTPUT_SHRINKAGE * max(float(outputs.mean()), 1e-30)
    return Importance(elements=smoothed, inputs=curvature.inputs, outputs=outputs)
