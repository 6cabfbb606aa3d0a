"""Weights come in; their cells, the multipliers of the entropy's constraints and its value go out."""
