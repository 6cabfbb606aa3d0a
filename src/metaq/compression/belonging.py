"""Whether weights are those that grids of a training belong to."""

import numpy as np
from numpy.typing import NDArray

from metaq.compression.survey import BLOCK
from metaq.config import require
from metaq.model.opened import OpenedModel
from metaq.model.stored import Reader
from metaq.tensors.grid import BucketGrid, TrainedGrids

LARGEST_SHARE = 2.0**-8
"""Of a weight, what may lie between it and its reference value: rounding to bfloat16, or the step size to float16."""

LARGEST_DISTANCE = 2.0**-24
"""What may lie between them if the weight is next to nothing in float16."""


def require_on_grids(model: OpenedModel, grids: TrainedGrids) -> None:
    """Raise :class:`ConfigError` if a tensor is not on its grid, but for rounding; O(n)."""
    with Reader() as reader:
        for name, grid in grids.items():
            tensor = model.tensor(name)
            blocks = ((start, min(start + BLOCK, tensor.count)) for start in range(0, tensor.count, BLOCK))
            require(
                all(_lies_on(reader.values(tensor, *block), grid) for block in blocks),
                f"{name}: is not on the grid of the training that is given for it; weights and grids must be of the "
                "same moment: take both from regularizer.state().",
            )


def _lies_on(values: NDArray[np.float64], grid: BucketGrid) -> bool:
    """Whether all finite values are reference values, but for rounding."""
    finite = values[np.isfinite(values)]
    distances = np.abs(finite - grid.values_of(grid.assign(finite)))
    allowed = LARGEST_SHARE * np.abs(finite) + min(LARGEST_DISTANCE, LARGEST_SHARE * grid.step_size)
    return bool((distances <= allowed).all())
