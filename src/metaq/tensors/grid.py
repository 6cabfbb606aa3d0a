"""Uniform bucket grids: which values a weight may take, and which of them it takes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaq.errors import ConfigError

MAX_BUCKETS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class BucketGrid:
    """C buckets of equal width that cover ``[center - radius, center + radius]`` (METHOD, section 1).

    Bucket ``b`` covers the half-open interval ``[edge_b, edge_{b+1})`` and quantises to its centre
    ``v_b = center + radius * (2 b + 1 - C) / C``. A weight on an edge belongs to the upper bucket; its distance from
    the lower end of the range is rounded to float64 before the bucket is found. Weights outside the range take the
    end bucket. With an odd C, ``v_{(C-1)/2}`` is `center` exactly.

    Attributes
    ----------
    center, radius
        Middle and half-width of the range, finite, ``radius > 0``.
    count
        Number of buckets C, at least 2.

    Raises
    ------
    ConfigError
        If a field is outside its range, or neighbouring reference values coincide in float64.

    Examples
    --------
    >>> grid = BucketGrid(center=0.0, radius=1.5, count=3)
    >>> grid.reference_values()
    array([-1.,  0.,  1.])
    >>> grid.assign(np.array([-9.0, -0.5, 0.2, 0.5]))
    array([0, 1, 1, 2])
    """

    center: float
    radius: float
    count: int

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MAX_BUCKETS:
            raise ConfigError(
                f"buckets: {self.count} is not between 2 and {MAX_BUCKETS}; a grid needs two buckets at least."
            )
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ConfigError(f"radius: {self.radius} is not a positive finite number.")
        if not math.isfinite(self.center):
            raise ConfigError(f"center: {self.center} is not a finite number.")
        span = abs(self.center) + self.radius
        if not math.isfinite(2 * span * self.count) or span + self.step_size / 4 == span:
            raise ConfigError(
                f"radius: {self.radius} with {self.count} buckets around {self.center} coincide in float64; "
                "use fewer buckets or a larger radius."
            )

    @property
    def step_size(self) -> float:
        """Distance between neighbouring reference values, ``2 radius / C``."""
        return 2.0 * self.radius / self.count

    @property
    def lower(self) -> float:
        """Left edge of the first bucket."""
        return self.center - self.radius

    def reference_values(self) -> NDArray[np.float64]:
        """The C reference values in increasing order, float64 of shape (C,)."""
        return self.values_of(np.arange(self.count, dtype=np.int64))

    def values_of(self, indices: NDArray[np.integer]) -> NDArray[np.float64]:
        """Reference values of bucket `indices` (any shape), float64 of the same shape.

        The formula is evaluated in float64 in one fixed order, so that every platform restores the same bits.
        """
        numerators = (2 * indices.astype(np.int64) + (1 - self.count)).astype(np.float64)
        return self.center + self.radius * numerators / self.count

    def assign(self, weights: NDArray[np.floating]) -> NDArray[np.int64]:
        """Bucket index of every weight: int64 of the shape of `weights`.

        Raises
        ------
        ConfigError
            If a weight is NaN or infinite.
        """
        if not np.isfinite(weights).all():
            raise ConfigError("weights: NaN or infinity cannot be quantised; repair the weights first.")
        positions = (weights.astype(np.float64) - self.lower) / self.step_size
        return np.clip(np.floor(positions), 0, self.count - 1).astype(np.int64)


class TrainedGrids(dict[str, BucketGrid]):
    """The grids that training has put weights on, by name of the tensor.

    Weights that lie elsewhere, such as those of another moment, are refused with them; on other grids they are rounded.
    """
