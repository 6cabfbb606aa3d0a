"""Whether weights are those that grids of a training belong to."""

import numpy as np
from numpy.typing import NDArray

from metaq.compression.survey import BLOCK
from metaq.config import require
from metaq.model.opened import OpenedModel
from metaq.model.stored import Reader
from metaq.tensors.grid import BucketGrid, TrainedGrids
from metaq.tensors.quantized import Dtype

STEP_ERROR = 2.0**-11
"""Relative error of a step size that is rounded to float16, as files have them."""

PRECISION = {Dtype.float64: 2.0**-53, Dtype.float32: 2.0**-24, Dtype.float16: 2.0**-11, Dtype.bfloat16: 2.0**-8}
"""Largest relative error of a value that is rounded to a type; the steps of narrower ones tell nothing."""

MARGIN, LEAST_SHARE = 1.01, 1e-6
"""Beyond errors of rounding, for the arithmetic that finds them; the second as a share of a step size."""

LEAST_FLOAT16_ERROR = 2.0**-25
"""Below the normal range of float16, errors are no longer relative."""


def require_on_grids(model: OpenedModel, grids: TrainedGrids) -> None:
    """Raise :class:`ConfigError` if a tensor is not on its grid, but for rounding; O(n)."""
    with Reader() as reader:
        for name, grid in grids.items():
            tensor = model.tensor(name)
            precision = PRECISION.get(tensor.dtype, 1.0)
            least = LEAST_FLOAT16_ERROR if tensor.dtype is Dtype.float16 else 0.0
            blocks = ((start, min(start + BLOCK, tensor.count)) for start in range(0, tensor.count, BLOCK))
            require(
                all(_lies_on(reader.values(tensor, *block), grid, precision, least) for block in blocks),
                f"{name}: is not on the grid of the training that is given for it; weights and grids must be of the "
                "same moment: take both from regularizer.state().",
            )


def _lies_on(values: NDArray[np.float64], grid: BucketGrid, precision: float, least: float) -> bool:
    """Whether all finite values are reference values, but for a rounded step size and rounded values."""
    finite = values[np.isfinite(values)]
    distances = np.abs(finite - grid.values_of(grid.assign(finite)))
    rounding = STEP_ERROR * np.abs(finite - grid.center) + np.maximum(precision * np.abs(finite), least)
    return bool((distances <= MARGIN * rounding + LEAST_SHARE * grid.step_size).all())
