"""From weights to bucket indices."""

from metaq.quantize.uniform import Grouping, quantize_array, uniform_grids

__all__ = ["Grouping", "quantize_array", "uniform_grids"]
